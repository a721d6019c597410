"""Label maps of a case in, its scores out; scores of many cases in, an `Evaluation` out.

`METRICS` names the scores that come from counts alone; the surface Dice needs the masks and a tolerance, and
is computed only when one is given, since it costs more than all the others together.
"""

from collections.abc import Callable, Mapping

import numpy as np

from autoseg.metrics.overlap import (
    Counts,
    IntArray,
    Matrix,
    confusion_matrix,
    dice,
    iou,
    precision,
    sensitivity,
    target_counts,
)
from autoseg.metrics.statistics import aggregate
from autoseg.metrics.surface import nsd
from autoseg.records.geometry import Geometry
from autoseg.records.labels import LabelScheme, Target
from autoseg.records.results import Aggregate, Evaluation, Score

METRICS: dict[str, Callable[[Counts], float | None]] = {
    "dice": dice,
    "iou": iou,
    "sensitivity": sensitivity,
    "precision": precision,
}

_AGGREGATED = (*METRICS, "nsd", "volume_mm3", "reference_volume_mm3")
_AVERAGED_OVER_TARGETS = (*METRICS, "nsd")


def score_case(
    prediction: IntArray,
    reference: IntArray,
    labels: LabelScheme,
    geometry: Geometry,
    tolerance_mm: float | None = None,
) -> dict[str, Score]:
    """Scores of every target of one case.

    Args:
        prediction: `Z Y X` internal class numbers on the grid of `geometry`.
        reference: `Z Y X` likewise; voxels to ignore are left out of everything.
        labels: scheme with the targets.
        geometry: grid of both, for volumes and distances.
        tolerance_mm: of the surface Dice; None: not computed.

    Returns:
        Target name -> score.
    """
    matrix = confusion_matrix(prediction, reference, labels)
    scores = scores_from_matrix(matrix, labels, geometry.voxel_volume_mm3)
    if tolerance_mm is None:
        return scores
    if labels.ignore_index is not None:
        prediction = np.where(reference == labels.ignore_index, 0, prediction)
    return {
        target.name: scores[target.name].model_copy(
            update={"nsd": _surface_dice(prediction, reference, target, geometry, tolerance_mm)}
        )
        for target in labels.targets
    }


def scores_from_matrix(matrix: Matrix, labels: LabelScheme, voxel_volume_mm3: float) -> dict[str, Score]:
    """Scores of every target from a confusion matrix (rows reference, columns prediction)."""
    return {t.name: score_counts(target_counts(matrix, t), voxel_volume_mm3) for t in labels.targets}


def score_counts(counts: Counts, voxel_volume_mm3: float) -> Score:
    """All count-based scores of one target in one case."""
    return Score(
        dice=dice(counts),
        iou=iou(counts),
        sensitivity=sensitivity(counts),
        precision=precision(counts),
        volume_mm3=counts.predicted * voxel_volume_mm3,
        reference_volume_mm3=counts.reference * voxel_volume_mm3,
        true_positives=counts.true_positives,
        false_positives=counts.false_positives,
        false_negatives=counts.false_negatives,
    )


def summarize(
    title: str, cases: Mapping[str, Mapping[str, Score]], failed: Mapping[str, str] | None = None
) -> Evaluation:
    """Scores of many cases with their aggregates.

    Args:
        title: what was scored, for people.
        cases: case id -> target name -> score.
        failed: case id -> why it could not be scored.
    """
    names = list(dict.fromkeys(name for scores in cases.values() for name in scores))
    targets = {
        name: {metric: aggregate(_column(cases, name, metric)) for metric in _AGGREGATED if _used(cases, metric)}
        for name in names
    }
    return Evaluation(
        title=title,
        cases={case: dict(scores) for case, scores in sorted(cases.items())},
        targets=targets,
        foreground_mean={m: _foreground(cases, m) for m in _AVERAGED_OVER_TARGETS if _used(cases, m)},
        failed=dict(failed or {}),
    )


def case_mean(scores: Mapping[str, Score], metric: str = "dice") -> float | None:
    """Mean of one metric over the targets in which it is defined; None when in none."""
    values = [v for score in scores.values() if (v := getattr(score, metric)) is not None]
    return sum(values) / len(values) if values else None


def _foreground(cases: Mapping[str, Mapping[str, Score]], metric: str) -> Aggregate:
    return aggregate([case_mean(scores, metric) for _, scores in sorted(cases.items())])


def _column(cases: Mapping[str, Mapping[str, Score]], target: str, metric: str) -> list[float | None]:
    return [getattr(scores[target], metric) for _, scores in sorted(cases.items()) if target in scores]


def _used(cases: Mapping[str, Mapping[str, Score]], metric: str) -> bool:
    """Whether to list the metric: the surface Dice only where it was computed."""
    return metric != "nsd" or any(score.nsd is not None for scores in cases.values() for score in scores.values())


def _surface_dice(
    prediction: IntArray, reference: IntArray, target: Target, geometry: Geometry, tolerance_mm: float
) -> float | None:
    found, wanted = np.isin(prediction, target.members), np.isin(reference, target.members)
    return nsd(found, wanted, geometry.spacing_mm, tolerance_mm)
