"""Text of the command line or a case's segmentation in, an objective or its value in that case out.

An objective is a list of terms `METRIC`, `METRIC:TARGET` or either with `=WEIGHT`, joined by commas:

    dice                            mean Dice over targets (the default)
    nsd                             mean surface Dice
    lesion_f1:tumour                lesion-wise F1 of one class
    dice:liver,dice:tumour=2        the tumour counts twice

Scores from counts need no segmentation, so all subsets are scored from one pass over slabs. `SEGMENTED` ones need each
subset's segmentation of a whole case; they are made only for objectives that ask for one of them.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from autoseg.errors import UsageError
from autoseg.metrics.build import METRICS
from autoseg.metrics.detection import lesion_matches, lesion_score
from autoseg.metrics.surface import nsd
from autoseg.records.geometry import Geometry
from autoseg.records.labels import IntArray, LabelScheme, Target
from autoseg.records.results import Score
from autoseg.records.selection import Objective, ObjectiveTerm

Mask = npt.NDArray[np.bool_]
Values = Mapping[str, Mapping[str, float | None]]
"""Metric -> target -> value in one case."""


def _surface_dice(found: Mask, wanted: Mask, geometry: Geometry, tolerance_mm: float) -> float | None:
    return nsd(found, wanted, geometry.spacing_mm, tolerance_mm)


def _lesion_f1(found: Mask, wanted: Mask, _geometry: Geometry, _tolerance_mm: float) -> float | None:
    return lesion_score(lesion_matches(found, wanted)).f1


SEGMENTED: dict[str, Callable[[Mask, Mask, Geometry, float], float | None]] = {
    "nsd": _surface_dice,
    "lesion_f1": _lesion_f1,
}


def parse_objective(text: str, labels: LabelScheme) -> Objective:
    """Read an objective as typed.

    Raises:
        UsageError: a metric or target is unknown, or a weight is no positive number.
    """
    terms = []
    for part in text.split(","):
        named, _, weight = part.strip().partition("=")
        metric, _, target = named.partition(":")
        terms.append(ObjectiveTerm(metric=metric, target=target or None, weight=_weight(part, weight)))
    known = [*METRICS, *SEGMENTED]
    targets = [target.name for target in labels.targets]
    for term in terms:
        if term.metric not in known:
            raise UsageError(f"--objective {text}: {term.metric!r} is none of {', '.join(known)}.")
        if term.target is not None and term.target not in targets:
            raise UsageError(f"--objective {text}: {term.target!r} is none of the targets {', '.join(targets)}.")
    return Objective(terms=tuple(terms))


def segmented_metrics(objective: Objective) -> dict[str, set[str | None]]:
    """Metrics of the objective that need segmentations -> the targets they are asked of, None for all."""
    needed: dict[str, set[str | None]] = {}
    for term in objective.terms:
        if term.metric in SEGMENTED:
            needed.setdefault(term.metric, set()).add(term.target)
    return needed


def values_from_scores(scores: Mapping[str, Score]) -> dict[str, dict[str, float | None]]:
    """All that counts alone tell of a case."""
    return {metric: {name: getattr(score, metric) for name, score in scores.items()} for metric in METRICS}


def values_from_segmentation(
    found: IntArray, reference: IntArray, labels: LabelScheme, geometry: Geometry, objective: Objective
) -> dict[str, dict[str, float | None]]:
    """What the objective needs beyond counts.

    Args:
        found: `Z Y X` internal class numbers on the grid of `geometry`.
        reference: likewise; voxels to ignore are left out of both.
        labels: scheme with the targets.
        geometry: grid of both.
        objective: decides metrics, targets and tolerance.
    """
    if labels.ignore_index is not None:
        found = np.where(reference == labels.ignore_index, 0, found)
    values: dict[str, dict[str, float | None]] = {}
    for metric, asked in segmented_metrics(objective).items():
        targets = [target for target in labels.targets if None in asked or target.name in asked]
        masks = {target.name: (_mask(found, target), _mask(reference, target)) for target in targets}
        measure = SEGMENTED[metric]
        values[metric] = {name: measure(*pair, geometry, objective.tolerance_mm) for name, pair in masks.items()}
    return values


def objective_value(objective: Objective, values: Values) -> float | None:
    """Weighted mean of the terms that are defined in a case; None where none is."""
    total = weight = 0.0
    for term in objective.terms:
        of_targets = values[term.metric]
        chosen = of_targets.values() if term.target is None else [of_targets[term.target]]
        defined = [value for value in chosen if value is not None]
        if defined:
            total += term.weight * sum(defined) / len(defined)
            weight += term.weight
    return total / weight if weight else None


def _mask(classes: IntArray, target: Target) -> Mask:
    return np.isin(classes, target.members)


def _weight(part: str, text: str) -> float:
    try:
        weight = float(text) if text else 1.0
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise UsageError(f"--objective {part.strip()}: {text!r} is no weight; give a positive number after `=`.")
    return weight
