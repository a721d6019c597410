"""Decisions of a classifier and of simple rules in, what the classifier is better by out, with intervals.

"Better than the best rule" has to say in what. Four measures, each against the rule that is best in it: Dice, lesion
F1, the FROC curve's mean sensitivity (CPM), and false positives a case (of the rules that keep the lesions). The rule
is chosen on the same cases on which it is compared, which favours the rule.

Patients are drawn with replacement, and both sides are measured on the same ones. For CPM each resample has a curve of
its own: a component counts as often as its case was drawn.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from autoseg.metrics.detection import FROC_RATES
from autoseg.postprocessing.effects import dice_of, false_components, lesion_f1_of, lesions_found, outcome
from autoseg.postprocessing.methods import Decisions
from autoseg.postprocessing.nested import case_weights, weighted_objective
from autoseg.postprocessing.rows import Floats, Ints, Painting, Rows
from autoseg.records.false_positives import Advantage, Change, Measure


@dataclass(frozen=True)
class _Drawn:
    """A way's measures on all cases (row 0) and on each resample (further rows), better when higher; NaN: undefined."""

    values: dict[Measure, Floats]
    """Each `1 + r`."""
    sensitivity: float
    """Share of all lesions that is found."""


def advantages(
    rows: Rows, how: Painting, ways: Mapping[str, Decisions], rules: Mapping[str, Decisions], margin: float
) -> dict[str, dict[Measure, Advantage]]:
    """What each way is better by than the best rule.

    Args:
        rows: matched components of all cases.
        how: of their targets.
        ways: name -> nested decisions to judge.
        rules: name -> nested decisions of simple rules; not empty.
        margin: lesion sensitivity that a rule may lose and still be asked for its false positives.

    Returns:
        Way -> measure -> advantage. Positive is better, also for false positives (fewer). A measure that is not defined
        is left out.
    """
    weights = np.concatenate([np.ones((1, len(rows.cases))), case_weights(rows)])
    simple = {name: _drawn(rows, how, rule, weights) for name, rule in rules.items()}
    hit, lesions = (count.sum() for count in lesions_found(rows, how, outcome(rows, how, rows.is_decided)))
    least = (hit / lesions if lesions else 0.0) - margin - 1e-9
    best: dict[Measure, str] = {}
    for measure in next(iter(simple.values())).values:
        asked = {
            name: rule.values[measure][0]
            for name, rule in simple.items()
            if measure != "false_positives" or rule.sensitivity >= least
        }
        defined = {name: value for name, value in asked.items() if np.isfinite(value)}
        if defined:
            best[measure] = max(defined, key=lambda name: defined[name])
    found = {}
    for name, way in ways.items():
        ours = _drawn(rows, how, way, weights)
        pairs = {m: (rule, ours.values[m] - simple[rule].values[m]) for m, rule in best.items()}
        found[name] = {m: Advantage(rule=rule, change=_change(d)) for m, (rule, d) in pairs.items() if d[0] == d[0]}
    return found


def resampled_cpm(rows: Rows, decisions: Decisions, target: int, weights: Floats) -> Floats:
    """CPM of one target where case `c` counts `weights[:, c]` times (`r c`); `r`, NaN where no lesion is drawn.

    With equal weights it is `metrics.detection.froc`'s. At least one case must count.
    """
    chosen = np.flatnonzero(decisions.ranked & (rows.target == target))
    chosen = chosen[np.argsort(-decisions.scores[chosen], kind="stable")]
    scores, case = decisions.scores[chosen], rows.case[chosen]
    false = np.cumsum(weights[:, case] * rows.is_false[chosen], axis=1)
    found = np.cumsum(weights[:, case] * _first_hits(rows, chosen), axis=1)
    last = np.flatnonzero(np.diff(scores, append=-np.inf) < 0)  # of the components that share a score
    lesions = weights @ np.bincount(rows.lesion_case[rows.lesion_target == target], minlength=len(rows.cases))
    per_case = false[:, last] / weights.sum(axis=1, keepdims=True)
    padded = np.concatenate([np.zeros((len(weights), 1)), found[:, last]], axis=1)
    read = np.zeros(len(weights))
    for rate in FROC_RATES:
        at = (per_case <= rate * (1 + 1e-12)).sum(axis=1)
        read += padded[np.arange(len(weights)), at]
    with np.errstate(invalid="ignore", divide="ignore"):
        cpm: Floats = np.where(lesions > 0, read / len(FROC_RATES) / lesions, np.nan)
    return cpm


def _first_hits(rows: Rows, order: Ints) -> Floats:
    """Of each row of `order`: lesions that it is the first to find."""
    position = np.full(len(rows.target), len(order))
    position[order] = np.arange(len(order))
    of_pair = position[rows.hit_rows]
    first = np.full(len(rows.lesion_case), len(order))
    np.minimum.at(first, rows.hit_lesions, of_pair)
    hits: Floats = np.bincount(first[first < len(order)], minlength=len(order)).astype(np.float64)
    return hits


def _drawn(rows: Rows, how: Painting, way: Decisions, weights: Floats) -> _Drawn:
    found = outcome(rows, how, way.keep)
    false = false_components(rows, how, found).sum(axis=1)
    cpm = np.stack([resampled_cpm(rows, way, target, weights) for target in range(len(how.names))])
    there = np.isfinite(cpm)
    with np.errstate(invalid="ignore"):
        mean_cpm = np.where(there, cpm, 0.0).sum(axis=0) / there.sum(axis=0)
    hit, lesions = (count.sum() for count in lesions_found(rows, how, found))
    values: dict[Measure, Floats] = {
        "dice": weighted_objective(dice_of(rows, how, found), weights),
        "lesion_f1": weighted_objective(lesion_f1_of(rows, how, found), weights),
        "cpm": mean_cpm,
        "false_positives": -(weights @ false) / weights.sum(axis=1),
    }
    return _Drawn(values, float(hit / lesions) if lesions else 0.0)


def _change(differences: Floats) -> Change:
    drawn = differences[1:][np.isfinite(differences[1:])]
    if not drawn.size:
        return Change(mean=float(differences[0]), low=None, high=None)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Change(mean=float(differences[0]), low=float(low), high=float(high))
