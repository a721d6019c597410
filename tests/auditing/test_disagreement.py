"""Parts: found where reference and prediction truly differ, silent along borders, told once."""

import numpy as np
import pytest

from autoseg.auditing.disagreement import LEAST_CONFIDENT, Part, confidence_sums, confidence_thresholds, find_parts
from tests.auditing.small import SPACING, cube, small_evidence, sure

SHAPE = (12, 20, 20)
VOXEL_MM3 = float(np.prod(SPACING))
ORGAN = ((3, 4, 4), (9, 14, 14), 1)


def parts(
    reference: np.ndarray, predicted: np.ndarray, tolerance_mm: float = 2.0, confidence: float = 1.0
) -> list[Part]:
    return find_parts(small_evidence(reference, sure(predicted, confidence)), [0.8, 0.8], tolerance_mm)


def test_a_border_that_differs_by_a_voxel_is_fuzz() -> None:
    grown = cube(SHAPE, ((2, 3, 3), (10, 15, 15), 1))
    assert parts(cube(SHAPE, ORGAN), grown) == []
    assert parts(grown, cube(SHAPE, ORGAN)) == []


def test_a_border_that_differs_by_more_is_not() -> None:
    grown = cube(SHAPE, ((3, 4, 4), (9, 20, 14), 1))  # six voxels of 1 mm further along y
    (found,) = parts(cube(SHAPE, ORGAN), grown)
    assert found.kind == "missed_part"
    (found,) = parts(grown, cube(SHAPE, ORGAN))
    assert found.kind == "extra_part"
    assert parts(grown, cube(SHAPE, ORGAN), tolerance_mm=7.0) == []


def test_a_thin_structure_that_one_side_lacks_is_no_fuzz() -> None:
    line = cube(SHAPE, ORGAN, ((2, 18, 2), (11, 19, 3), 1))
    (found,) = parts(line, cube(SHAPE, ORGAN))
    assert (found.kind, found.target, found.other) == ("extra_part", 0, None)
    assert found.volume_mm3 == 9 * VOXEL_MM3
    (found,) = parts(cube(SHAPE, ORGAN), line)
    assert found.kind == "missed_part"
    assert found.volume_mm3 == 9 * VOXEL_MM3
    assert found.confidence == 1.0
    assert found.centre == (6.0, 18.0, 2.0)


def test_weight_and_gain_by_hand() -> None:
    reference, predicted = cube(SHAPE, ORGAN), cube(SHAPE, ORGAN, ((4, 17, 4), (8, 19, 8), 1))
    (found,) = parts(reference, predicted, confidence=0.9)
    organ, blob = 6 * 10 * 10, 4 * 2 * 4
    assert found.weight_mm3 == pytest.approx(0.8 * blob * VOXEL_MM3, rel=1e-5)
    mass = 0.9 * (organ + blob)
    before, after = 2 * 0.9 * organ / (mass + organ), 2 * 0.9 * (organ + blob) / (mass + organ + blob)
    assert found.gain == pytest.approx(after - before, rel=1e-4)


def test_doubt_is_no_part() -> None:
    predicted = cube(SHAPE, ORGAN, ((4, 17, 4), (8, 19, 8), 1))
    assert parts(cube(SHAPE, ORGAN), predicted, confidence=0.7) == []


def test_another_class_in_the_reference_is_told_once() -> None:
    reference, predicted = cube(SHAPE, ORGAN), cube(SHAPE, (*ORGAN[:2], 2))
    (found,) = parts(reference, predicted)
    assert (found.kind, found.target, found.other) == ("missing_class", 1, 0)


def test_touching_corners_are_one_part() -> None:
    predicted = cube(SHAPE, ORGAN, ((4, 16, 4), (6, 18, 6), 1), ((6, 18, 6), (8, 20, 8), 1))
    (found,) = parts(cube(SHAPE, ORGAN), predicted)
    assert found.volume_mm3 == pytest.approx(16 * VOXEL_MM3)


def test_thresholds_follow_the_models_own_confidence() -> None:
    reference = cube(SHAPE, ORGAN)
    sums = [confidence_sums(small_evidence(reference, sure(reference, c))) for c in (0.9, 0.7)]
    left, right = confidence_thresholds(sums)
    assert left == pytest.approx(0.8, abs=1e-6)
    assert right == 1.0  # nowhere labelled: nothing is confident enough
    hesitant = [confidence_sums(small_evidence(reference, sure(reference, 0.4)))]
    assert confidence_thresholds(hesitant)[0] == LEAST_CONFIDENT
