"""An audit and pictures of its suspicions in, the sections of its page out."""

from collections.abc import Mapping, Sequence

from autoseg.records.audit import Audit, AuditedCase, Suspicion
from autoseg.reporting.html import Block, Command, Fact, Folded, Gallery, Paragraph, Picture, Section, Table

_LISTED, _SUMMARISED = 50, 10
_COLUMNS = ("Case", "Looks", "Why", "Score")
_KINDS = {
    "swapped": "sides exchanged",
    "mirrored": "mirrored",
    "shifted": "shifted",
    "too_small": "too small",
    "too_large": "too large",
    "missing_class": "class missing",
    "missed_part": "part missed",
    "extra_part": "part too much",
    "outlying_volume": "unusual volume",
    "swapped_sides": "sides exchanged",
}
"""Kind of a suspicion -> what the reference looks like, for people."""


def suspicion_caption(suspicion: Suspicion, where: str) -> str:
    """Text under a picture; `where` says which slice it shows."""
    return f"{suspicion.case}, {where}. Score {suspicion.score:.1f}: {suspicion.why}"


def audit_facts(audit: Audit) -> tuple[Fact, ...]:
    """Numbers for the top of the page."""
    return (
        Fact(str(len(audit.cases)), "training cases"),
        Fact(str(sum(case.has_prediction for case in audit.cases)), "with a held-out prediction"),
        Fact(str(sum(bool(case.suspicions) for case in audit.cases)), "suspicious cases"),
        Fact(str(len(audit.suspicions)), "suspicions"),
    )


def audit_sections(
    audit: Audit, pictures: Mapping[str, Sequence[Picture]], colours: Mapping[str, str]
) -> tuple[Section, ...]:
    """The page: what was looked at, the ranking, pictures by case, what to do next."""
    suspicious = [case for case in audit.cases if case.suspicions]
    sections = [_about(audit), _ranking(suspicious)]
    if pictures:
        sections.append(_pictures(suspicious, pictures, colours))
    command = f"autoseg audit {audit.dataset}"
    if audit.plan is None:
        why = "Predictions of held-out cases see far more than the labels alone. Train the folds, then audit again:"
        steps = (Command(f"autoseg train {audit.dataset} CONFIGURATION", why), Command(command))
    else:
        why = "Mend the label files that are wrong, then check, measure and prepare the dataset again:"
        steps = (Command(f"autoseg plan_and_preprocess {audit.dataset}", why), Command(command, "And look again:"))
    return (*sections, Section("next", "What next", steps))


def audit_summary(audit: Audit) -> Section:
    """The audit in the report of the dataset: its first suspicions, and where the pictures are."""
    suspicious = [case for case in audit.cases if case.suspicions]
    about = Paragraph(
        f"{len(suspicious)} of {len(audit.cases)} training cases have a reference that stands out. The audit's own "
        "page, audit/index.html in the dataset's folder of the workspace, shows each with pictures; a person decides."
    )
    shown = _table(suspicious)[:_SUMMARISED]
    table = (Table(_COLUMNS, shown, "The most suspicious.", num_text_columns=3),) if shown else ()
    return Section("audit", "References that stand out", (about, *table))


def _about(audit: Audit) -> Section:
    asked = (
        "No model was asked: volumes, missing classes and sides were compared between the cases."
        if audit.plan is None
        else f"Each reference was held against the prediction of models that did not train on its case "
        f"({' + '.join(audit.configurations)}, plan {audit.plan})."
    )
    blocks: list[Block] = [
        Paragraph(
            f"{asked} A score says how unusual a finding is in this dataset, in robust standard deviations; from "
            f"{audit.threshold:g} on it is a suspicion. A suspicion is no verdict: the model may be wrong, or the "
            "patient unusual. A person who knows the anatomy decides."
        )
    ]
    blocks += [Paragraph(note) for note in audit.notes]
    if audit.failed:
        blocks.append(Table(("Case that could not be audited", "Why"), tuple(audit.failed.items()), num_text_columns=2))
    return Section("about", "What was looked at", tuple(blocks))


def _ranking(suspicious: Sequence[AuditedCase]) -> Section:
    if not suspicious:
        return Section("ranking", "Suspicious cases", (Paragraph("No reference stands out."),))
    rows = _table(suspicious)
    blocks: list[Block] = [Table(_COLUMNS, rows[:_LISTED], "Most suspicious first.", num_text_columns=3)]
    if len(rows) > _LISTED:
        blocks.append(Folded(f"{len(rows) - _LISTED} more", (Table(_COLUMNS, rows[_LISTED:], num_text_columns=3),)))
    return Section("ranking", "Suspicious cases", tuple(blocks))


def _table(suspicious: Sequence[AuditedCase]) -> tuple[tuple[str, ...], ...]:
    """A row a suspicion; a case is named once."""
    return tuple(
        (
            suspicion.case if position == 0 else "",
            _KINDS[suspicion.kind],
            suspicion.why,
            f"{suspicion.score:.1f}",
        )
        for case in suspicious
        for position, suspicion in enumerate(case.suspicions)
    )


def _pictures(
    suspicious: Sequence[AuditedCase], pictures: Mapping[str, Sequence[Picture]], colours: Mapping[str, str]
) -> Section:
    drawn = tuple(picture for case in suspicious for picture in pictures.get(case.case, ()))
    about = Paragraph(
        "Solid: held-out prediction, where there is one; dashed, in the same colours but paler: reference."
    )
    return Section("pictures", "Pictures", (about, Gallery(drawn, tuple(colours.items()))))
