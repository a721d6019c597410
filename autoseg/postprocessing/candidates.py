"""Components of training cases in, a rule for one target out: the ways of post-processing, in one literal table.

Whatever has a threshold gets it here, on the cases given: the one with the best objective, the most cautious of equal
ones. For classifiers the objective is taken with scores that each component got from a model that did not see its
patient (cross-fitted); scores of a model on its own training components would make every threshold look good.

Simple ways come first: that is the order in which they must be beaten.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from autoseg.postprocessing.effects import OBJECTIVES, lesions_found, mean_over_targets, outcome
from autoseg.postprocessing.fitting import CLASSIFIERS, fit_isotonic, model_scores
from autoseg.postprocessing.models import calibrated
from autoseg.postprocessing.rows import Bools, Floats, Ints, Painting, Rows
from autoseg.postprocessing.target_rules import apply_target_rule
from autoseg.records.postprocessing import Boosting, LearningSettings, Logistic, TargetRule

MAX_THRESHOLDS = 40
"""Thresholds tried a rule, at even quantiles of the scores."""
_NOISE = 1e-9


@dataclass(frozen=True)
class Problem:
    """One target to find a rule for, and what stands for the others."""

    rows: Rows
    how: Painting
    target: int
    standing: Bools
    """`n`: decisions that hold until something better is found; of this target's rows: to change nothing."""
    settings: LearningSettings
    memory: dict[Hashable, Floats] = field(default_factory=dict)
    """Cross-fitted scores that two candidates share."""

    @property
    def own(self) -> Bools:
        """`n`: rows of this target."""
        own: Bools = self.rows.target == self.target
        return own


Fit = Callable[[Problem, Bools], TargetRule]


def decisions(rule: TargetRule, rows: Rows, own: Bools) -> tuple[Bools, Floats]:
    """Apply a target's rule to some rows of the table.

    Args:
        rule: of the target.
        rows: `n` components and candidates.
        own: `n` rows to decide, all of the rule's target.

    Returns:
        Decision `n` (False outside `own`) and score `n` (NaN outside `own`, and where the rule has no score).
    """
    keep, scores = np.zeros(len(own), dtype=bool), np.full(len(own), np.nan)
    keep[own], scores[own] = apply_target_rule(
        rule, rows.is_decided[own], rows.in_largest[own], rows.features[own], rows.names
    )
    return keep, scores


def divided(rows: Rows, cases: Bools, settings: LearningSettings) -> list[Bools]:
    """Divide cases into the parts of a cross-validation, without splitting a patient.

    Args:
        rows: which patient each of the `c` cases belongs to, and how many components it has.
        cases: `c` cases to divide.
        settings: number of parts, and below how many patients each is a part of its own.

    Returns:
        One mask `c` a part. Patients go to the part with the fewest components so far, those with most first.
    """
    counts: dict[str, int] = {}
    weights = np.bincount(rows.case, minlength=len(rows.cases))
    for position in np.flatnonzero(cases):
        group = rows.groups[position]
        counts[group] = counts.get(group, 0) + int(weights[position]) + 1
    few = len(counts) < settings.leave_one_out_below
    num = len(counts) if few else min(settings.num_folds, len(counts))
    loads, part_of = [0] * num, {}
    for group in sorted(counts, key=lambda g: (-counts[g], g)):
        lightest = loads.index(min(loads))
        part_of[group] = lightest
        loads[lightest] += counts[group]
    part = np.array([part_of.get(group, -1) for group in rows.groups])
    return [cases & (part == number) for number in range(num)]


def learnable(rows: Rows, own: Bools, cases: Bools) -> Bools:
    """Rows (`n`) that a classifier may learn from: of the target, of the cases given, with a known truth."""
    chosen: Bools = own & cases[rows.case] & (rows.truth >= 0)
    return chosen


def _nothing(problem: Problem, _cases: Bools) -> TargetRule:
    return TargetRule(target=problem.how.names[problem.target], method="nothing")


def _keep_largest(problem: Problem, cases: Bools) -> TargetRule:
    """The better of both kinds of keep-largest, or nothing where neither helps."""
    rules = [_nothing(problem, cases).model_copy(update={"method": "keep_largest"})]
    rules += [rules[0].model_copy(update={"keep_largest": kind}) for kind in ("own", "foreground")]
    values = [_judge(problem, decisions(rule, problem.rows, problem.own)[0], cases)[0] for rule in rules]
    return rules[_first_best(values)]


def _threshold(problem: Problem, cases: Bools, method: str, feature: str) -> TargetRule:
    rule = TargetRule(target=problem.how.names[problem.target], method=method, feature=feature)
    return _with_thresholds(problem, rule, problem.rows.column(feature), cases, restores=False)


def _classifier(problem: Problem, cases: Bools, kind: str, is_calibrated: bool) -> TargetRule:
    method = f"calibrated_{kind}" if is_calibrated else kind
    rule = TargetRule(target=problem.how.names[problem.target], method=method)
    learn = learnable(problem.rows, problem.own, cases)
    if not _has_both(problem.rows.truth[learn]):
        return rule
    scores = cross_fitted(problem, cases, kind)
    model = CLASSIFIERS[kind](problem.rows.features[learn], problem.rows.truth[learn], problem.rows.names)
    curve = None
    if is_calibrated:
        known = learn & np.isfinite(scores)
        curve = fit_isotonic(scores[known], problem.rows.truth[known])
        scores = np.where(np.isfinite(scores), calibrated(curve, np.nan_to_num(scores)), np.nan)
    rule = rule.model_copy(
        update={
            "logistic": model if isinstance(model, Logistic) else None,
            "boosting": model if isinstance(model, Boosting) else None,
            "isotonic": curve,
        }
    )
    return _with_thresholds(problem, rule, scores, cases, restores=True)


CANDIDATES: dict[str, Fit] = {
    "nothing": _nothing,
    "keep_largest": _keep_largest,
    "minimum_volume": partial(_threshold, method="minimum_volume", feature="volume_mm3"),
    "minimum_confidence": partial(_threshold, method="minimum_confidence", feature="probability_mean"),
    "logistic": partial(_classifier, kind="logistic", is_calibrated=False),
    "calibrated_logistic": partial(_classifier, kind="logistic", is_calibrated=True),
    "boosting": partial(_classifier, kind="boosting", is_calibrated=False),
    "calibrated_boosting": partial(_classifier, kind="boosting", is_calibrated=True),
}
"""Name -> function `(problem, training cases c) -> rule`, the simplest first. `calibrated`: isotonic regression on
cross-fitted scores."""
LEARNED = tuple(name for name in CANDIDATES if name.removeprefix("calibrated_") in CLASSIFIERS)


def cross_fitted(problem: Problem, cases: Bools, kind: str) -> Floats:
    """Score of each row (`n`) of the target in the cases given, by a model that did not see its patient; else NaN."""
    key = (kind, cases.tobytes())
    if key not in problem.memory:
        rows, own = problem.rows, problem.own
        scores = np.full(len(own), np.nan)
        for part in divided(rows, cases, problem.settings):
            learn, asked = learnable(rows, own, cases & ~part), own & part[rows.case]
            if _has_both(rows.truth[learn]) and asked.any():
                model = CLASSIFIERS[kind](rows.features[learn], rows.truth[learn], rows.names)
                scores[asked] = model_scores(model, rows.features[asked], rows.names)
        problem.memory[key] = scores
    return problem.memory[key]


def _with_thresholds(problem: Problem, rule: TargetRule, scores: Floats, cases: Bools, *, restores: bool) -> TargetRule:
    """The rule with the thresholds that serve the cases given best.

    First the one for components. Then, where candidates may be restored, the one for those. Neither may cost the target
    more lesion sensitivity over these cases than the settings allow.
    """
    rows, own = problem.rows, problem.own & np.isfinite(scores)
    decided, candidates = own & rows.is_decided, own & ~rows.is_decided
    base = problem.own & rows.is_decided
    least = (_judge(problem, base, cases)[1] or 0.0) - problem.settings.sensitivity_margin - _NOISE

    def best(options: Sequence[float | None], keep_of: Callable[[float | None], Bools]) -> float | None:
        values = []
        for option in options:
            value, sensitivity = _judge(problem, keep_of(option), cases)
            values.append(value if option is None or sensitivity is None or sensitivity >= least else None)
        return options[_first_best(values)]

    of_cases = cases[rows.case]
    minimum = best(
        [None, *_cuts(scores[decided & of_cases])],
        lambda cut: base if cut is None else base & ~(decided & (scores < cut)),
    )
    kept = base if minimum is None else base & ~(decided & (scores < minimum))
    restore_from = None
    if restores:
        restore_from = best(
            [None, *_cuts(scores[candidates & of_cases])[::-1]],
            lambda cut: kept if cut is None else kept | (candidates & (scores >= cut)),
        )
    return rule.model_copy(update={"minimum": minimum, "restore_from": restore_from})


def _cuts(scores: Floats) -> list[float]:
    """Thresholds between the scores that occur, rising, and one above all."""
    values = np.unique(scores)
    if not values.size:
        return []
    cuts = np.append((values[1:] + values[:-1]) / 2, np.nextafter(values[-1], np.inf))
    # The middle of two neighbours may round to the lower one.
    cuts[:-1] = np.where(cuts[:-1] > values[:-1], cuts[:-1], values[1:])
    if len(cuts) > MAX_THRESHOLDS:
        cuts = np.unique(cuts[np.linspace(0, len(cuts) - 1, MAX_THRESHOLDS).round().astype(int)])
    return [float(cut) for cut in cuts]


def _judge(problem: Problem, keep: Bools, cases: Bools) -> tuple[float | None, float | None]:
    """With `keep` for the rows of this target, over the cases given: objective, and share of its lesions found."""
    found = outcome(problem.rows, problem.how, np.where(problem.own, keep, problem.standing))
    scores = OBJECTIVES[problem.settings.objective](problem.rows, problem.how, found)
    hit, lesions = (counted[cases, problem.target].sum() for counted in lesions_found(problem.rows, problem.how, found))
    return mean_over_targets(scores[cases]), float(hit / lesions) if lesions else None


def _first_best(values: Sequence[float | None]) -> int:
    """Position of the largest value, the first of equal ones."""
    best = 0
    for position, value in enumerate(values):
        if value is not None and (values[best] is None or value > values[best] + _NOISE):  # type: ignore[operator]
            best = position
    return best


def _has_both(truth: Ints) -> bool:
    return bool((truth == 0).sum() >= 2 and (truth == 1).sum() >= 2)
