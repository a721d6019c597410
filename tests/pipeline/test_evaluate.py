"""Evaluate: hand-computed scores from files, voxel orders, and everything that cannot be scored named at once."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import DataError, UsageError
from autoseg.images.writing import write_label
from autoseg.metrics.build import summarize
from autoseg.pipeline.evaluate import compare, default_scoring, evaluate
from autoseg.records.base import read_record
from autoseg.records.comparison import Comparison
from autoseg.records.detection import LesionCounts
from autoseg.records.geometry import Geometry
from autoseg.records.labels import LabelScheme
from autoseg.records.results import Evaluation
from autoseg.records.scoring import DEFAULT_TOLERANCE_MM, Scoring

LABELS = LabelScheme(class_names=("background", "a", "b"), class_values=(0, 10, 20), num_entries=3)
GRID = Geometry(shape=(2, 3, 4), spacing_mm=(2, 1, 1), affine=((0, 0, 1, 5), (0, 1, 0, 6), (2, 0, 0, 7)))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "predictions", tmp_path / "labelsTr"


def put(folder: Path, case: str, *values: int, grid: Geometry = GRID, ending: str = ".nii.gz") -> None:
    array = np.zeros(grid.shape, np.uint8)
    array.reshape(-1)[: len(values)] = values
    write_label(folder / (case + ending), array, grid)


def test_hand_computed_scores_and_files(folders: tuple[Path, Path]) -> None:
    found, wanted = folders
    put(wanted, "one", 10, 10, 20)
    put(found, "one", 10, 0, 20, 20)
    put(wanted, "two", 10)
    put(found, "two", 10)
    evaluation = evaluate(found, wanted, LABELS)
    assert evaluation.cases["one"]["a"].dice == pytest.approx(2 / 3)
    assert evaluation.cases["one"]["b"].dice == pytest.approx(2 / 3)
    assert evaluation.cases["one"]["a"].reference_volume_mm3 == pytest.approx(2 * 2.0)
    assert evaluation.cases["two"]["b"].dice is None
    assert evaluation.targets["a"]["dice"].mean == pytest.approx((2 / 3 + 1) / 2)
    assert evaluation.targets["a"]["nsd"].num_cases == 2
    assert evaluation.foreground_mean["dice"].mean == pytest.approx((2 / 3 + 1) / 2)
    assert evaluation.failed == {}
    assert read_record(found / "evaluation.json", Evaluation) == evaluation
    rows = list(csv.DictReader((found / "evaluation.csv").read_text().splitlines()))
    assert [(row["case"], row["target"]) for row in rows] == [("one", "a"), ("one", "b"), ("two", "a"), ("two", "b")]
    assert float(rows[0]["dice"]) == pytest.approx(2 / 3)
    assert rows[3]["dice"] == ""


def test_all_that_cannot_be_scored_is_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    found, wanted = folders
    for case in ("good", "absent", "foreign_value", "other_shape", "shifted", "broken"):
        put(wanted, case, 10)
    put(found, "good", 10)
    put(found, "foreign_value", 11)
    put(found, "other_shape", 10, grid=GRID.model_copy(update={"shape": (2, 3, 5)}))
    moved = ((0, 0, 1, 8), (0, 1, 0, 6), (2, 0, 0, 7))
    put(found, "shifted", 10, grid=GRID.model_copy(update={"affine": moved}))
    (found / "broken.nii.gz").write_bytes(b"no image")
    put(found, "extra", 10)
    evaluation = evaluate(found, wanted, LABELS, output=tmp_path / "scores")
    assert list(evaluation.cases) == ["good"]
    assert set(evaluation.failed) == {"absent", "foreign_value", "other_shape", "shifted", "broken", "extra"}
    assert "11" in evaluation.failed["foreign_value"]
    assert "mm apart" in evaluation.failed["shifted"]
    assert (tmp_path / "scores" / "evaluation.csv").is_file()
    assert not (found / "evaluation.json").exists()


def test_other_voxel_order_of_the_same_place(folders: tuple[Path, Path]) -> None:
    found, wanted = folders
    values = np.arange(24).reshape(GRID.shape) % 3 * 10
    write_label(wanted / "case.nii.gz", values.astype(np.uint8), GRID)
    # Axes stored as x, z, y with x reversed: column i of the matrix is the step along array axis i.
    turned = values.transpose(2, 0, 1)[::-1]
    affine = ((-1, 0, 0, 5 + 3), (0, 0, 1, 6), (0, 2, 0, 7))
    grid = Geometry(shape=turned.shape, spacing_mm=(1, 2, 1), affine=affine)
    write_label(found / "case.nii.gz", np.ascontiguousarray(turned).astype(np.uint8), grid)
    evaluation = evaluate(found, wanted, LABELS)
    assert evaluation.foreground_mean["dice"].mean == 1


def test_tiff_predictions_without_spacing_are_scored(folders: tuple[Path, Path]) -> None:
    """A 16-bit signed TIFF holds no spacing; its reference does."""
    found, wanted = folders
    values = np.arange(24).reshape(GRID.shape) % 3 * 10
    write_label(wanted / "case.tif", values.astype(np.uint16), GRID)
    write_label(found / "case.tif", values.astype(np.int16), GRID)
    evaluation = evaluate(found, wanted, LABELS)
    assert evaluation.failed == {}
    assert evaluation.cases["case"]["a"].volume_mm3 == pytest.approx(8 * 2.0)


def test_without_labels_each_value_is_a_target(folders: tuple[Path, Path]) -> None:
    found, wanted = folders
    put(wanted, "one", 7)
    put(found, "one", 7)
    put(wanted, "two", 12)
    put(found, "two", 0, 12)
    evaluation = evaluate(found, wanted)
    assert list(evaluation.targets) == ["7", "12"]
    assert evaluation.targets["7"]["dice"].num_cases == 1
    assert evaluation.cases["two"]["12"].dice == 0


def test_names_from_a_dataset_json_beside_the_references(folders: tuple[Path, Path]) -> None:
    found, wanted = folders
    put(wanted, "one", 10)
    put(found, "one", 10)
    content = {"labels": {"0": "background", "10": "organ"}, "modality": {"0": "CT"}, "training": []}
    (wanted.parent / "dataset.json").write_text(json.dumps(content))
    assert list(evaluate(found, wanted).targets) == ["organ"]
    (wanted.parent / "dataset.json").write_text(json.dumps({**content, "labels": {}}))
    with pytest.raises(DataError, match="labels are missing"):
        evaluate(found, wanted)


def test_cells_are_no_formulas(folders: tuple[Path, Path]) -> None:
    found, wanted = folders
    put(wanted, "=1+1", 10)
    put(found, "=1+1", 10)
    evaluate(found, wanted, LABELS.model_copy(update={"class_names": ("background", "@cmd", "b")}))
    text = (found / "evaluation.csv").read_text()
    assert "\n'=1+1,'@cmd," in text


def test_formats_may_differ_and_hidden_files_are_left_out(folders: tuple[Path, Path]) -> None:
    found, wanted = folders
    put(wanted, "case", 10)
    put(found, "case", 10, ending=".nrrd")
    (wanted / "._case.nii.gz").write_bytes(b"macOS")
    evaluation = evaluate(found, wanted, LABELS)
    assert evaluation.cases["case"]["a"].dice == 1
    assert evaluation.failed == {}


def test_folders_that_are_no_folders_of_labels(folders: tuple[Path, Path]) -> None:
    found, wanted = folders
    with pytest.raises(UsageError, match="is no folder"):
        evaluate(found, wanted)
    found.mkdir()
    with pytest.raises(UsageError, match="holds no label files"):
        evaluate(found, wanted)


def test_default_metrics_and_their_columns(folders: tuple[Path, Path]) -> None:
    found, wanted = folders
    put(wanted, "one", 10, 10, 0, 10)
    put(found, "one", 10, 10, 10)
    put(wanted, "two", 10)
    put(found, "two", 20)
    evaluation = evaluate(found, wanted, LABELS)
    assert evaluation.scoring == Scoring(groups=("overlap", "surface", "lesions"))
    score = evaluation.cases["one"]["a"]
    assert score.lesion_counts == LesionCounts(lesions=2, found=1, candidates=1, false_candidates=0)
    assert (score.hausdorff_mm, score.relative_volume_difference, score.true_negatives) == (1, 0, 24 - 4)
    assert score.boundary_dice is None
    assert evaluation.cases["two"]["a"].hd95_mm is None
    assert evaluation.cases["two"]["a"].nsd == 0
    assert evaluation.targets["a"]["hd95_mm"].num_cases == 1
    assert evaluation.pooled["a"]["dice"].mean == pytest.approx(2 * 2 / (4 + 3))
    assert evaluation.pooled["a"]["lesion_sensitivity"].mean == pytest.approx(1 / 3)
    assert "boundary_dice" not in evaluation.targets["a"]
    assert read_record(found / "evaluation.json", Evaluation) == evaluation
    (row, *_) = csv.DictReader((found / "evaluation.csv").read_text().splitlines())
    assert (row["lesions"], row["lesions_found"], row["hausdorff_mm"]) == ("2", "1", "1.0")
    assert "boundary_dice" not in row


def test_the_number_of_workers_changes_nothing(folders: tuple[Path, Path]) -> None:
    found, wanted = folders
    rng = np.random.default_rng(0)
    for case in "abcdef":
        put(wanted, case, *(rng.integers(0, 3, 24) * 10))
        put(found, case, *(rng.integers(0, 3, 24) * 10))
    assert evaluate(found, wanted, LABELS, num_workers=1) == evaluate(found, wanted, LABELS, num_workers=3)


def test_tolerances(folders: tuple[Path, Path]) -> None:
    found, wanted = folders
    put(wanted, "one", 10, 0, 0, 0, 20)
    put(found, "one", 0, 10, 0, 0, 0, 20)
    scoring = Scoring(groups=("surface",), tolerances_mm={"a": 1.0}, default_tolerance_mm=0.5)
    evaluation = evaluate(found, wanted, LABELS, scoring=scoring)
    assert (evaluation.cases["one"]["a"].nsd, evaluation.cases["one"]["b"].nsd) == (1, 0)
    wrong = scoring.model_copy(update={"tolerances_mm": {"c": 1.0}})
    with pytest.raises(UsageError, match="no target c; the targets are a, b"):
        evaluate(found, wanted, LABELS, scoring=wrong)
    with pytest.raises(UsageError, match="no target c; the targets are 10, 20"):
        evaluate(found, wanted, scoring=wrong)


def test_the_decathlons_tolerance_for_its_own_folders(tmp_path: Path) -> None:
    assert default_scoring(tmp_path / "Task04_Hippocampus" / "labelsTr").default_tolerance_mm == 1
    assert default_scoring(tmp_path / "x", tmp_path / "Task03_Liver" / "dataset.json").default_tolerance_mm == 7
    assert default_scoring(tmp_path / "Mine" / "labelsTr").default_tolerance_mm == DEFAULT_TOLERANCE_MM


def test_an_evaluation_of_an_older_version_is_read(tmp_path: Path) -> None:
    """As written before specificity, distances and lesions were scored."""
    aggregate = {"mean": 0.5, "low": None, "high": None, "num_cases": 1}
    score = {"dice": 0.5, "iou": 1 / 3, "sensitivity": 0.5, "precision": 0.5, "volume_mm3": 8.0}
    score |= {"reference_volume_mm3": 8.0, "true_positives": 2, "false_positives": 2, "false_negatives": 2, "nsd": 1.0}
    old = {"title": "", "cases": {"one": {"a": score}}, "targets": {"a": {"dice": aggregate}}, "failed": {}}
    (tmp_path / "evaluation.json").write_text(json.dumps({**old, "foreground_mean": {"dice": aggregate}}))
    evaluation = read_record(tmp_path / "evaluation.json", Evaluation)
    assert evaluation.cases["one"]["a"].hd95_mm is None
    again = summarize("", evaluation.cases)
    assert again.targets["a"]["nsd"].mean == 1
    assert again.targets["a"]["specificity"].mean is None
    assert again.pooled["a"]["dice"].mean == 0.5


def test_compare_two_folders(folders: tuple[Path, Path], tmp_path: Path) -> None:
    found, wanted = folders
    other = tmp_path / "other"
    for number in range(6):
        put(wanted, f"case{number}", 10, 10, 20, 20, 20)
        put(found, f"case{number}", 10, 10, 20, 20)
        put(other, f"case{number}", 10, *([0] * (1 + number % 2)), 20)
    evaluations = [evaluate(folder, wanted, LABELS) for folder in (found, other)]
    comparison = compare(*evaluations, ("A", "=B"), tmp_path / "out")
    assert read_record(tmp_path / "out" / "comparison.json", Comparison) == comparison
    rows = list(csv.DictReader((tmp_path / "out" / "comparison.csv").read_text().splitlines()))
    assert [(row["metric"], row["target"]) for row in rows[:3]] == [
        ("dice", "mean of targets"),
        ("dice", "a"),
        ("dice", "b"),
    ]
    assert rows[1]["better"] == "first"
    assert float(rows[1]["difference"]) == pytest.approx(1 / 3)
    assert float(rows[1]["p_holm"]) >= float(rows[1]["p_value"]) > 0
    (tmp_path / "none").mkdir()
    put(tmp_path / "none", "stranger", 10)
    with pytest.raises(DataError, match="no scored case in common"):
        compare(evaluations[0], evaluate(tmp_path / "none", wanted, LABELS), ("A", "B"), tmp_path / "out")
