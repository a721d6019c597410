"""The table of metrics: what each is for empty masks, as documented, and that summaries list and pool it."""

from pathlib import Path

import numpy as np
import pytest

from autoseg.metrics.build import METRICS, counts_of, score_case, score_counts, summarize
from autoseg.metrics.overlap import Counts
from autoseg.records.geometry import Geometry
from autoseg.records.labels import LabelScheme
from autoseg.records.results import Score
from autoseg.records.scoring import Scoring

LABELS = LabelScheme(class_names=("background", "a"), class_values=(0, 1), ignore_value=9, num_entries=3)
GRID = Geometry(shape=(2, 3, 4), spacing_mm=(3, 2, 1), affine=((0, 0, 1, 0), (0, 2, 0, 0), (3, 0, 0, 0)))
ALL = Scoring(groups=("overlap", "surface", "boundary", "lesions"), default_tolerance_mm=1.0)
VOLUME = 2 * 6.0

# metric -> (missed, invented, neither), the table of docs/concepts/metrics.md in numbers: 2 of 24 voxels
EMPTY = {
    "dice": (0, 0, None),
    "iou": (0, 0, None),
    "sensitivity": (0, None, None),
    "precision": (None, 0, None),
    "specificity": (1, 22 / 24, 1),
    "volume_mm3": (0, VOLUME, 0),
    "reference_volume_mm3": (VOLUME, 0, 0),
    "volume_difference_mm3": (-VOLUME, VOLUME, 0),
    "absolute_volume_difference_mm3": (VOLUME, VOLUME, 0),
    "relative_volume_difference": (-1, None, None),
    "nsd": (0, 0, None),
    "hausdorff_mm": (None, None, None),
    "hd95_mm": (None, None, None),
    "assd_mm": (None, None, None),
    "boundary_dice": (0, 0, None),
    "lesion_sensitivity": (0, None, None),
    "lesion_precision": (None, 0, None),
    "lesion_f1": (0, 0, None),
    "ece": (None, None, None),  # label maps hold no probabilities
    "brier": (None, None, None),
}


def score(prediction: np.ndarray, reference: np.ndarray, scoring: Scoring = ALL) -> Score:
    return score_case(prediction, reference, LABELS, GRID, scoring)["a"]


def some() -> np.ndarray:
    array = np.zeros(GRID.shape, np.int16)
    array[0, 1, :2] = 1
    return array


@pytest.mark.parametrize("metric", list(METRICS))
def test_empty_masks(metric: str) -> None:
    nothing = np.zeros(GRID.shape, np.int16)
    pairs = ((nothing, some()), (some(), nothing), (nothing, nothing))
    found = tuple(getattr(score(*pair), metric) for pair in pairs)
    assert found == EMPTY[metric]


def test_every_metric_is_a_field_and_documented() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "concepts" / "metrics.md").read_text("utf-8")
    for metric in METRICS:
        assert metric in Score.model_fields
        assert metric.removeprefix("reference_") == "volume_mm3" or f"`{metric}`" in text


def test_a_perfect_prediction_is_the_best_there_is() -> None:
    found = score(some(), some())
    for metric, how in METRICS.items():
        if how.better is not None and how.group != "probabilities":
            assert getattr(found, metric) == (1 if how.better == "higher" else 0), metric


def test_ignored_voxels_are_in_no_metric() -> None:
    """A false component on ignored voxels alone changes nothing."""
    prediction, reference = some(), some()
    clean = score(prediction, reference)
    prediction[1, 0, 3] = 1
    assert score(prediction, reference).lesion_counts != clean.lesion_counts
    reference[1, 0, 3] = LABELS.ignore_index
    again = score(prediction, reference)
    assert again == clean.model_copy(update={"true_negatives": 21})


def test_pooled_scores_weigh_by_size() -> None:
    small, large = Counts(1, 0, 1, 22), Counts(10, 4, 2, 8)
    cases = {"a": {"x": score_counts(small, 2.0)}, "b": {"x": score_counts(large, 1.0)}}
    pooled = summarize("", cases).pooled["x"]
    assert pooled["dice"].mean == pytest.approx(22 / (22 + 4 + 3))
    assert pooled["iou"].mean == pytest.approx(11 / 18)
    assert pooled["sensitivity"].mean == pytest.approx(11 / 14)
    assert pooled["precision"].mean == pytest.approx(11 / 15)
    assert pooled["specificity"].mean == pytest.approx(30 / 34)
    assert pooled["relative_volume_difference"].mean == pytest.approx((2 + 14 - (4 + 12)) / (4 + 12))
    assert pooled["dice"].low is not None
    assert set(pooled) == {m for m, how in METRICS.items() if how.group == "overlap" and how.pooled}
    assert counts_of(cases["a"]["x"]) == small


def test_what_was_not_asked_for_is_not_computed() -> None:
    found = score(some(), some(), Scoring(groups=("lesions",)))
    assert found.lesion_f1 == 1
    assert (found.nsd, found.hd95_mm, found.boundary_dice) == (None,) * 3
    evaluation = summarize("", {"c": {"a": found}}, scoring=Scoring(groups=("lesions",)))
    assert "lesion_f1" in evaluation.targets["a"]
    assert "nsd" not in evaluation.targets["a"]
    assert "volume_mm3" not in evaluation.foreground_mean
