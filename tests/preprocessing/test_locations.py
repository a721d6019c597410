import numpy as np
import pytest

from autoseg.preprocessing import locations
from autoseg.preprocessing.locations import MAX_LOCATIONS, draw_locations
from tests.preprocessing.cases import LABELS, REGIONS


def test_small_targets_are_kept_whole():
    labels = np.zeros((2, 3, 4), dtype=np.int16)
    labels[1, 2, 3], labels[0, 0, 1] = 1, 1
    found, counts = draw_locations("x", labels, LABELS)
    assert counts == (2, 0)
    assert found[0].tolist() == [1, 23]
    assert found[0].dtype == np.int32
    assert found[1].size == 0


def test_regions_are_unions_and_annotated_voxels_are_kept_beside_an_ignore_label():
    labels = np.array([[[0, 1, 2, 3, 2]]], dtype=np.int16)  # 3 is the ignore index of two classes and background
    found, counts = draw_locations("x", labels, REGIONS)
    assert counts == (3, 2)
    assert {number: voxels.tolist() for number, voxels in found.items()} == {0: [1, 2, 4], 1: [2, 4], 2: [0, 1, 2, 4]}


def test_large_targets_are_a_fair_draw_that_depends_on_the_case_alone():
    labels = np.ones((20, 40, 50), dtype=np.int16)
    labels[10:] = 2
    found, counts = draw_locations("x", labels, LABELS)
    again, _ = draw_locations("x", labels, LABELS)
    other, _ = draw_locations("y", labels, LABELS)
    assert counts == (20_000, 20_000)
    for number in (0, 1):
        drawn = found[number]
        assert len(np.unique(drawn)) == MAX_LOCATIONS
        assert (labels.ravel()[drawn] == number + 1).all()
        np.testing.assert_array_equal(drawn, again[number])
        assert not np.array_equal(drawn, other[number])
        # half of the voxels of every slab: 1000 of 2000 with a deviation of about 22
        share = np.bincount(drawn // 2000, minlength=20)[number * 10 : number * 10 + 10]
        assert np.abs(share - 1000).max() < 120


def test_agrees_with_one_pass_a_class(monkeypatch):
    monkeypatch.setattr(locations, "MAX_LOCATIONS", 10**6)
    labels = np.random.default_rng(0).integers(0, 4, (5, 6, 7)).astype(np.int16)
    found, _ = draw_locations("x", labels, LABELS)
    for number in (0, 1):
        np.testing.assert_array_equal(found[number], np.flatnonzero(labels == number + 1))


@pytest.mark.parametrize("value", [0, 1])
def test_one_voxel(value):
    found, counts = draw_locations("x", np.full((1, 1, 1), value, dtype=np.int16), LABELS)
    assert counts == (value, 0)
    assert found[0].tolist() == [0] * value
