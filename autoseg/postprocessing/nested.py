"""Candidates of post-processing and the table of out-of-fold components in, what each reaches on unseen patients out.

Nested cross-validation. The outer loop holds out patients; on the others everything is done that would be done with
all: the classifier, its calibration and every threshold are fitted anew (with an inner loop of their own, see
`candidates`). The decisions on the held-out patients, put together, are what a candidate is judged by: no component is
ever decided by anything that saw its patient. (The networks are another matter: a component of one case was predicted
by a network that saw the labels of most other cases. That is so for every stacked model, and only makes components of
unseen cases look like those that the rule will meet.)

A candidate is accepted when the objective rises over what stands, the lower end of the bootstrap 95 % interval of the
difference is above zero, and no target falls beyond the margins. Patients are drawn, and both methods are scored on the
same ones; the difference is that of the objective itself, so cases in which a score is not defined count as they do
in the objective.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from autoseg.postprocessing.candidates import Problem, decisions, divided
from autoseg.postprocessing.effects import (
    OBJECTIVES,
    Outcome,
    false_components,
    lesions_found,
    mean_over_targets,
    outcome,
    target_means,
)
from autoseg.postprocessing.rows import Bools, Floats, Painting, Rows
from autoseg.records.postprocessing import CandidateScore, LearningSettings, TargetRule

NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Nested:
    """What a candidate decides for the rows of its target, by rules that did not see their patient."""

    keep: Bools
    """`n`: decision; False for rows of other targets."""
    scores: Floats
    """`n`: NaN where the rule has no score."""
    rules: tuple[TargetRule, ...]
    """Of each outer part."""
    parts: tuple[Bools, ...]
    """`c`: held-out cases of each."""


@dataclass(frozen=True)
class Difference:
    """A paired difference with its bootstrap 95 % interval over patients; None: not defined."""

    mean: float | None
    low: float | None
    high: float | None


def nested_decisions(problem: Problem, fit: Callable[[Problem, Bools], TargetRule]) -> Nested:
    """Decide every component and candidate of a target by a rule that was fitted on the other patients.

    Args:
        problem: the table, the target and what stands for the other targets.
        fit: fits one candidate (an entry of `candidates.CANDIDATES`) on the cases that its mask `c` names.

    Returns:
        Decisions and scores of all patients' rows, put together from the held-out parts.
    """
    rows, own = problem.rows, problem.own
    everyone = np.ones(len(rows.cases), dtype=bool)
    parts = divided(rows, everyone, problem.settings)
    keep, scores = np.zeros(len(own), dtype=bool), np.full(len(own), np.nan)
    rules = []
    for part in parts:
        rule = fit(problem, ~part)
        held_out = own & part[rows.case]
        decided, given = decisions(rule, rows, held_out)
        keep[held_out], scores[held_out] = decided[held_out], given[held_out]
        rules.append(rule)
    return Nested(keep, scores, tuple(rules), tuple(parts))


def compare(rows: Rows, new: Floats, old: Floats) -> Difference:
    """Difference of the objective, paired over patients, with its bootstrap 95 % interval.

    Args:
        rows: which patient each of the `c` cases belongs to.
        new: value `c t` of each case and target; NaN where it is not defined.
        old: likewise; it is subtracted.

    Returns:
        Means over cases and then over targets. All None where one side is defined nowhere; no interval with fewer than
        two patients.
    """
    mean_new, mean_old = mean_over_targets(new), mean_over_targets(old)
    if mean_new is None or mean_old is None:
        return Difference(None, None, None)
    weights = case_weights(rows)
    differences = weighted_objective(new, weights) - weighted_objective(old, weights)
    differences = differences[np.isfinite(differences)]
    if not differences.size:
        return Difference(mean_new - mean_old, None, None)
    low, high = np.percentile(differences, [2.5, 97.5])
    return Difference(mean_new - mean_old, float(low), float(high))


def case_weights(rows: Rows) -> Floats:
    """How often each case counts in each bootstrap resample of patients, `r c`; no resample with fewer than two."""
    names = sorted(set(rows.groups))
    if len(names) < 2:
        return np.zeros((0, len(rows.cases)))
    member = np.array([[group == name for group in rows.groups] for name in names], dtype=np.float64)
    rng = np.random.default_rng(0)  # the same table twice gives the same answer
    drawn: Floats = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=NUM_RESAMPLES) @ member
    return drawn


def scored(problem: Problem, method: str, nested: Nested) -> tuple[CandidateScore, Floats]:
    """Score a candidate on held-out patients, before it is compared with anything.

    Args:
        problem: the table, the target and what stands for the other targets.
        method: the candidate's name.
        nested: its decisions on the rows of the target.

    Returns:
        What it reaches over all cases, and the objective `c t` of each case and target (NaN: not defined).
    """
    rows, how, target = problem.rows, problem.how, problem.target
    keep = np.where(problem.own, nested.keep, problem.standing)
    found = outcome(rows, how, keep)
    values = OBJECTIVES[problem.settings.objective](rows, how, found)
    hit, lesions = (counted[:, target].sum() for counted in lesions_found(rows, how, found))
    is_probability = bool(nested.rules) and any(rule.logistic or rule.boosting for rule in nested.rules)
    known = problem.own & (rows.truth >= 0) & np.isfinite(nested.scores)
    squares = (nested.scores[known] - rows.truth[known]) ** 2
    mean = target_means(values)[target]
    return CandidateScore(
        target=how.names[target],
        method=method,
        score=mean_over_targets(values),
        target_score=float(mean) if np.isfinite(mean) else None,
        false_components_per_case=float(false_components(rows, how, found)[:, target].mean()),
        false_volume_mm3_per_case=float((found.false_positives[:, target] * rows.voxel_mm3).mean()),
        lesion_sensitivity=float(hit / lesions) if lesions else None,
        empty_cases_left_empty=_left_empty(found, target),
        auc=area_under_roc(nested.scores[known], rows.truth[known]),
        brier=float(squares.mean()) if is_probability and squares.size else None,
        removed=int((problem.own & rows.is_decided & ~nested.keep).sum()),
        restored=int((problem.own & ~rows.is_decided & nested.keep).sum()),
    ), values


def verdict(
    new: CandidateScore,
    old: CandidateScore,
    values: Floats,
    old_values: Floats,
    rows: Rows,
    how: Painting,
    settings: LearningSettings,
) -> CandidateScore:
    """Accept a candidate or reject it, by the rule in the module's text.

    Args:
        new: score of the candidate.
        old: score of the method that stands.
        values: objective `c t` of the candidate, NaN where not defined.
        old_values: of what stands.
        rows: for the patients of the cases.
        how: for the names of the targets.
        settings: margins, and the fewest patients that can accept anything.

    Returns:
        `new` with the difference, its interval, whether it is accepted and the reason in words.
    """
    difference = compare(rows, values, old_values)
    fallen = _fallen(values, old_values, how, settings.dice_margin)
    lost = (old.lesion_sensitivity or 0.0) - (new.lesion_sensitivity or 0.0)
    changed = f"{settings.objective} {_number(old.score)} -> {_number(new.score)}"
    interval = f"difference {_signed(difference.mean)} [{_signed(difference.low)}, {_signed(difference.high)}]"
    about = f"{new.target}: {new.method} over {old.method}: {changed}, {interval}"
    accepted = False
    num_patients = len(set(rows.groups))
    if num_patients < settings.min_groups_to_accept:
        reason = f"{about}; rejected, {num_patients} patients prove nothing ({settings.min_groups_to_accept} could)"
    elif difference.low is None or difference.low <= 0:
        reason = f"{about}; rejected, the interval is not above zero"
    elif fallen:
        reason = f"{about}; rejected, it lowers {', '.join(fallen)} by more than {settings.dice_margin:g}"
    elif lost > settings.sensitivity_margin:
        reason = f"{about}; rejected, it loses {100 * lost:.1f} % of the lesions"
    else:
        accepted, reason = True, f"{about}; accepted"
    return new.model_copy(
        update={
            "difference": difference.mean,
            "low": difference.low,
            "high": difference.high,
            "accepted": accepted,
            "reason": reason,
        }
    )


def area_under_roc(scores: Floats, truth: np.ndarray) -> float | None:
    """Chance that a true component scores higher than a false one, ties half (Mann-Whitney); None without both."""
    from scipy.stats import rankdata

    num_true = int((truth == 1).sum())
    num_false = len(truth) - num_true
    if not num_true or not num_false:
        return None
    ranks = rankdata(scores)
    return float((ranks[truth == 1].sum() - num_true * (num_true + 1) / 2) / (num_true * num_false))


def weighted_objective(values: Floats, weights: Floats) -> Floats:
    """Objective `r` of each resample: mean over targets of weighted means over cases (weights `r c`, values `c t`)."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        means = (weights @ np.where(defined, values, 0.0)) / (weights @ defined)
    there = np.isfinite(means)
    with np.errstate(invalid="ignore"):
        averaged: Floats = np.where(there, means, 0.0).sum(axis=1) / there.sum(axis=1)
    return averaged


def _fallen(new: Floats, old: Floats, how: Painting, margin: float) -> list[str]:
    before, after = target_means(old), target_means(new)
    falls = np.isfinite(before) & np.isfinite(after) & (after < before - margin)
    return [name for name, fell in zip(how.names, falls, strict=True) if fell]


def _left_empty(found: Outcome, target: int) -> float | None:
    """Share of the cases without the target in which nothing of it is predicted."""
    empty = found.reference[:, target] == 0
    predicted = (found.true_positives + found.false_positives)[:, target] > 0
    return float((~predicted[empty]).mean()) if empty.any() else None


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.4f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"
