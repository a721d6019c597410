"""What the report says of an audit."""

from autoseg.records.audit import Audit, AuditedCase, Suspicion
from autoseg.reporting.html import Paragraph, Table
from autoseg.reporting.suspicions import audit_summary


def case(name: str, *scores: float) -> AuditedCase:
    found = tuple(
        Suspicion(
            case=name, kind="shifted", targets=("liver",), score=s, why="moved", gain=None, volume_mm3=None, voxel=None
        )
        for s in scores
    )
    return AuditedCase(case=name, score=max(scores, default=0.0), has_prediction=True, suspicions=found)


def audit_of(*cases: AuditedCase) -> Audit:
    return Audit(dataset="D", plan="p", tolerance_mm=2.0, threshold=4.0, cases=cases)


def test_the_report_names_the_most_suspicious_first_ten() -> None:
    cases = [case(f"c{number:02d}", 50.0 - number, 4.5) for number in range(9)]
    about, table = audit_summary(audit_of(*cases, case("quiet"))).blocks
    assert isinstance(about, Paragraph)
    assert about.text.startswith("9 of 10 training cases")
    assert isinstance(table, Table)
    assert len(table.rows) == 10
    assert table.rows[0] == ("c00", "shifted", "moved", "50.0")
    assert table.rows[1][0] == ""  # a case is named once


def test_where_nothing_stands_out_there_is_no_table() -> None:
    (about,) = audit_summary(audit_of(case("a"), case("b"))).blocks
    assert isinstance(about, Paragraph)
    assert about.text.startswith("0 of 2")
