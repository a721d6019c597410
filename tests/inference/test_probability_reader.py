"""Probabilities read piece by piece are those of the whole, and no more than asked for is read."""

from pathlib import Path

import numpy as np
import pytest

from autoseg.inference import export
from autoseg.inference.export import mean_probabilities
from autoseg.inference.probability_reader import classes_from_probabilities, in_file, mean_reader
from autoseg.inference.temperature import tempered, tempered_pieces
from autoseg.storage.arrays import write_array
from tests.inference.whole import in_memory
from tests.postprocessing.test_find import REGIONS, TWO

SHAPE = (3, 7, 5, 4)


def random_probabilities(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    values = np.random.default_rng(seed).exponential(size=shape)
    return (values / values.sum(0)).astype(np.float16)


@pytest.fixture
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_VALUES_PER_SLAB", 2 * 3 * 5 * 4)  # two rows


def test_slabs_put_together_are_the_whole(tmp_path: Path, small_slabs: None) -> None:
    values = random_probabilities(1)
    write_array(tmp_path / "stored.b2nd", values)
    for pieces in (in_memory(values), in_file(tmp_path / "stored.b2nd")):
        rows, slabs = zip(*pieces.slabs(), strict=True)
        assert [(where.start, where.stop) for where in rows] == [(0, 2), (2, 4), (4, 6), (6, 7)]
        np.testing.assert_array_equal(np.concatenate(slabs, 1), values)


def test_a_mean_is_rounded_as_the_mean_of_whole_volumes(small_slabs: None) -> None:
    first, second, third = (random_probabilities(seed) for seed in (1, 2, 3))
    mean = mean_reader([in_memory(one) for one in (first, second, third)])
    wanted = mean_probabilities([first, second, third])
    np.testing.assert_array_equal(np.concatenate([slab for _, slab in mean.slabs()], 1), wanted)
    alone = in_memory(first)
    assert mean_reader([alone]) is alone


@pytest.mark.parametrize("labels", [TWO, REGIONS])
def test_classes_and_temperatures_do_not_depend_on_slabs(tmp_path: Path, monkeypatch, labels) -> None:
    values = random_probabilities(4)
    write_array(tmp_path / "stored.b2nd", values)
    whole = classes_from_probabilities([in_memory(tempered(values, 2.0, labels))], labels)
    monkeypatch.setattr(export, "_VALUES_PER_SLAB", 1)
    warm = tempered_pieces(tmp_path / "stored.b2nd", 2.0, labels)
    np.testing.assert_array_equal(classes_from_probabilities([warm], labels), whole)
