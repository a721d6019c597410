"""What checks found: one record a fault or warning, and the text of all of them for people."""

from collections.abc import Iterable, Sequence

from autoseg.errors import DataError
from autoseg.records.base import Record

_MOST_LINES = 200


class Finding(Record):
    """Something about a dataset that is wrong (a fault) or that the user should know (a warning)."""

    case: str | None
    """Id of the case; None: the dataset as a whole."""
    file: str | None
    """File that shows it, relative to the dataset's folder where it lies there."""
    kind: str
    """One word for programs, for example `shape_mismatch`."""
    message: str
    """What was found, what was expected, what to do."""
    is_fault: bool
    """Whether the dataset cannot be used like this."""


def fault(kind: str, message: str, case: str | None = None, file: str | None = None) -> Finding:
    """A finding that makes the dataset unusable."""
    return Finding(case=case, file=file, kind=kind, message=message, is_fault=True)


def warning(kind: str, message: str, case: str | None = None, file: str | None = None) -> Finding:
    """A finding that the user should know of."""
    return Finding(case=case, file=file, kind=kind, message=message, is_fault=False)


def faults_of(findings: Iterable[Finding]) -> list[Finding]:
    """The faults among the findings."""
    return [finding for finding in findings if finding.is_fault]


def describe(findings: Sequence[Finding]) -> str:
    """One line a finding, faults first."""
    ordered = sorted(findings, key=lambda finding: not finding.is_fault)
    return "\n".join(_line(finding) for finding in ordered)


def raise_faults(findings: Iterable[Finding], what: str) -> None:
    """Raise a DataError that names all faults (`what` says where), or return if there are none."""
    found = faults_of(findings)
    if not found:
        return
    more = [f"  ... and {len(found) - _MOST_LINES} more"] if len(found) > _MOST_LINES else []
    lines = [f"  {_line(finding)}" for finding in found[:_MOST_LINES]]
    count = "1 fault" if len(found) == 1 else f"{len(found)} faults"
    raise DataError("\n".join([f"{what}: {count}.", *lines, *more]))


def _line(finding: Finding) -> str:
    where = f"case {finding.case}: " if finding.case is not None else ""
    severity = "fault" if finding.is_fault else "warning"
    return f"{severity} {finding.kind}: {where}{finding.message}"
