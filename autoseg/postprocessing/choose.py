"""The table of out-of-fold components in, the rule of every target out, with everything that was tried and why.

Targets whose voxels cannot meet (classes) are chosen one by one; nested regions together, one after another with what
was accepted for the others before. For each target the candidates are gone through from the simplest on, and each must
beat what stands, which at first is to change nothing.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from autoseg.postprocessing.candidates import CANDIDATES, LEARNED, Problem, learnable
from autoseg.postprocessing.effects import untouched
from autoseg.postprocessing.fitting import model_scores
from autoseg.postprocessing.nested import Nested, area_under_roc, nested_decisions, scored, verdict
from autoseg.postprocessing.rows import Bools, Floats, Painting, Rows, painting, related, restricted
from autoseg.records.labels import LabelScheme
from autoseg.records.postprocessing import (
    CandidateScore,
    ComponentRule,
    ComponentSettings,
    LearningSettings,
    TargetRule,
)

_LISTED_FEATURES = 10


@dataclass(frozen=True)
class Choice:
    """The rule to use from now on, and the decisions it is judged by."""

    rule: ComponentRule
    keep: Bools
    """`n`: nested decision on each out-of-fold component, by rules that did not see its patient."""
    scores: Floats
    """`n`: nested score by the method that stands (a probability for classifiers), NaN where there is none."""
    reasons: tuple[str, ...]
    """A line for each candidate tried."""


@dataclass(frozen=True)
class _Chosen:
    """The outcome of one target."""

    rule: TargetRule
    nested: Nested
    scores: tuple[CandidateScore, ...]
    notes: tuple[str, ...]
    importances: tuple[tuple[str, float], ...]


def choose_components(
    rows: Rows,
    labels: LabelScheme,
    components: ComponentSettings,
    settings: LearningSettings,
    methods: tuple[str, ...] = tuple(CANDIDATES),
) -> Choice:
    """Choose a rule for every target by nested cross-validation.

    Args:
        rows: matched components of all cases.
        labels: scheme of the targets.
        components: how they were found; kept in the rule, since new cases must be measured alike.
        settings: how candidates are compared.
        methods: keys of `CANDIDATES` to try.
    """
    how = painting(labels)
    rules: list[TargetRule | None] = [None] * len(how.names)
    keep, scores = untouched(rows).copy(), np.full(len(rows.target), np.nan)
    tried: list[CandidateScore] = []
    reasons: list[str] = []
    importances: dict[str, tuple[tuple[str, float], ...]] = {}
    for targets in related(how):
        part, paint, positions = restricted(rows, how, targets)
        standing = untouched(part).copy()
        for number, target in enumerate(targets):
            chosen = _choose_target(Problem(part, paint, number, standing, settings), methods)
            own = part.target == number
            standing = np.where(own, chosen.nested.keep, standing)
            rules[target] = chosen.rule
            keep[positions[own]], scores[positions[own]] = chosen.nested.keep[own], chosen.nested.scores[own]
            tried += chosen.scores
            reasons += [*chosen.notes, *(score.reason for score in chosen.scores if score.reason)]
            if chosen.importances:
                importances[how.names[target]] = chosen.importances
    rule = ComponentRule(
        components=components,
        learning=settings,
        targets=tuple(rule for rule in rules if rule is not None),
        num_cases=len(rows.cases),
        num_groups=len(set(rows.groups)),
        counts=_counts(rows, how),
        scores=tuple(tried),
        importances=importances,
    )
    return Choice(rule, keep, scores, tuple(reasons))


def _choose_target(problem: Problem, methods: tuple[str, ...]) -> _Chosen:
    rows, how, settings = problem.rows, problem.how, problem.settings
    lacking = what_is_lacking(problem)
    notes = (f"{how.names[problem.target]}: classifiers are not tried, {lacking}",) if lacking else ()
    everyone = np.ones(len(rows.cases), dtype=bool)
    nested = nested_decisions(problem, CANDIDATES["nothing"])
    stands, values = scored(problem, "nothing", nested)
    tried, all_nested = [stands], {"nothing": nested}
    best = "nothing"
    for method in methods:
        if method == "nothing" or (method in LEARNED and lacking):
            continue
        all_nested[method] = nested_decisions(problem, CANDIDATES[method])
        score, new_values = scored(problem, method, all_nested[method])
        score = verdict(score, stands, new_values, values, rows, how, settings)
        tried.append(score)
        if score.accepted:
            best, stands, values = method, score, new_values
    shown = best if best in LEARNED else _surest(tried)
    return _Chosen(
        rule=CANDIDATES[best](problem, everyone),
        nested=all_nested[best],
        scores=tuple(tried),
        notes=notes,
        importances=_importances(problem, all_nested[shown]) if shown else (),
    )


def what_is_lacking(problem: Problem) -> str:
    """What a target lacks for a classifier; empty: nothing."""
    rows, settings = problem.rows, problem.settings
    known = learnable(rows, problem.own, np.ones(len(rows.cases), dtype=bool))
    groups = np.array(rows.groups)[rows.case]
    for truth, name in ((1, "true"), (0, "false")):
        chosen = known & (rows.truth == truth)
        if chosen.sum() < settings.min_components:
            return f"there are {chosen.sum()} {name} components and candidates, {settings.min_components} are needed"
        if len(set(groups[chosen])) < settings.min_groups:
            return f"{name} ones are in {len(set(groups[chosen]))} patients, {settings.min_groups} are needed"
    return ""


def _surest(tried: list[CandidateScore]) -> str | None:
    """The classifier that tells true from false best, although none was accepted."""
    areas = {score.method: score.auc for score in tried if score.method in LEARNED and score.auc is not None}
    return max(areas, key=lambda method: areas[method]) if areas else None


def _importances(problem: Problem, nested: Nested) -> tuple[tuple[str, float], ...]:
    """Fall of the nested area under the ROC curve when one feature is exchanged between held-out components."""
    rows = problem.rows
    known = problem.own & (rows.truth >= 0)
    falls: dict[str, list[float]] = {}
    rng = np.random.default_rng(0)
    for rule, part in zip(nested.rules, nested.parts, strict=True):
        model = rule.logistic or rule.boosting
        held_out = np.flatnonzero(known & part[rows.case])
        if model is None or (before := area_under_roc(model_scores(model, rows.features[held_out], rows.names),
                                                      rows.truth[held_out])) is None:  # fmt: skip
            continue
        for name in model.features:
            column = rows.names.index(name)
            changed = rows.features[held_out]
            changed[:, column] = rng.permutation(changed[:, column])
            after = area_under_roc(model_scores(model, changed, rows.names), rows.truth[held_out])
            falls.setdefault(name, []).append(before - (after or 0.0))
    means = sorted(((name, float(np.mean(values))) for name, values in falls.items()), key=lambda item: -item[1])
    return tuple((name, value) for name, value in means[:_LISTED_FEATURES] if value > 0)


def _counts(rows: Rows, how: Painting) -> dict[str, tuple[int, int, int, int]]:
    counts = {}
    for number, name in enumerate(how.names):
        own = rows.target == number
        count = partial(_count, rows, own)
        counts[name] = (count(1, True), count(0, True), count(1, False), count(0, False))
    return counts


def _count(rows: Rows, own: Bools, truth: int, is_decided: bool) -> int:
    return int((own & (rows.truth == truth) & (rows.is_decided == is_decided)).sum())
