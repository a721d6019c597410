"""Corrections: each finds its own error with the right size and direction, and agrees with a longer computation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from autoseg.auditing import corrections
from autoseg.auditing.corrections import Correction, measure_corrections
from tests.auditing.small import SPACING, cube, small_evidence, sure

SHAPE = (16, 24, 20)
TRUE = cube(SHAPE, ((4, 8, 2), (9, 16, 7), 1), ((5, 9, 12), (11, 15, 18), 2))


def correction_of(reference: np.ndarray, kind: str, targets: tuple[int, ...], truth: np.ndarray = TRUE) -> Correction:
    found = measure_corrections(small_evidence(reference, sure(truth)), [(0, 1)])
    return next(correction for correction in found if correction.kind == kind and correction.targets == targets)


def test_exchanged_sides() -> None:
    wrong = np.choose(TRUE, [0, 2, 1])
    correction = correction_of(wrong, "swapped", (0, 1))
    assert correction.before == (0.0, 0.0)
    assert correction.after == (1.0, 1.0)
    assert correction_of(TRUE, "swapped", (0, 1)).after == (0.0, 0.0)


def test_one_side_labelled_as_the_other() -> None:
    correction = correction_of(np.where(TRUE == 1, 2, 0), "swapped", (0, 1))
    assert correction.after == (1.0, 0.0)
    assert correction.mean_before == 0


@pytest.mark.parametrize(("axis", "world"), [(0, 2), (1, 1), (2, 0)])
def test_mirrored_along_each_axis(axis: int, world: int) -> None:
    lopsided = cube(SHAPE, ((1, 2, 3), (6, 9, 7), 1), ((7, 10, 3), (11, 15, 18), 2))
    correction = correction_of(np.flip(lopsided, axis), "mirrored", (0, 1), lopsided)
    assert correction.axis == world
    assert correction.after == (1.0, 1.0)


@given(offset=st.tuples(st.integers(-4, 4), st.integers(-5, 5), st.integers(-2, 2)))
@settings(max_examples=25)
def test_a_shift_is_found_with_its_way_in_the_patient(offset: tuple[int, int, int]) -> None:
    wrong = np.roll(TRUE, offset, axis=(0, 1, 2))
    correction = correction_of(wrong, "shifted", (0, 1))
    z, y, x = offset
    assert correction.after == (1.0, 1.0)
    assert correction.move_mm == pytest.approx((-x * SPACING[2], -y * SPACING[1], -z * SPACING[0]))


def test_a_shift_of_one_target_leaves_the_other() -> None:
    moved = np.where(TRUE == 2, 2, 0)
    moved[np.roll(TRUE == 1, -3, axis=1)] = 1
    correction = correction_of(moved, "shifted", (0,))
    assert correction.move_mm == pytest.approx((0, 3, 0))
    assert correction_of(moved, "shifted", (1,)).move_mm == (0, 0, 0)


def test_a_thin_structure_beside_itself_is_found() -> None:
    line = cube(SHAPE, ((2, 8, 9), (14, 9, 10), 1))
    correction = correction_of(np.roll(line, 4, axis=1), "shifted", (0,), line)
    assert correction.after == (1.0,)


@pytest.mark.parametrize("radius_mm", [1.0, 1.5, 2.0])
def test_too_small_and_too_large_by_a_radius(radius_mm: float) -> None:
    outside = ndimage.distance_transform_edt(TRUE != 1, SPACING)
    large = np.where(outside <= radius_mm, 1, 0)
    correction = correction_of(TRUE * (TRUE == 1), "too_small", (0,), large)
    assert correction.distance_mm == pytest.approx(radius_mm, abs=1.0)
    assert correction.mean_after == pytest.approx(1.0, abs=0.01)
    inside = ndimage.distance_transform_edt(TRUE == 2, SPACING)
    small = np.where(inside > radius_mm, 2, 0)
    correction = correction_of(TRUE * (TRUE == 2), "too_large", (1,), small)
    assert correction.mean_after == pytest.approx(1.0)


def test_sizes_agree_with_computing_each_of_them() -> None:
    """The cumulative sum over sorted distances against growing and shrinking the mask for every distance."""
    rng = np.random.default_rng(1)
    probabilities = rng.random((3, *SHAPE)).astype(np.float32)
    evidence = small_evidence(TRUE, probabilities)
    target = evidence.targets[0]
    best = {"too_small": 0.0, "too_large": 0.0}
    outside = ndimage.distance_transform_edt(~target.reference, SPACING)
    inside = ndimage.distance_transform_edt(target.reference, SPACING)
    for distance in np.unique(np.concatenate([outside.ravel(), inside.ravel()])):
        if 0 < distance <= corrections.WIDEST_MM:
            for kind, mask in (("too_small", outside <= distance), ("too_large", inside > distance)):
                dice = 2 * float(target.probability[mask].sum()) / (target.mass + int(mask.sum()))
                best[kind] = max(best[kind], dice)
    for correction in measure_corrections(evidence, []):
        if correction.targets == (0,) and correction.kind in best:
            gain = max(0.0, best[correction.kind] - target.dice())
            assert correction.mean_after - correction.mean_before == pytest.approx(gain, abs=1e-6)


def test_a_large_box_is_thinned_and_tells_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    true = cube((24, 48, 40), ((4, 8, 6), (20, 40, 34), 1))
    small = ndimage.binary_erosion(true == 1, iterations=3).astype(np.int16)
    exact = correction_of(small, "too_small", (0,), true)
    monkeypatch.setattr(corrections, "_MOST_VOXELS", 4000)
    thinned = correction_of(small, "too_small", (0,), true)
    assert thinned.mean_after - thinned.mean_before == pytest.approx(exact.mean_after - exact.mean_before, abs=0.06)
    assert thinned.distance_mm == pytest.approx(exact.distance_mm, abs=2.0)


def test_nothing_labelled_has_no_correction() -> None:
    assert measure_corrections(small_evidence(np.zeros(SHAPE, np.int16), sure(TRUE)), [(0, 1)]) == []


def test_a_right_reference_gains_nothing() -> None:
    for correction in measure_corrections(small_evidence(TRUE, sure(TRUE)), [(0, 1)]):
        assert correction.mean_after <= correction.mean_before


def test_one_slice_has_an_outline_only() -> None:
    true = cube((1, 24, 20), ((0, 4, 4), (1, 16, 14), 1))
    small = cube((1, 24, 20), ((0, 6, 5), (1, 14, 13), 1))
    correction = correction_of(small, "too_small", (0,), true)
    assert correction.mean_after > 0.95
