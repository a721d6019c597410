"""Label maps of a case in, its scores out; scores of many cases in, an `Evaluation` out.

`METRICS` is the one list of what can be scored. Groups differ in what they cost: overlap needs one pass over the
voxels for all targets together; surface, boundary and lesions are computed a target at a time, in the box
that holds it in prediction and reference. `probabilities` are not in label maps: whoever reads them adds these scores
(`metrics.calibration`). What each metric is for empty masks stands in the module of its group.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from autoseg.metrics import detection, overlap, surface
from autoseg.metrics.overlap import Counts, IntArray, Matrix, Terms
from autoseg.metrics.statistics import aggregate, aggregate_ratio
from autoseg.records.detection import LesionCounts
from autoseg.records.geometry import Geometry
from autoseg.records.labels import LabelScheme, Target
from autoseg.records.results import Aggregate, Evaluation, Score
from autoseg.records.scoring import COUNTS_ONLY, Group, Scoring

_NO_LESIONS = LesionCounts(lesions=0, found=0, candidates=0, false_candidates=0)


@dataclass(frozen=True)
class Metric:
    """One field of `Score` as a metric."""

    group: Group
    better: Literal["higher", "lower"] | None
    """Which values are better; None: neither, as for a signed difference."""
    unit: str = ""
    """mm, mm3, or nothing for shares."""
    pooled: Callable[[Score], Terms] | None = None
    """Numerator and denominator, whose sums over cases give the pooled score; None: there is no such thing."""
    of_targets: bool = True
    """Whether its mean over the targets of a case says something; volumes of different organs have no mean."""


def _voxels(terms: Callable[[Counts], Terms]) -> Callable[[Score], Terms]:
    return lambda score: terms(counts_of(score))


def _lesions(terms: Callable[[LesionCounts], Terms]) -> Callable[[Score], Terms]:
    return lambda score: terms(score.lesion_counts or _NO_LESIONS)


def _volume_terms(score: Score) -> Terms:
    return score.volume_mm3 - score.reference_volume_mm3, score.reference_volume_mm3


METRICS: dict[str, Metric] = {
    "dice": Metric("overlap", "higher", pooled=_voxels(overlap.dice_terms)),
    "iou": Metric("overlap", "higher", pooled=_voxels(overlap.iou_terms)),
    "sensitivity": Metric("overlap", "higher", pooled=_voxels(overlap.sensitivity_terms)),
    "precision": Metric("overlap", "higher", pooled=_voxels(overlap.precision_terms)),
    "specificity": Metric("overlap", "higher", pooled=_voxels(overlap.specificity_terms)),
    "volume_mm3": Metric("overlap", None, "mm3", of_targets=False),
    "reference_volume_mm3": Metric("overlap", None, "mm3", of_targets=False),
    "volume_difference_mm3": Metric("overlap", None, "mm3", of_targets=False),
    "absolute_volume_difference_mm3": Metric("overlap", "lower", "mm3", of_targets=False),
    "relative_volume_difference": Metric("overlap", None, pooled=_volume_terms, of_targets=False),
    "nsd": Metric("surface", "higher"),
    "hausdorff_mm": Metric("surface", "lower", "mm"),
    "hd95_mm": Metric("surface", "lower", "mm"),
    "assd_mm": Metric("surface", "lower", "mm"),
    "boundary_dice": Metric("boundary", "higher"),
    "lesion_sensitivity": Metric("lesions", "higher", pooled=_lesions(detection.sensitivity_terms)),
    "lesion_precision": Metric("lesions", "higher", pooled=_lesions(detection.precision_terms)),
    "lesion_f1": Metric("lesions", "higher", pooled=_lesions(detection.f1_terms)),
    "ece": Metric("probabilities", "lower"),
    "brier": Metric("probabilities", "lower"),
}


def score_case(
    prediction: IntArray,
    reference: IntArray,
    labels: LabelScheme,
    geometry: Geometry,
    scoring: Scoring = COUNTS_ONLY,
    num_workers: int = 1,
) -> dict[str, Score]:
    """Scores of every target of one case.

    Args:
        prediction: `Z Y X` internal class numbers on the grid of `geometry`.
        reference: `Z Y X` likewise; voxels to ignore are left out of everything.
        labels: scheme with the targets.
        geometry: grid of both, for volumes and distances.
        scoring: which metrics, tolerances and lesion rule.
        num_workers: targets at a time, in threads.

    Returns:
        Target name -> score.
    """
    matrix = overlap.confusion_matrix(prediction, reference, labels)
    scores = scores_from_matrix(matrix, labels, geometry.voxel_volume_mm3)
    if not {"surface", "boundary", "lesions"} & set(scoring.groups):
        return scores
    if labels.ignore_index is not None:
        prediction = np.where(reference == labels.ignore_index, 0, prediction)
    boxes = [ndimage.find_objects(array, labels.num_classes - 1) for array in (prediction, reference)]

    def measure(target: Target) -> Score:
        box = _common_box([part for found in boxes for member in target.members if (part := found[member - 1])])
        masks = [_members(array[box], target) for array in (prediction, reference)]
        more = _score_masks(masks[0], masks[1], geometry, scoring, scoring.tolerance_mm(target.name))
        return scores[target.name].model_copy(update=more)

    with ThreadPoolExecutor(max(1, min(num_workers, len(labels.targets)))) as pool:
        return dict(zip(scores, pool.map(measure, labels.targets), strict=True))


def scores_from_matrix(matrix: Matrix, labels: LabelScheme, voxel_volume_mm3: float) -> dict[str, Score]:
    """Scores of every target from a confusion matrix (rows reference, columns prediction)."""
    return {t.name: score_counts(overlap.target_counts(matrix, t), voxel_volume_mm3) for t in labels.targets}


def score_counts(counts: Counts, voxel_volume_mm3: float) -> Score:
    """All count-based scores of one target in one case."""
    volume, reference_volume = counts.predicted * voxel_volume_mm3, counts.reference * voxel_volume_mm3
    difference = volume - reference_volume
    return Score(
        dice=overlap.dice(counts),
        iou=overlap.iou(counts),
        sensitivity=overlap.sensitivity(counts),
        precision=overlap.precision(counts),
        specificity=overlap.specificity(counts),
        volume_mm3=volume,
        reference_volume_mm3=reference_volume,
        volume_difference_mm3=difference,
        absolute_volume_difference_mm3=abs(difference),
        relative_volume_difference=overlap.ratio((difference, reference_volume)),
        true_positives=counts.true_positives,
        false_positives=counts.false_positives,
        false_negatives=counts.false_negatives,
        true_negatives=counts.true_negatives,
    )


def counts_of(score: Score) -> Counts:
    """The voxel counts a score was made from."""
    return Counts(score.true_positives, score.false_positives, score.false_negatives, score.true_negatives)


def summarize(
    title: str,
    cases: Mapping[str, Mapping[str, Score]],
    failed: Mapping[str, str] | None = None,
    scoring: Scoring = COUNTS_ONLY,
) -> Evaluation:
    """Scores of many cases with their aggregates.

    Args:
        title: what was scored, for people.
        cases: case id -> target name -> score.
        failed: case id -> why it could not be scored.
        scoring: how the cases were scored.
    """
    names = list(dict.fromkeys(name for scores in cases.values() for name in scores))
    columns = {name: [scores[name] for _, scores in sorted(cases.items()) if name in scores] for name in names}
    used = [metric for metric in METRICS if _used(metric, scoring, columns.values())]
    return Evaluation(
        title=title,
        cases={case: dict(scores) for case, scores in sorted(cases.items())},
        targets={
            name: {metric: aggregate([getattr(score, metric) for score in scores]) for metric in used}
            for name, scores in columns.items()
        },
        foreground_mean={metric: _foreground(cases, metric) for metric in used if METRICS[metric].of_targets},
        failed=dict(failed or {}),
        pooled={
            name: {
                metric: aggregate_ratio([terms(score) for score in scores])
                for metric in used
                if (terms := METRICS[metric].pooled) is not None
            }
            for name, scores in columns.items()
        },
        scoring=scoring,
    )


def case_mean(scores: Mapping[str, Score], metric: str = "dice") -> float | None:
    """Mean of one metric over the targets in which it is defined; None when in none."""
    values = [v for score in scores.values() if (v := getattr(score, metric)) is not None]
    return sum(values) / len(values) if values else None


def _foreground(cases: Mapping[str, Mapping[str, Score]], metric: str) -> Aggregate:
    return aggregate([case_mean(scores, metric) for _, scores in sorted(cases.items())])


def _used(metric: str, scoring: Scoring, columns: Iterable[list[Score]]) -> bool:
    """Whether to list the metric: where it was asked for, or a score has it all the same."""
    group = METRICS[metric].group
    if group == "overlap" or group in scoring.groups:
        return True
    return any(getattr(score, metric) is not None for scores in columns for score in scores)


def _common_box(parts: list[tuple[slice, ...]]) -> tuple[slice, ...]:
    """Smallest box that holds all boxes; an empty one without any."""
    if not parts:
        return (slice(0, 0),) * 3
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*parts, strict=True))


def _members(classes: IntArray, target: Target) -> surface.Mask:
    if len(target.members) == 1:  # by far the most frequent, and ten times faster
        single: surface.Mask = classes == target.members[0]
        return single
    return np.isin(classes, target.members)


def _score_masks(
    found: surface.Mask, wanted: surface.Mask, geometry: Geometry, scoring: Scoring, tolerance_mm: float
) -> dict[str, float | LesionCounts | None]:
    """The metrics of a target that need its masks; `found` and `wanted` are cropped to a box that holds both."""
    scores: dict[str, float | LesionCounts | None] = {}
    axes, spacing = surface.image_axes(geometry.shape), geometry.spacing_mm
    if "surface" in scoring.groups:
        distances = surface.surface_distances(found, wanted, spacing, axes)
        scores["nsd"] = surface.nsd(distances, tolerance_mm)
        scores["hausdorff_mm"] = surface.hausdorff(distances)
        scores["hd95_mm"] = surface.hd95(distances)
        scores["assd_mm"] = surface.assd(distances)
    if "boundary" in scoring.groups:
        scores["boundary_dice"] = surface.boundary_dice(found, wanted, spacing, tolerance_mm, axes)
    if "lesions" in scoring.groups:
        counts = detection.lesion_counts(detection.lesion_matches(found, wanted, scoring.lesion_rule))
        scores["lesion_sensitivity"] = detection.lesion_sensitivity(counts)
        scores["lesion_precision"] = detection.lesion_precision(counts)
        scores["lesion_f1"] = detection.lesion_f1(counts)
        scores["lesion_counts"] = counts
    return scores
