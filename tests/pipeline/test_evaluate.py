"""Evaluate: hand-computed scores from files, voxel orders, and everything that cannot be scored named at once."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import DataError, UsageError
from autoseg.images.writing import write_label
from autoseg.pipeline.evaluate import evaluate
from autoseg.records.base import read_record
from autoseg.records.geometry import Geometry
from autoseg.records.labels import LabelScheme
from autoseg.records.results import Evaluation

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
