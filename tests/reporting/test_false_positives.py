"""The report's section on ways against false positives."""

from autoseg.metrics.detection import ScoredCandidate, froc
from autoseg.records.detection import LesionRule
from autoseg.records.false_positives import (
    Change,
    FalsePositiveComparison,
    MethodRow,
    TargetDetection,
    mean_sensitivities,
)
from autoseg.reporting.false_positives import false_positives_section
from autoseg.reporting.html import Drawing, Paragraph, Table

FOUND = froc([ScoredCandidate("a", 0.9, (0,), False), ScoredCandidate("a", 0.1, (), True)], 2, 1)
NOTHING = froc([ScoredCandidate("a", 0.5, (), True)], 0, 1)


def detection(curve: object) -> TargetDetection:
    return TargetDetection(false_positives_per_case=1.0, lesion_sensitivity=0.5, dice=0.7, froc=curve)  # type: ignore[arg-type]


def comparison(*rows: MethodRow) -> FalsePositiveComparison:
    return FalsePositiveComparison(
        plan="small",
        configuration="2d",
        num_cases=4,
        num_patients=3,
        lesions=LesionRule(),
        rows=rows,
        verdict="It is so.",
    )


NONE = MethodRow(
    method="none",
    false_positives_per_case=1.0,
    lesion_sensitivity=0.5,
    dice=0.7,
    cpm=0.5,
    targets={"lesion": detection(FOUND), "organ": detection(NOTHING)},
)


def test_curves_are_means_over_targets_that_have_lesions() -> None:
    assert mean_sensitivities(NONE) == (0.5,) * 7
    assert mean_sensitivities(NONE.model_copy(update={"targets": {"organ": detection(NOTHING)}})) == ()


def test_a_section_has_the_verdict_a_table_and_curves() -> None:
    change = Change(mean=-0.5, low=-0.75, high=None)
    better = NONE.model_copy(update={"method": "learned", "variant": "boosting", "false_positives_change": change})
    missing = MethodRow(method="cascade", note="not trained")
    blocks = false_positives_section(comparison(NONE, better, missing)).blocks
    assert [type(block) for block in blocks] == [Paragraph, Table, Drawing]
    assert "4 held-out cases of 3 patients" in blocks[0].text
    assert blocks[0].text.endswith("It is so.")
    assert blocks[1].rows == (
        ("none", "", "1.00", "", "0.500", "0.700", "0.500"),
        ("learned (boosting)", "", "1.00", "-0.50", "0.500", "0.700", "0.500"),
        ("cascade", "not trained", "-", "", "-", "-", "-"),
    )
    assert "learned (boosting)" in blocks[2].svg


def test_without_lesions_there_is_no_curve() -> None:
    empty = NONE.model_copy(update={"targets": {"organ": detection(NOTHING)}, "cpm": None})
    blocks = false_positives_section(comparison(empty)).blocks
    assert [type(block) for block in blocks] == [Paragraph, Table]
