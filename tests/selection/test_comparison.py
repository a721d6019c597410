"""Pairing with published values: only what both have, by case, with the right sign."""

from pathlib import Path

import pytest

from autoseg.errors import DataError
from autoseg.metrics.build import summarize
from autoseg.records.results import ReferenceScores, Score
from autoseg.selection.comparison import MEAN, compare_with_reference, parse_reference


def score(dice: float | None) -> Score:
    return Score(
        dice=dice,
        iou=None,
        sensitivity=None,
        precision=None,
        volume_mm3=0,
        reference_volume_mm3=0,
        true_positives=0,
        false_positives=0,
        false_negatives=0,
    )


def test_differences_are_ours_minus_theirs_on_common_cases() -> None:
    ours = {"a": {"x": score(0.9), "y": score(0.5)}, "b": {"x": score(0.7), "y": score(None)}, "c": {"x": score(0.1)}}
    theirs = ReferenceScores(
        source="paper", cases={"a": {"x": 0.8, "y": 0.6}, "b": {"x": 0.8, "y": 0.0}, "z": {"x": 1}}
    )
    rows = {row.target: row for row in compare_with_reference(summarize("", ours), theirs, "D", "3d", "net")}
    assert set(rows) == {MEAN, "x", "y"}
    assert rows["x"].difference.num_cases == 2
    assert rows["x"].difference.mean == pytest.approx((0.1 - 0.1) / 2)
    assert (rows["x"].ours, rows["x"].theirs) == (pytest.approx(0.8), pytest.approx(0.8))
    assert rows["y"].difference.num_cases == 1, "in case b ours is not defined"
    assert rows["y"].difference.mean == pytest.approx(-0.1)
    assert rows[MEAN].difference.mean == pytest.approx((0.7 - 0.7 + 0.7 - 0.8) / 2)


def test_a_clear_difference_is_significant_and_a_missing_method_has_no_rows() -> None:
    ours = {f"c{n}": {"x": score(0.8 + 0.001 * n)} for n in range(20)}
    theirs = ReferenceScores(source="", cases={f"c{n}": {"x": 0.79 + 0.0005 * n} for n in range(20)})
    row = compare_with_reference(summarize("", ours), theirs, "D", "3d", "net")[0]
    assert row.difference.low is not None
    assert 0 < row.difference.low < row.difference.mean < row.difference.high
    assert row.p_value < 0.001
    assert compare_with_reference(summarize("", ours), ReferenceScores(source=""), "D", "3d", "net") == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected"),
        ({"dice": {"m": []}}, "m: expected an object"),
        ({"dice": {"m": {"a": [0.5]}}}, "a: expected 2 values"),
        ({"dice": {"m": {"a": [0.5, 1.5]}}}, "from 0 to 1"),
    ],
)
def test_faulty_references_are_named(content: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_reference(content, ["x", "y"], "file.json")


def test_null_is_left_out() -> None:
    parsed = parse_reference({"source": "s", "dice": {"m": {"a": [0.5, None]}}}, ["x", "y"], "file.json")
    assert parsed["m"].cases == {"a": {"x": 0.5}}
    assert parsed["m"].source == "s"


def test_the_published_files_are_of_this_format(shared_reference: Path) -> None:
    import json

    file = shared_reference / "nnunet_percase_dice" / "Dataset003_Liver.json"
    parsed = parse_reference(json.loads(file.read_text()), ["liver", "cancer"], str(file))
    assert "cancer" not in parsed["nnunetv2_default"].cases["liver_38"]
    assert len(parsed["nnunetv2_default"].cases) > 100
