"""The comparison of ways against false positives in, its section of the report out."""

from autoseg.records.false_positives import FalsePositiveComparison, MethodRow, mean_sensitivities
from autoseg.reporting.figures import draw_froc
from autoseg.reporting.html import Block, Drawing, Paragraph, Section, Table


def false_positives_section(comparison: FalsePositiveComparison) -> Section:
    """What each way leaves, and the FROC curves before and after."""
    measured = [row for row in comparison.rows if row.is_measured]
    blocks: list[Block] = [
        Paragraph(
            f"{comparison.configuration} of plan {comparison.plan}, {comparison.num_cases} held-out cases of "
            f"{comparison.num_patients} patients. Rules and classifiers decide by nested cross-validation. "
            f"{comparison.verdict}"
        ),
        _table(comparison),
    ]
    curves = {row.name: values for row in measured if (values := mean_sensitivities(row))}
    if curves:
        rates = next(iter(measured[0].targets.values())).froc.rates
        caption = "Lesion sensitivity against false positives a case, mean over targets; dashed: nothing is done."
        blocks.append(Drawing(draw_froc(curves, rates, dashed=measured[0].name), caption))
    return Section("false-positives", "Ways against false positives", tuple(blocks))


def _table(comparison: FalsePositiveComparison) -> Table:
    columns = ("Way", "Note", "False positives a case", "Change", "Lesion sensitivity", "Dice", "CPM")
    caption = "Changes with bootstrap 95 % intervals over patients, against doing nothing."
    return Table(columns, tuple(_row(row) for row in comparison.rows), caption, num_text_columns=2)


def _row(row: MethodRow) -> tuple[str, ...]:
    change = row.false_positives_change
    changed = "" if change is None or change.mean is None else f"{change.mean:+.2f}"
    if change is not None and change.low is not None and change.high is not None:
        changed += f" [{change.low:+.2f}, {change.high:+.2f}]"
    values = (row.lesion_sensitivity, row.dice, row.cpm)
    rate = "-" if row.false_positives_per_case is None else f"{row.false_positives_per_case:.2f}"
    return (row.name, row.note, rate, changed, *("-" if value is None else f"{value:.3f}" for value in values))
