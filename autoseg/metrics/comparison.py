"""Two evaluations of the same cases in, a paired comparison with corrected p-values out.

The unit is the case: pairing removes its difficulty, which both sides share. P-values are corrected over all rows, that
is over every target and metric compared, since whoever looks at many rows finds some by chance. `COMPARED` is short
for that reason, and leaves out what says the same again (IoU is a function of Dice).
"""

from collections.abc import Mapping, Sequence

from autoseg.metrics.build import METRICS
from autoseg.metrics.statistics import compare_paired, holm
from autoseg.records.comparison import Comparison, ComparisonRow
from autoseg.records.results import Aggregate, Evaluation, Score

COMPARED = ("dice", "nsd", "hd95_mm", "lesion_f1")
MEAN = "mean of targets"

Pair = tuple[float, float]


def compare_evaluations(
    first: Evaluation, second: Evaluation, metrics: Sequence[str] = COMPARED, names: tuple[str, str] | None = None
) -> Comparison:
    """Compare case by case: the mean over targets first, then each target.

    A target counts in a case only where both sides have a value for it, and a case's mean is over those targets. Rows
    without any such case are left out.

    Args:
        first: scores of one side.
        second: scores of the other, made in the same way.
        metrics: names in `METRICS`.
        names: what the sides are, for people; None: their titles.

    Raises:
        ValueError: the two were not scored in the same way, or have no case in common.
    """
    if first.scoring != second.scoring:
        raise ValueError("two evaluations can be compared only if both were scored in the same way")
    cases = sorted(set(first.cases) & set(second.cases))
    if not cases:
        raise ValueError("the two evaluations have no case in common")
    rows: list[ComparisonRow] = []
    for metric in metrics:
        both = [_common(first.cases[case], second.cases[case], metric) for case in cases]
        columns: dict[str, list[Pair | None]] = {t: [pairs.get(t) for pairs in both] for t in first.targets}
        if METRICS[metric].of_targets and len(columns) > 1:
            columns = {MEAN: [_mean(list(pairs.values())) if pairs else None for pairs in both], **columns}
        rows += [_row(target, metric, column) for target, column in columns.items() if any(column)]
    corrected = holm([row.p_value for row in rows])
    return Comparison(
        first=first.title if names is None else names[0],
        second=second.title if names is None else names[1],
        scoring=first.scoring,
        cases=tuple(cases),
        rows=tuple(row.model_copy(update={"p_holm": p}) for row, p in zip(rows, corrected, strict=True)),
        left_out=tuple(sorted(set(first.cases) ^ set(second.cases))),
    )


def _common(first: Mapping[str, Score], second: Mapping[str, Score], metric: str) -> dict[str, Pair]:
    """Target -> both values of a case, where both are defined."""
    pairs = {}
    for target in first:
        a = getattr(first[target], metric)
        b = getattr(second[target], metric) if target in second else None
        if a is not None and b is not None:
            pairs[target] = (a, b)
    return pairs


def _mean(pairs: Sequence[Pair]) -> Pair:
    return sum(a for a, _ in pairs) / len(pairs), sum(b for _, b in pairs) / len(pairs)


def _row(target: str, metric: str, column: Sequence[Pair | None]) -> ComparisonRow:
    pairs = [pair for pair in column if pair is not None]
    first, second = _mean(pairs)
    found = compare_paired([a for a, _ in pairs], [b for _, b in pairs])
    return ComparisonRow(
        target=target,
        metric=metric,
        first=first,
        second=second,
        difference=found.difference,
        better=_better(metric, found.difference),
        p_value=found.p_value,
        p_holm=None,
        num_undefined=len(column) - len(pairs),
    )


def _better(metric: str, difference: Aggregate) -> str | None:
    direction = METRICS[metric].better
    if direction is None or difference.low is None or difference.high is None:
        return None
    if difference.low <= 0 <= difference.high:
        return None
    return "first" if (difference.low > 0) == (direction == "higher") else "second"
