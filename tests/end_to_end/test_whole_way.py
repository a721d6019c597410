"""A dataset folder to a report through the command line, with networks too small to learn anything."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from autoseg.cli.main import main

TINY = [
    "--set", "all.network.features_per_stage=[4,4]", "--set", "all.recipe.precision=float32",
    "--set", "2d.network.strides=[[1,1],[2,2]]", "--set", "2d.network.kernel_sizes=[[3,3],[3,3]]",
    "--set", "3d_fullres.network.strides=[[1,1,1],[1,2,2]]",
    "--set", "3d_fullres.network.kernel_sizes=[[3,3,3],[3,3,3]]",
    "--set", "all.network.blocks_per_stage=[1,1]", "--set", "all.network.decoder_blocks_per_stage=[1]",
    "--set", "2d.patch_size=[32,32]", "--set", "3d_fullres.patch_size=[8,32,32]", "--set", "all.batch_size=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert main(["phantoms", str(folder / "Ghosts"), "--cases", "4", "--seed", "3", "-q"]) == 0
    return folder


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    arguments = ["run", str(folder / "Ghosts"), "--work", str(folder / "work"), "--folds", "2", "--preset", "small"]
    length = ["--epochs", "1", "--iterations", "2", "-c", "2d", "-c", "3d_fullres", "--device", "cpu", "-q"]
    assert main([*arguments, *TINY, *length]) == 0
    return folder / "work" / "Ghosts"


def test_every_stage_left_its_record(finished: Path) -> None:
    for name in ("dataset", "fingerprint", "folds", "plans/small", "selection", "postprocessing", "evaluation"):
        assert json.loads((finished / f"{name}.json").read_text())["schema_version"] == 1
    assert len(list(finished.glob("models/small/*/fold_*/fold.json"))) == 4
    selection = json.loads((finished / "selection.json").read_text())
    assert {tuple(c["configurations"]) for c in selection["candidates"]} == {
        ("2d",),
        ("3d_fullres",),
        ("2d", "3d_fullres"),
    }
    page = (finished / "report" / "index.html").read_text()
    assert "3d_fullres" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_held_out_and_test_predictions_lie_on_the_images_grids(folder: Path, finished: Path) -> None:
    images = sorted((folder / "Ghosts" / "imagesTs").glob("*.nii.gz"))
    assert images
    for image in images:
        original, made = nibabel.load(image), nibabel.load(finished / "predictions" / image.name)
        assert made.shape == original.shape
        np.testing.assert_array_equal(made.affine, original.affine)
        assert made.get_data_dtype() == np.uint8
    held_out = list(finished.glob("models/small/3d_fullres/fold_*/validation/*.nii.gz"))
    assert len(held_out) == 4


def test_called_again_nothing_is_done_twice(folder: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("weights/*.safetensors")}
    assert before
    arguments = ["run", str(folder / "Ghosts"), "--work", str(folder / "work"), "--preset", "small", "--device", "cpu"]
    assert main([*arguments, "-c", "2d", "-c", "3d_fullres", *TINY, "--json"]) == 0
    captured = capsys.readouterr()
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("weights/*.safetensors")} == before
    assert json.loads(captured.out)["chosen"]
    assert "steps of" not in captured.err  # what the measurement before a training says


def test_predict_names_the_broken_case_and_does_the_others(
    folder: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = folder / "mixed"
    images.mkdir()
    good = sorted((folder / "Ghosts" / "imagesTs").glob("*.nii.gz"))[0]
    (images / "good.nii.gz").write_bytes(good.read_bytes())
    (images / "cut.nii.gz").write_bytes(good.read_bytes()[:2000])
    arguments = ["predict", "-i", str(images), "-o", str(folder / "out"), "Ghosts", "--work", str(folder / "work")]
    assert main([*arguments, "--device", "cpu"]) == 5
    message = capsys.readouterr().err
    assert "cut" in message
    assert "Traceback" not in message
    assert (folder / "out" / "good.nii.gz").is_file()
    assert not (folder / "out" / "cut.nii.gz").exists()


def test_evaluate_and_status(folder: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scored = ["evaluate", str(finished / "predictions"), str(folder / "Ghosts" / "labelsTs"), "--json"]
    assert main([*scored, "-o", str(folder / "scores")]) == 0
    assert json.loads(capsys.readouterr().out)["cases"]
    assert (folder / "scores" / "evaluation.csv").is_file()
    assert main(["status", "Ghosts", "--work", str(folder / "work")]) == 0
    assert "autoseg predict" in capsys.readouterr().out


def test_a_dataset_that_does_not_exist_is_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tmp_path / "nowhere"), "--work", str(tmp_path / "w")]) == 2
    message = capsys.readouterr().err
    assert "nowhere" in message
    assert "Traceback" not in message
