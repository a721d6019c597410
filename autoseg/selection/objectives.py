"""Text of the command line in, an objective out; an objective and a case's scores in, its value in that case out.

An objective is a list of terms `METRIC`, `METRIC:TARGET` or either with `=WEIGHT`, joined by commas:

    dice                            mean Dice over targets (the default)
    nsd                             mean surface Dice
    lesion_f1:tumour                lesion-wise F1 of one class
    dice:liver,dice:tumour=2        the tumour counts twice

Metrics are those of `metrics.build.METRICS` that are shares and better when higher, so that a weighted mean of them
means something. Overlap scores come from counts, so all subsets are scored from one pass over slabs. The others need
each subset's segmentation of a whole case; those are made only for objectives that ask for such a metric.
"""

from collections.abc import Mapping

from autoseg.errors import UsageError
from autoseg.metrics.build import METRICS
from autoseg.records.labels import LabelScheme
from autoseg.records.results import Score
from autoseg.records.scoring import Group, Scoring
from autoseg.records.selection import Objective, ObjectiveTerm

Scores = Mapping[str, Score]
"""Target -> its scores in one case."""

ALLOWED = tuple(name for name, metric in METRICS.items() if metric.better == "higher" and not metric.unit)


def parse_objective(text: str, labels: LabelScheme, tolerance_mm: float) -> Objective:
    """Read an objective as typed.

    Args:
        text: as described above.
        labels: scheme with the targets.
        tolerance_mm: of the surface and boundary Dice.

    Raises:
        UsageError: a metric or target is unknown, or a weight is no positive number.
    """
    terms = []
    for part in text.split(","):
        named, _, weight = part.strip().partition("=")
        metric, _, target = named.partition(":")
        terms.append(ObjectiveTerm(metric=metric, target=target or None, weight=_weight(part, weight)))
    targets = [target.name for target in labels.targets]
    for term in terms:
        if term.metric not in ALLOWED:
            raise UsageError(f"--objective {text}: {term.metric!r} is none of {', '.join(ALLOWED)}.")
        if term.target is not None and term.target not in targets:
            raise UsageError(f"--objective {text}: {term.target!r} is none of the targets {', '.join(targets)}.")
    return Objective(terms=tuple(terms), tolerance_mm=tolerance_mm)


def scoring_of(objective: Objective) -> Scoring:
    """What of a segmentation must be scored for the objective."""
    groups: dict[Group, None] = {"overlap": None}
    groups.update({METRICS[term.metric].group: None for term in objective.terms})
    return Scoring(groups=tuple(groups), default_tolerance_mm=objective.tolerance_mm)


def needs_segmentations(objective: Objective) -> bool:
    """Whether counts of voxels do not suffice."""
    return scoring_of(objective).groups != ("overlap",)


def objective_value(objective: Objective, scores: Scores) -> float | None:
    """Weighted mean of the terms that are defined in a case; None where none is."""
    total = weight = 0.0
    for term in objective.terms:
        chosen = scores.values() if term.target is None else [scores[term.target]]
        defined = [value for score in chosen if (value := getattr(score, term.metric)) is not None]
        if defined:
            total += term.weight * sum(defined) / len(defined)
            weight += term.weight
    return total / weight if weight else None


def _weight(part: str, text: str) -> float:
    try:
        weight = float(text) if text else 1.0
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise UsageError(f"--objective {part.strip()}: {text!r} is no weight; give a positive number after `=`.")
    return weight
