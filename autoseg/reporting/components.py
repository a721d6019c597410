"""A rule of components in, the report's section about false positives out: what was tried, what stands, and why."""

from autoseg.postprocessing.features import feature_of
from autoseg.records.postprocessing import CandidateScore, ComponentRule, TargetRule
from autoseg.reporting.html import Block, Folded, Paragraph, Section, Table

_HEADER = ("Target", "Post-processing", "", "Score", "Over what stood before", "False components a case",
           "False volume a case (mm3)", "Lesions found", "Empty cases left empty", "AUC", "Brier", "Removed",
           "Restored")  # fmt: skip


def components_section(rule: ComponentRule, reasons: tuple[str, ...]) -> Section:
    """What is known about components of held-out segmentations, and what happens to them from now on."""
    learning = rule.learning
    parts = "one patient" if rule.num_groups < learning.leave_one_out_below else f"{learning.num_folds} parts"
    how = "left out at a time" if rule.num_groups < learning.leave_one_out_below else "each held out in turn"
    blocks: list[Block] = [
        Paragraph(
            f"{rule.num_cases} held-out cases of {rule.num_groups} patients; every number is from nested "
            f"cross-validation ({parts}, {how}), so no component was decided by anything that saw its patient. A way "
            "of post-processing is accepted when its score rises over what stood before with a 95 % interval above "
            f"zero, no target falls by more than {learning.dice_margin:g}, and no more than "
            f"{100 * learning.sensitivity_margin:g} % of the lesions are lost. All components are listed in "
            "component_table.csv in the dataset's folder."
        ),
        _counts(rule),
        *(Paragraph(_decision(target)) for target in rule.targets),
        Table(_HEADER, tuple(_row(score) for score in rule.scores), "Simplest first.", num_text_columns=3),
    ]
    for target in rule.targets:
        if target.logistic is not None:
            blocks.append(_coefficients(target))
    for name, importances in rule.importances.items():
        rows = tuple((feature, feature_of(feature).meaning, f"{fall:.3f}") for feature, fall in importances)
        caption = f"{name}: fall of the area under the ROC curve when the feature is exchanged between components."
        blocks.append(Table(("Feature", "What it is", "Fall"), rows, caption, num_text_columns=2))
    if reasons:
        lines = tuple((reason,) for reason in reasons)
        blocks.append(Folded("Why each was accepted or rejected", (Table(("Tried",), lines),)))
    return Section("components", "False positives", tuple(blocks))


def _counts(rule: ComponentRule) -> Table:
    rows = tuple((name, *(str(count) for count in counts)) for name, counts in rule.counts.items())
    header = ("Target", "True components", "False components", "True candidates", "False candidates")
    return Table(header, rows, "Candidates: what a lower threshold would add.")


def _decision(rule: TargetRule) -> str:
    if rule.keep_largest is not None:
        what = "its largest component" if rule.keep_largest == "own" else "what lies in the largest of all foreground"
        return f"{rule.target}: only {what} stays."
    done = []
    if rule.minimum is not None:
        done.append(f"components with a score below {rule.minimum:.3g} are removed")
    if rule.restore_from is not None:
        done.append(f"candidates with a score of at least {rule.restore_from:.3g} are restored")
    if not done:
        return f"{rule.target}: every component stays."
    by = rule.feature if rule.feature is not None else rule.method.replace("_", " ")
    return f"{rule.target}: {' and '.join(done)} (score: {by})."


def _row(score: CandidateScore) -> tuple[str, ...]:
    difference = "-"
    if score.difference is not None:
        low, high = (("-" if v is None else f"{v:+.4f}") for v in (score.low, score.high))
        difference = f"{score.difference:+.4f} [{low}, {high}]"
    return (
        score.target,
        score.method.replace("_", " "),
        "accepted" if score.accepted else "",
        _number(score.score, 4),
        difference,
        f"{score.false_components_per_case:.2f}",
        f"{score.false_volume_mm3_per_case:.1f}",
        _number(score.lesion_sensitivity),
        _number(score.empty_cases_left_empty),
        _number(score.auc),
        _number(score.brier),
        str(score.removed),
        str(score.restored),
    )


def _coefficients(rule: TargetRule) -> Table:
    assert rule.logistic is not None
    pairs = sorted(zip(rule.logistic.features, rule.logistic.coefficients, strict=True), key=lambda p: -abs(p[1]))
    rows = tuple((name, feature_of(name).meaning, f"{value:+.3f}") for name, value in pairs[:10])
    caption = f"{rule.target}: largest coefficients; a standard deviation more adds this to the log-odds of being true."
    return Table(("Feature", "What it is", "Coefficient"), rows, caption, num_text_columns=2)


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
