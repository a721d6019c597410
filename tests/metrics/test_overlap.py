"""Hand-computed overlap scores, the rule for empty masks, and agreement with scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.metrics.build import case_mean, score_case, summarize
from autoseg.metrics.overlap import Counts, confusion_matrix, dice, iou, target_counts
from autoseg.records.geometry import Geometry
from autoseg.records.labels import LabelScheme, Target

TWO = LabelScheme(class_names=("background", "a", "b"), class_values=(0, 1, 2), num_entries=3)
IGNORING = TWO.model_copy(update={"ignore_value": 9})
REGIONS = TWO.model_copy(
    update={
        "regions": (Target(name="whole", members=(1, 2)), Target(name="core", members=(2,))),
        "region_order": (1, 2),
    }
)


def geometry(shape: tuple[int, int, int]) -> Geometry:
    return Geometry(shape=shape, spacing_mm=(3.0, 2.0, 1.0), affine=((0, 0, 1, 0), (0, 2, 0, 0), (3, 0, 0, 0)))


def score(prediction: list[int], reference: list[int], labels: LabelScheme = TWO):
    shape = (1, 1, len(prediction))
    arrays = [np.array(v, dtype=np.int16).reshape(shape) for v in (prediction, reference)]
    return score_case(arrays[0], arrays[1], labels, geometry(shape))


def test_hand_computed_scores() -> None:
    scores = score([1, 1, 1, 2, 0, 0], [1, 1, 0, 0, 1, 0])
    assert scores["a"].dice == pytest.approx(2 * 2 / (3 + 3))
    assert scores["a"].iou == pytest.approx(2 / 4)
    assert scores["a"].sensitivity == pytest.approx(2 / 3)
    assert scores["a"].precision == pytest.approx(2 / 3)
    assert (scores["a"].true_positives, scores["a"].false_positives, scores["a"].false_negatives) == (2, 1, 1)
    assert scores["a"].volume_mm3 == pytest.approx(3 * 6.0)
    assert scores["a"].reference_volume_mm3 == pytest.approx(3 * 6.0)


def test_empty_masks() -> None:
    scores = score([0, 1], [0, 1])
    assert (scores["b"].dice, scores["b"].iou, scores["b"].sensitivity, scores["b"].precision) == (None,) * 4
    only_found = score([2, 1], [0, 1])["b"]
    assert (only_found.dice, only_found.iou, only_found.sensitivity, only_found.precision) == (0, 0, None, 0)
    only_missed = score([0, 1], [2, 1])["b"]
    assert (only_missed.dice, only_missed.iou, only_missed.sensitivity, only_missed.precision) == (0, 0, 0, None)


def test_ignored_voxels_are_in_no_count() -> None:
    scores = score([1, 1, 2, 0], [1, 3, 3, 3], IGNORING)
    assert scores["a"].dice == 1
    assert scores["a"].false_positives == 0
    assert scores["b"].dice is None
    assert scores["b"].volume_mm3 == 0


def test_ignore_in_a_prediction_is_background() -> None:
    scores = score([3, 1], [1, 1], IGNORING)
    assert (scores["a"].true_positives, scores["a"].false_negatives) == (1, 1)


def test_regions_are_unions() -> None:
    scores = score([1, 2, 2, 0], [2, 2, 0, 1], REGIONS)
    assert (scores["whole"].true_positives, scores["whole"].false_positives) == (2, 1)
    assert scores["whole"].false_negatives == 1
    assert scores["core"].dice == pytest.approx(2 * 1 / 4)


def test_faulty_arguments() -> None:
    with pytest.raises(ValueError, match="one shape"):
        confusion_matrix(np.zeros((1, 1, 2), int), np.zeros((1, 1, 3), int), TWO)
    with pytest.raises(ValueError, match="prediction holds"):
        confusion_matrix(np.full((1, 1, 2), 5), np.zeros((1, 1, 2), int), TWO)
    with pytest.raises(ValueError, match="reference holds"):
        confusion_matrix(np.zeros((1, 1, 2), int), np.full((1, 1, 2), 7), TWO)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60))
def test_agrees_with_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    prediction, reference = np.array(pairs).T
    matrix = confusion_matrix(prediction, reference, TWO)
    np.testing.assert_array_equal(matrix, sklearn_metrics.confusion_matrix(reference, prediction, labels=[0, 1, 2]))
    counts = target_counts(matrix, TWO.targets[0])
    if counts.predicted + counts.reference:
        f1 = sklearn_metrics.f1_score(reference == 1, prediction == 1, zero_division=0)
        assert dice(counts) == pytest.approx(f1)


@settings(deadline=None)
@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_dice_and_iou_are_one_another(tp: int, fp: int, fn: int) -> None:
    counts = Counts(tp, fp, fn)
    first, second = dice(counts), iou(counts)
    assert (first is None) == (second is None) == (tp + fp + fn == 0)
    if second is not None:
        assert first == pytest.approx(2 * second / (1 + second))


def test_summary_skips_what_is_not_defined() -> None:
    perfect, missed = score([0, 1], [0, 1]), score([0, 2], [1, 2])
    evaluation = summarize("trial", {"second": missed, "first": perfect}, {"third": "broken"})
    assert list(evaluation.cases) == ["first", "second"]
    assert evaluation.targets["a"]["dice"].mean == pytest.approx(0.5)
    assert evaluation.targets["b"]["dice"].num_cases == 1
    assert evaluation.foreground_mean["dice"].mean == pytest.approx((1.0 + (0 + 1) / 2) / 2)
    assert "nsd" not in evaluation.foreground_mean
    assert evaluation.failed == {"third": "broken"}
    assert case_mean({}) is None
