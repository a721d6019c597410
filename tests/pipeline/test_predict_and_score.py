"""What follows a prediction: measured and scored as asked, references beside the images found, and said so."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from autoseg.cli.main import main
from autoseg.images.writing import write_image, write_label
from autoseg.pipeline.predict_and_score import find_references
from tests.pipeline.fakes import LABELS, blobs, image_of, make_plan, oblique_grid, write_fold

GRID = oblique_grid(blobs().shape)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two test cases with references in Decathlon's layout, and a model."""
    write_fold(tmp_path / "model" / "fold_0", make_plan())
    for number in range(2):
        classes = blobs(seed=number)
        write_image(tmp_path / "Task" / "imagesTs" / f"c_{number}.nii.gz", image_of(classes), GRID)
        write_label(tmp_path / "Task" / "labelsTs" / f"c_{number}.nii.gz", LABELS.to_file(classes), GRID)
    return tmp_path / "Task"


def call(dataset: Path, *more: str) -> list[str]:
    model, out = dataset.parent / "model", dataset.parent / "out"
    return ["predict", "--model", str(model), "-o", str(out), "--device", "cpu", *more]


def test_references_beside_the_images_are_found(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = dataset / "imagesTs"
    assert main(call(dataset, "-i", str(images))) == 0
    text = capsys.readouterr().out
    assert f"Scored against {dataset / 'labelsTs'}" in text
    assert "evaluation.csv" in text
    scores = json.loads((dataset.parent / "out" / "evaluation.json").read_text())
    assert set(scores["targets"]) == {"a", "b"}  # named as the model names them
    assert scores["foreground_mean"]["dice"]["mean"] == 1
    assert not (dataset.parent / "out" / "measurements.csv").exists()
    assert find_references(images / "c_0.nii.gz") is None
    images.rename(dataset / "scans")
    assert find_references(dataset / "scans") is None


def test_measurements_and_references_as_asked(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dataset / "labelsTs").rename(dataset.parent / "truth")
    images = ["-i", str(dataset / "imagesTs")]
    assert main(call(dataset, *images, "--measurements", "--references", str(dataset.parent / "truth"), "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["evaluation"]["foreground_mean"]["dice"]["mean"] == 1
    assert found["references"] == str(dataset.parent / "truth")
    with (dataset.parent / "out" / "measurements.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["case"], row["target"], row["component"]) for row in rows[:4]] == [
        ("c_0", "a", "all"), ("c_0", "a", "1"), ("c_0", "b", "all"), ("c_0", "b", "1")
    ]  # fmt: skip
    for row in rows:
        classes = blobs(seed=int(row["case"][-1])) == {"a": 1, "b": 2}[row["target"]]
        assert float(row["volume_mm3"]) == classes.sum() * 3
        world = GRID.matrix @ [*np.argwhere(classes).mean(axis=0), 1]
        np.testing.assert_allclose([float(row[f"{axis}_mm"]) for axis in "xyz"], world[:3], atol=1e-3)
        assert float(row["MRI mean"]) == {"a": 100, "b": 200}[row["target"]]
        assert (row["longest_mm"] == "") == (row["component"] == "all")
    assert main(call(dataset, *images, "--references", str(dataset / "nowhere"))) == 2
    assert "no folder of label files" in capsys.readouterr().err


def test_a_faulty_case_keeps_no_other_from_being_measured(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = dataset / "imagesTs" / "c_0.nii.gz"
    broken.write_bytes(broken.read_bytes()[:100])
    assert main(call(dataset, "-i", str(dataset / "imagesTs"), "--measurements")) == 5
    said = capsys.readouterr()
    assert "1 of 2 cases" in said.err
    assert "c_0 is not scored: there is no prediction" in said.err
    for text in ("1 segmentations in", "measurements.csv", "Scored against", "1 cases scored, 1 failed"):
        assert text in said.out  # what became of the others is said all the same
    measured = (dataset.parent / "out" / "measurements.csv").read_text()
    assert "c_1,a,1," in measured
    assert "c_0" not in measured
    assert set(json.loads((dataset.parent / "out" / "evaluation.json").read_text())["cases"]) == {"c_1"}
    assert main(call(dataset, "-i", str(dataset / "imagesTs"), "--json")) == 5
    found = json.loads(capsys.readouterr().out)
    assert found["segmentations"] == [str(dataset.parent / "out" / "c_1.nii.gz")]
    assert list(found["evaluation"]["cases"]) == ["c_1"]
    assert found["failure"].startswith("1 of 2 cases could not be predicted:\n  c_0: ")
