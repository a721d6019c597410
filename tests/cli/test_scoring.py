"""The options of `evaluate`: read, refused with an example, and what the tables show."""

import json
from pathlib import Path

import numpy as np
import pytest

from autoseg.cli.main import main
from autoseg.cli.scoring import comparison_table, read_scoring, score_table
from autoseg.errors import UsageError
from autoseg.images.writing import write_label
from autoseg.metrics.build import METRICS, score_counts, summarize
from autoseg.metrics.comparison import compare_evaluations
from autoseg.metrics.detection import ScoredCandidate, froc
from autoseg.metrics.overlap import Counts
from autoseg.records.detection import LesionRule
from autoseg.records.geometry import Geometry
from autoseg.records.scoring import Scoring

GRID = Geometry(shape=(1, 4, 6), spacing_mm=(2, 1, 1), affine=((0, 0, 1, 5), (0, 1, 0, 6), (2, 0, 0, 7)))


def test_options_are_read() -> None:
    base = Scoring(groups=("surface",), default_tolerance_mm=7)
    assert read_scoring(base, None, None, None) == base
    read = read_scoring(base, "lesions, overlap", ["liver=2", "0.5", "a=b=1"], "iou=0.3")
    assert read.groups == ("overlap", "lesions")
    assert (read.tolerances_mm, read.default_tolerance_mm) == ({"liver": 2.0, "a=b": 1.0}, 0.5)
    assert read.lesion_rule == LesionRule(measure="iou", minimum=0.3)
    assert read_scoring(base, "all", None, "0.5").groups == ("overlap", "surface", "boundary", "lesions")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("dice", None, None), "--metrics: dice unknown"),
        ((None, ["liver"], None), "--tolerance liver: expected NAME=MM"),
        ((None, ["liver=-1"], None), "expected NAME=MM"),
        ((None, ["liver=nan"], None), "expected NAME=MM"),
        ((None, None, "0"), "--lesion-overlap 0: expected a share"),
        ((None, None, "dice=0.5"), "--lesion-overlap dice=0.5"),
        ((None, None, "1.5"), "--lesion-overlap 1.5"),
    ],
)
def test_options_that_cannot_be_read(options: tuple, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_scoring(Scoring(), *options)


def test_tables_show_every_group_and_what_is_not_defined() -> None:
    score = score_counts(Counts(3, 1, 1, 10), 1.0).model_copy(update={"hd95_mm": 2.5, "nsd": 0.75})
    none = score.model_copy(update={"hd95_mm": None, "nsd": 0.0})
    scoring = Scoring(groups=("surface",), tolerances_mm={"a": 3.0})
    evaluation = summarize("", {"x": {"a": score}, "y": {"a": none}}, scoring=scoring)
    text = score_table(evaluation)
    assert "2.5000 (1)" in text
    assert "surface tolerance 2 mm, a 3 mm" in text
    assert "pooled over cases" in text
    assert "lesion" not in text.split("pooled")[0]
    shown = {word for line in text.splitlines() for word in line.split()}
    assert {name for name, metric in METRICS.items() if metric.group == "surface"} <= shown
    curve = froc([ScoredCandidate("x", 0.9, (0,), False)], num_lesions=2, num_cases=2)
    shown = score_table(evaluation.model_copy(update={"froc": {"a": curve, "b": froc([], 0, 2)}}))
    assert "FROC a: sensitivity 0.500 at 0.125, 0.500 at 0.25" in shown
    assert "CPM 0.500" in shown
    assert "FROC b: not defined" in shown
    table = comparison_table(compare_evaluations(evaluation, evaluation, names=("A", "B")))
    assert "first: A" in table
    assert "dice a" in table


def test_compare_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for case in range(5):
        truth = rng.integers(0, 2, GRID.shape).astype(np.uint8)
        for name, share in (("labels", 0.0), ("good", 0.1), ("bad", 0.6)):
            wrong = (rng.random(GRID.shape) < share).astype(np.uint8)
            write_label(tmp_path / name / f"c{case}.nii.gz", truth ^ wrong, GRID)
    good, bad, labels = (str(tmp_path / name) for name in ("good", "bad", "labels"))
    options = ["--against", bad, "-o", str(tmp_path / "out"), "--tolerance", "1=0.5", "--metrics", "overlap,surface"]
    assert main(["evaluate", good, labels, *options]) == 0
    printed = capsys.readouterr().out
    assert "dice 1" in printed
    assert f"Next: look at the cases behind it in {tmp_path / 'out' / 'evaluation.csv'}" in printed
    for file in ("evaluation.json", "against/evaluation.csv", "comparison.json", "comparison.csv"):
        assert (tmp_path / "out" / file).is_file()
    assert main(["evaluate", good, labels, *options, "--json", "--quiet"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["metric"] for row in rows] == ["dice", "nsd", "hd95_mm"]
    assert rows[0]["better"] == "first"
    assert main(["evaluate", good, labels, "--tolerance", "liver=2"]) == 2
    assert "no target liver" in capsys.readouterr().err
