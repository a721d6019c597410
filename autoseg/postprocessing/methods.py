"""Matched components of held-out cases in, what each way of reducing false positives leaves of them out.

Rules and classifiers decide by nested cross-validation (`nested`): no component is decided by anything that saw its
patient. What another network makes instead (a cascade, a second label) is a table of components of its own, whose
cases were held out by that network's folds.

A FROC curve runs over a method's own score: volume, mean probability, or a classifier's probability. All components of
the segmentation are on it, also those that the method's threshold removes, and with a classifier those it restores. A
way without a score (`none`, keep-largest, another network) ranks what it leaves by mean probability.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.metrics.detection import ScoredCandidate, froc
from autoseg.postprocessing.candidates import CANDIDATES, LEARNED, Problem
from autoseg.postprocessing.choose import what_is_lacking
from autoseg.postprocessing.effects import (
    dice_of,
    false_components,
    lesion_f1_of,
    lesions_found,
    mean_over_targets,
    outcome,
    target_means,
    untouched,
)
from autoseg.postprocessing.nested import compare, nested_decisions
from autoseg.postprocessing.rows import Bools, Floats, Ints, Painting, Rows, related, restricted
from autoseg.records.detection import FrocCurve
from autoseg.records.false_positives import Change, Method, MethodRow, TargetDetection
from autoseg.records.postprocessing import LearningSettings

VARIANTS: tuple[tuple[Method, str], ...] = (
    ("rule", "keep_largest"),
    ("rule", "minimum_volume"),
    ("rule", "minimum_confidence"),
    *(("learned", kind) for kind in LEARNED),
)
"""Ways that decide on the components of one segmentation, keys of `candidates.CANDIDATES`."""

_CONFIDENCE = "probability_mean"


@dataclass(frozen=True)
class Decisions:
    """What a way makes of `n` components."""

    keep: Bools
    """`n`: what is there afterwards."""
    scores: Floats
    """`n`: by which components are ranked; the higher, the surer."""
    ranked: Bools
    """`n`: which are on the FROC curve."""
    notes: tuple[str, ...] = ()


def as_they_are(rows: Rows) -> Decisions:
    """All components of the segmentation, by mean probability."""
    keep = untouched(rows)
    return Decisions(keep, rows.column(_CONFIDENCE), keep)


def problems_of(rows: Rows, how: Painting, settings: LearningSettings) -> list[tuple[Problem, Ints]]:
    """Every target to decide on, each for itself, and which rows its table has; ways share what they fit."""
    problems = []
    for targets in related(how):
        part, paint, positions = restricted(rows, how, targets)
        numbers = range(len(targets))
        problems += [(Problem(part, paint, number, untouched(part), settings), positions) for number in numbers]
    return problems


def decide_nested(rows: Rows, problems: Sequence[tuple[Problem, Ints]], variant: str) -> Decisions | str:
    """Decide every target's components by rules fitted on other patients.

    Args:
        rows: matched components.
        problems: of these rows (`problems_of`).
        variant: key of `CANDIDATES`.

    Returns:
        The decisions; a target that a classifier has too little to learn from stays as it is, which a note says. Where
        that is so of all, or there are too few patients: why.
    """
    settings = problems[0][0].settings
    if (num_patients := len(set(rows.groups))) < settings.min_groups:
        return f"there are {num_patients} patients, {settings.min_groups} are needed"
    keep, scores, ranked = untouched(rows).copy(), rows.column(_CONFIDENCE).copy(), untouched(rows).copy()
    notes = []
    for problem, positions in problems:
        if variant in LEARNED and (reason := what_is_lacking(problem)):
            notes.append(f"{problem.how.names[problem.target]} stays as it is: {reason}")
            continue
        nested = nested_decisions(problem, CANDIDATES[variant])
        own, has_score = problem.own, np.isfinite(nested.scores)
        keep[positions[own]] = nested.keep[own]
        scores[positions[own & has_score]] = nested.scores[own & has_score]
        # A rule without a score removes for good; one with a score only moves a threshold.
        ranked[positions[own]] = (nested.keep | (problem.rows.is_decided & has_score))[own]
    if len(notes) == len(problems):
        return "; ".join(notes)
    return Decisions(keep, scores, ranked, tuple(notes))


def measured(
    rows: Rows, how: Painting, decisions: Decisions, method: Method, variant: str = "", configuration: str = ""
) -> MethodRow:
    """What is left, found and lost after decisions, not yet compared."""
    found = outcome(rows, how, decisions.keep)
    false, (hit, lesions) = false_components(rows, how, found), lesions_found(rows, how, found)
    dice = dice_of(rows, how, found)
    means = target_means(dice)
    targets = {
        name: TargetDetection(
            false_positives_per_case=float(false[:, number].mean()),
            lesion_sensitivity=_share(int(hit[:, number].sum()), int(lesions[:, number].sum())),
            dice=float(means[number]) if np.isfinite(means[number]) else None,
            froc=_curve(rows, decisions, number),
        )
        for number, name in enumerate(how.names)
    }
    defined = [target.froc.cpm for target in targets.values() if target.froc.cpm is not None]
    return MethodRow(
        method=method,
        variant=variant,
        configuration=configuration,
        false_positives_per_case=float(false.sum(axis=1).mean()),
        lesion_sensitivity=_share(int(hit.sum()), int(lesions.sum())),
        dice=mean_over_targets(dice),
        lesion_f1=mean_over_targets(lesion_f1_of(rows, how, found)),
        cpm=sum(defined) / len(defined) if defined else None,
        targets=targets,
        note="; ".join(decisions.notes),
    )


def compared(row: MethodRow, rows: Rows, keep: Bools, base: Rows, how: Painting) -> MethodRow:
    """The row with its differences to the segmentations as they were.

    Args:
        row: of the way.
        rows: its components.
        keep: its decisions.
        base: components of the configuration as it is, of the same cases in the same order.
        how: of both.
    """
    assert rows.cases == base.cases, "both must be of the same cases"
    after, before = outcome(rows, how, keep), outcome(base, how, untouched(base))
    false_after, false_before = (
        false_components(table, how, found).sum(axis=1, dtype=np.float64)[:, None]
        for table, found in ((rows, after), (base, before))
    )
    false = compare(base, false_after, false_before)
    dice = compare(base, dice_of(rows, how, after), dice_of(base, how, before))
    return row.model_copy(
        update={
            "false_positives_change": Change(mean=false.mean, low=false.low, high=false.high),
            "dice_change": Change(mean=dice.mean, low=dice.low, high=dice.high),
        }
    )


def _curve(rows: Rows, decisions: Decisions, target: int) -> FrocCurve:
    """FROC curve of one target."""
    chosen = np.flatnonzero(decisions.ranked & (rows.target == target))
    hits: dict[int, list[int]] = {}
    for row, lesion in zip(rows.hit_rows.tolist(), rows.hit_lesions.tolist(), strict=True):
        hits.setdefault(row, []).append(lesion)
    candidates = [
        ScoredCandidate(
            case=rows.cases[rows.case[row]],
            score=float(decisions.scores[row]),
            hits=tuple(hits.get(int(row), ())),
            false=bool(rows.is_false[row]),
        )
        for row in chosen
    ]
    return froc(candidates, int((rows.lesion_target == target).sum()), len(rows.cases))


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
