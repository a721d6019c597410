"""Options that say how to score, read; evaluations and comparisons as plain text."""

from collections.abc import Mapping, Sequence
from typing import get_args

from pydantic import ValidationError

from autoseg.cli.options import interval
from autoseg.errors import UsageError
from autoseg.records.comparison import Comparison
from autoseg.records.detection import FrocCurve, LesionRule
from autoseg.records.results import Aggregate, Evaluation
from autoseg.records.scoring import Group, Scoring

_GROUPS: tuple[Group, ...] = get_args(Group)
_TABLES: dict[str, tuple[str, ...]] = {
    "overlap": ("dice", "iou", "sensitivity", "precision", "specificity"),
    "volume": ("volume_difference_mm3", "absolute_volume_difference_mm3", "relative_volume_difference"),
    "surface": ("nsd", "hd95_mm", "hausdorff_mm", "assd_mm", "boundary_dice"),
    "lesions": ("lesion_sensitivity", "lesion_precision", "lesion_f1"),
    "probabilities": ("ece", "brier"),
}
_POOLED = ("dice", "precision", "lesion_sensitivity", "lesion_precision", "lesion_f1")
_WIDTH = 33


def read_scoring(
    base: Scoring, metrics: str | None, tolerances: Sequence[str] | None, lesion_overlap: str | None
) -> Scoring:
    """Put the options of the command line into `base`.

    Args:
        base: what holds where nothing is asked for.
        metrics: groups with commas between them, or `all` that need no probabilities.
        tolerances: `NAME=MM` for one target each, or `MM` for all others.
        lesion_overlap: share, with `iou=` before it for intersection over union.

    Raises:
        UsageError: an option cannot be read.
    """
    changes: dict[str, object] = {}
    if metrics is not None:
        changes["groups"] = _read_groups(metrics)
    own: dict[str, float] = {}
    for text in tolerances or ():
        name, _, number = text.rpartition("=")
        value = _number(number, f"--tolerance {text}: expected NAME=MM or MM, for example liver=2")
        if name:
            own[name] = value
        else:
            changes["default_tolerance_mm"] = value
    changes["tolerances_mm"] = own
    if lesion_overlap is not None:
        changes["lesion_rule"] = _read_rule(lesion_overlap)
    return base.model_copy(update=changes)


def score_table(evaluation: Evaluation) -> str:
    """Mean scores a target as tables of plain text, one a group of metrics, then the pooled scores."""
    num_cases = len(evaluation.cases)
    rows: list[str] = []
    means = {**evaluation.targets, "mean of targets": evaluation.foreground_mean}
    for title, metrics in _TABLES.items():
        rows += _table(title, metrics, evaluation.targets if title == "volume" else means, num_cases)
    rows += _table("pooled over cases", _POOLED, evaluation.pooled, num_cases)
    rows += [_curve(target, curve) for target, curve in evaluation.froc.items()]
    if evaluation.scoring is not None:
        rows += _how(evaluation.scoring)
    rows.append(f"{num_cases} cases scored, {len(evaluation.failed)} failed; means over cases, 95 % intervals")
    return "\n".join(rows)


def comparison_table(comparison: Comparison) -> str:
    """The rows of a comparison as plain text."""
    header = ("first", "second", "difference (n)", "p", "p, Holm", "better")
    rows = [
        f"first: {comparison.first}",
        f"second: {comparison.second}",
        f"{'':36s}" + f"{header[0]:>10s}{header[1]:>10s}{header[2]:>38s}" + "".join(f"{h:>9s}" for h in header[3:]),
    ]
    for row in comparison.rows:
        name = f"{row.metric} {row.target}"[:36]
        difference = f"{interval(row.difference)} ({row.difference.num_cases})"
        numbers = "".join(f"{'-' if p is None else format(p, '.4f'):>9s}" for p in (row.p_value, row.p_holm))
        rows.append(f"{name:36s}{row.first:10.4f}{row.second:10.4f}{difference:>38s}{numbers}{row.better or '-':>9s}")
    rows.append(
        f"{len(comparison.cases)} cases of both; difference first - second with 95 % interval over cases; "
        "Wilcoxon signed-rank test, corrected over all rows"
    )
    if comparison.left_out:
        rows.append(f"on one side only: {', '.join(comparison.left_out)}")
    return "\n".join(rows)


def _table(
    title: str, metrics: Sequence[str], scores: Mapping[str, Mapping[str, Aggregate]], num_cases: int
) -> list[str]:
    used = [metric for metric in metrics if any(metric in aggregates for aggregates in scores.values())]
    if not used:
        return []
    rows = [f"{title:24s}" + "".join(f"{metric:>{_WIDTH}s}" for metric in used)]
    for name, aggregates in scores.items():
        cells = [_cell(aggregates[metric], num_cases) if metric in aggregates else "" for metric in used]
        rows.append(f"{name[:24]:24s}" + "".join(f"{cell:>{_WIDTH}s}" for cell in cells))
    return [*rows, ""]


def _cell(aggregate: Aggregate, num_cases: int) -> str:
    """A mean with its interval, and the number of cases where it is not defined in all."""
    text = interval(aggregate)
    return text if aggregate.num_cases in (0, num_cases) else f"{text} ({aggregate.num_cases})"


def _curve(target: str, curve: FrocCurve) -> str:
    """The sensitivities that CPM averages, in one line."""
    if curve.sensitivity_at is None or curve.cpm is None:
        return f"FROC {target}: not defined, no lesion in {curve.num_cases} cases"
    points = ", ".join(f"{s:.3f} at {r:g}" for r, s in zip(curve.rates, curve.sensitivity_at, strict=True))
    return f"FROC {target}: sensitivity {points} false positives a case; CPM {curve.cpm:.3f}"


def _how(scoring: Scoring) -> list[str]:
    own = "".join(f", {name} {value:g} mm" for name, value in scoring.tolerances_mm.items())
    rule = scoring.lesion_rule
    rows = []
    if {"surface", "boundary"} & set(scoring.groups):
        rows.append(f"surface tolerance {scoring.default_tolerance_mm:g} mm{own}")
    if "lesions" in scoring.groups:
        rows.append(f"a lesion is found at {rule.measure} >= {rule.minimum:g}")
    return rows


def _read_groups(text: str) -> tuple[Group, ...]:
    if text == "all":
        return tuple(group for group in _GROUPS if group != "probabilities")
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in _GROUPS]
    if unknown:
        raise UsageError(f"--metrics: {', '.join(unknown)} unknown; use some of {', '.join(_GROUPS)} or all.")
    return tuple(group for group in _GROUPS if group in names)


def _read_rule(text: str) -> LesionRule:
    measure, _, number = text.rpartition("=")
    expected = f"--lesion-overlap {text}: expected a share above 0 and up to 1, or iou=SHARE, for example iou=0.1"
    try:
        return LesionRule.model_validate({"measure": measure or "coverage", "minimum": _number(number, expected)})
    except ValidationError as error:
        raise UsageError(f"{expected}.") from error


def _number(text: str, expected: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise UsageError(f"{expected}.") from error
    if not 0 <= value < float("inf"):
        raise UsageError(f"{expected}.")
    return value
