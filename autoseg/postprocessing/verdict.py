"""Ways of reducing false positives with their numbers in, one short judgement in words out."""

from collections.abc import Sequence

from autoseg.records.false_positives import Measure, MethodRow

_MEASURES: dict[Measure, str] = {
    "dice": "Dice",
    "lesion_f1": "lesion F1",
    "cpm": "CPM",
    "false_positives": "false positives a case",
}


def verdict(rows: Sequence[MethodRow], sensitivity_margin: float) -> str:
    """Which way leaves the fewest false positives among those that cost little, and what is not certain about it.

    Args:
        rows: `none` first, all of the same cases.
        sensitivity_margin: lesion sensitivity that may be lost.
    """
    none, *ways = rows
    missing = [row.name for row in ways if not row.is_measured]
    rest = f" Not compared: {', '.join(missing)}." if missing else ""
    if not none.is_measured:
        return f"Nothing could be compared.{rest}"
    if not none.false_positives_per_case:
        return f"There are no false positives to reduce.{rest}"
    least = (none.lesion_sensitivity or 0.0) - sensitivity_margin
    careful = [row for row in ways if row.is_measured and (row.lesion_sensitivity or 0.0) >= least - 1e-9]
    fewer = [row for row in careful if _rate(row) < _rate(none)]
    points = f"{100 * sensitivity_margin:g} points of lesion sensitivity"
    if not fewer:
        return f"No way leaves fewer false positives without losing more than {points}.{rest}"
    best = min(fewer, key=lambda row: (_rate(row), -(row.dice or 0.0)))
    text = (
        f"{best.name} leaves the fewest false positives of the ways that lose at most {points}: "
        f"{_rate(best):.2f} a case instead of {_rate(none):.2f} ({100 * (_rate(best) / _rate(none) - 1):+.0f} %), "
        f"lesion sensitivity {_text(best.lesion_sensitivity)} instead of {_text(none.lesion_sensitivity)}, "
        f"Dice {_text(best.dice)} instead of {_text(none.dice)}."
    )
    change = best.false_positives_change
    if change is None or change.high is None or change.high >= 0:
        text += " The interval of the difference is not below zero: it may be chance."
    if best.dice_change is not None and best.dice_change.high is not None and best.dice_change.high < 0:
        text += " It costs Dice, beyond chance."
    rules = [row for row in careful if row.method == "rule" and row is not best]
    if best.method != "rule" and rules:
        simple = min(rules, key=_rate)
        text += f" The best simple rule, {simple.variant}, leaves {_rate(simple):.2f}."
    return text + _over_rules(careful) + rest


def _over_rules(careful: Sequence[MethodRow]) -> str:
    """What classifiers are better by than the best rule, as far as it is beyond chance."""
    judged = [row for row in careful if row.over_best_rule]
    found = [
        f"{row.variant} over {advantage.rule} in {_MEASURES[measure]} by {change.mean:.4f} "
        f"[{change.low:.4f}, {change.high:.4f}]"
        for row in judged
        for measure, advantage in row.over_best_rule.items()
        if (change := advantage.change).low is not None and change.low > 0 and change.high is not None
    ]
    if found:
        return f" Better than the best simple rule beyond chance: {'; '.join(found)}."
    return " No classifier is better than the best simple rule beyond chance." if judged else ""


def _rate(row: MethodRow) -> float:
    return row.false_positives_per_case or 0.0


def _text(value: float | None) -> str:
    return "(not defined)" if value is None else f"{value:.3f}"
