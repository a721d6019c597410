"""Ensembles: one pass over slabs equals averaging whole volumes; ranking prefers the simpler of equals."""

import numpy as np
import pytest

from autoseg.inference import export
from autoseg.metrics.overlap import confusion_matrix
from autoseg.records.labels import LabelScheme, Target
from autoseg.selection.ensembles import count_ensembles, rank, subsets

TWO = LabelScheme(class_names=("background", "a", "b"), class_values=(0, 1, 2), num_entries=3)
REGIONS = TWO.model_copy(
    update={
        "regions": (Target(name="whole", members=(1, 2)), Target(name="core", members=(2,))),
        "region_order": (1, 2),
    }
)


def matrix(tp: int, fp: int, fn: int) -> np.ndarray:
    """Counts of class a alone."""
    return np.array([[100, fp, 0], [fn, tp, 0], [0, 0, 0]])


def test_subsets_are_all_and_single_ones_come_first() -> None:
    assert subsets(["x", "y", "z"]) == [("x",), ("y",), ("z",), ("x", "y"), ("x", "z"), ("y", "z"), ("x", "y", "z")]


@pytest.mark.parametrize("labels", [TWO, REGIONS])
def test_one_pass_over_slabs_equals_whole_volumes(labels: LabelScheme, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    shape = (labels.num_heads, 7, 6, 5)
    volumes = {name: rng.random(shape).astype(np.float16) for name in ("x", "y", "z")}
    reference = rng.integers(0, 3, shape[1:])
    monkeypatch.setattr(export, "_VALUES_PER_SLAB", shape[0] * 6 * 5 * 3)  # slabs of three rows
    readers = {name: (lambda rows, v=v: v[:, rows]) for name, v in volumes.items()}
    found = count_ensembles(readers, shape, reference, labels)
    assert len(found) == 7
    for members, counts in found.items():
        mean = sum(volumes[name].astype(np.float32) for name in members) / len(members)
        if labels.has_regions:
            classes = np.where(mean[1] > 0.5, 2, np.where(mean[0] > 0.5, 1, 0))
        else:
            classes = mean.argmax(0)
        np.testing.assert_array_equal(counts, confusion_matrix(classes, reference, labels))


def test_the_best_comes_first() -> None:
    counts = {"case": {("x",): matrix(5, 5, 5), ("y",): matrix(9, 1, 1), ("x", "y"): matrix(8, 1, 1)}}
    ranked = rank(counts, TWO, {"case": 1.0})
    assert [c.configurations for c in ranked] == [("y",), ("x", "y"), ("x",)]
    assert ranked[0].dice.mean == pytest.approx(18 / 20)
    assert ranked[0].targets["b"].mean is None


def test_the_simpler_of_equals_is_preferred() -> None:
    close = {("x",): matrix(500_000, 50_000, 50_000), ("x", "y"): matrix(500_010, 50_000, 49_990)}
    assert rank({"case": close}, TWO, {"case": 1.0})[0].configurations == ("x",)
    apart = {("x",): matrix(500, 50, 50), ("x", "y"): matrix(510, 50, 40)}
    assert rank({"case": apart}, TWO, {"case": 1.0})[0].configurations == ("x", "y")


def test_cases_without_any_target_do_not_count() -> None:
    counts = {"full": {("x",): matrix(9, 1, 1)}, "empty": {("x",): matrix(0, 0, 0)}}
    best = rank(counts, TWO, {"full": 1.0, "empty": 1.0})[0]
    assert best.dice.num_cases == 1
    assert best.dice.mean == pytest.approx(0.9)
