"""Packed models: a zip predicts voxel for voxel what the workspace did, when that is gone; and it names no case."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from autoseg.cli.main import main
from autoseg.errors import ModelError
from autoseg.images.reading import read_label
from autoseg.images.writing import write_image
from autoseg.pipeline.pack import pack
from autoseg.pipeline.predict import predict
from autoseg.records.base import write_record
from autoseg.records.package import DEFAULT_LIMITS
from autoseg.records.prediction_folder import read_finished
from autoseg.records.results import PostprocessingRule
from autoseg.records.workspace import Paths
from autoseg.reporting.package import read_package
from tests.pipeline.fakes import blobs, make_plan, oblique_grid, write_fold
from tests.pipeline.test_trust import IDS, chosen, noisy, workspace  # noqa: F401 - fixtures

KEPT = PostprocessingRule(keep_largest=(1,))


def put_images(folder: Path) -> None:
    for number in range(3):
        classes = blobs(seed=70 + number)
        classes[-1, -1, -1] = 1
        write_image(folder / f"new_{number}.nii.gz", noisy(classes, 25.0, number), oblique_grid(classes.shape))


def test_a_zip_predicts_what_the_workspace_did(tmp_path: Path, workspace, chosen, capsys) -> None:  # noqa: F811
    """Temperatures, an ensemble's folds, post-processing and what judges the answers all travel with it."""
    paths = Paths(folder=tmp_path / "work" / "Fake")
    shutil.copytree(workspace[0].folder, paths.folder)
    write_record(paths.postprocessing, KEPT.model_copy(update={"decided_by": chosen.selection.decided_by}))
    assert any(fold.temperature != 1 for c in chosen.calibration.configurations.values() for fold in c.folds.values())
    put_images(tmp_path / "images")
    wanted = predict(paths, tmp_path / "images", tmp_path / "wanted", device="cpu", save_probabilities=True)
    zipped = tmp_path / "model.zip"
    assert main(["pack", str(paths.folder), str(zipped), "--licence", "CC0", "--cite", "We 2026", "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    shutil.rmtree(paths.folder)
    found = predict(zipped, tmp_path / "images", tmp_path / "found", device="cpu", save_probabilities=True)
    for one, other in zip(wanted, found, strict=True):
        assert one.read_bytes() == other.read_bytes()
        np.testing.assert_array_equal(np.unique(read_label(one).array), (0, 3, 700))
    files = {path.name for path in (tmp_path / "wanted").iterdir()}
    assert files == {path.name for path in (tmp_path / "found").iterdir()}
    assert (tmp_path / "wanted" / "quality.csv").read_text() == (tmp_path / "found" / "quality.csv").read_text()
    assert read_finished(tmp_path / "wanted") == read_finished(tmp_path / "found")
    assert len(read_finished(tmp_path / "found").judged) == 3
    assert (card["licence"], card["citation"], card["num_held_out"]) == ("CC0", "We 2026", len(IDS))
    assert card["scores"]["a"]["dice"]["mean"] == pytest.approx(chosen_dice(workspace[0]), abs=1e-9)
    assert (card["has_postprocessing"], card["has_trust"]) == (True, True)


def chosen_dice(paths: Paths) -> float:
    scores = json.loads(paths.evaluation.read_text())["cases"]
    return float(np.mean([case["a"]["dice"] for case in scores.values()]))


def test_it_names_no_case_and_packs_again(tmp_path: Path, workspace, chosen, capsys) -> None:  # noqa: F811
    first = pack(workspace[0], tmp_path / "one.zip", citation="We 2026", limits=["Not for children."])
    assert first.limits == (*DEFAULT_LIMITS, "Not for children.")
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        names = archive.namelist()
        content = b"".join(archive.read(name) for name in names if not name.endswith(".safetensors"))
        page = archive.read("README.md").decode()
    assert not [case for case in IDS if case.encode() in content]
    assert str(tmp_path.parent).encode() not in content
    assert b"unnamed_00014" in content
    assert not [name for name in names if "validation" in name or "evaluation" in name]
    assert "We 2026" in page
    assert "Not for children." in page
    assert "- Trained on scans with a spacing along z in mm of 2 to 2." in page
    assert "## Licence\n\nNot stated" in page
    assert main(["info", str(tmp_path / "one.zip")]) == 0
    assert page in capsys.readouterr().out
    again = pack(tmp_path / "one.zip", tmp_path / "two.zip", licence="CC0")
    assert (again.scores, again.citation, again.limits) == (first.scores, "We 2026", first.limits)
    put_images(tmp_path / "images")
    for name in ("one", "two"):
        predict(tmp_path / f"{name}.zip", tmp_path / "images", tmp_path / name, device="cpu")
    assert read_finished(tmp_path / "one") == read_finished(tmp_path / "two")


def test_model_folders_cascades_and_ensembles(tmp_path: Path) -> None:
    """Nothing was selected: all folds of the folder; the stage before a cascade comes along."""
    plan = make_plan(names=("3d_fullres", "3d_lowres", "3d_cascade_fullres"))
    folder = tmp_path / "models" / "plan"
    for name in ("3d_fullres", "3d_lowres", "3d_cascade_fullres"):
        write_fold(folder / name / "fold_0", plan, name)
    write_fold(folder / "3d_fullres" / "fold_1", plan, fold="1", offset=20.0)
    put_images(tmp_path / "images")
    for number, source in enumerate((folder, folder / "3d_cascade_fullres", folder / "3d_fullres" / "fold_1")):
        card = pack(source, tmp_path / f"{number}.zip")
        assert not card.scores
        wanted = predict(source, tmp_path / "images", tmp_path / f"wanted_{number}", device="cpu")
        found = predict(tmp_path / f"{number}.zip", tmp_path / "images", tmp_path / f"found_{number}", device="cpu")
        assert [path.read_bytes() for path in wanted] == [path.read_bytes() for path in found]
        one, other = (read_finished(tmp_path / f"{name}_{number}").cases for name in ("wanted", "found"))
        assert one == other
    assert set(read_package(tmp_path / "1.zip").configurations) == {"3d_lowres", "3d_cascade_fullres"}
    other = make_plan(name="other", names=("3d_lowres",))
    write_fold(tmp_path / "mixed" / "a" / "fold_0", plan)
    write_fold(tmp_path / "mixed" / "b" / "fold_0", other, "3d_lowres")
    with pytest.raises(ModelError, match="plans other, plan: pack them one by one"):
        pack(tmp_path / "mixed", tmp_path / "mixed.zip")


def test_a_folder_that_was_zipped_by_hand(tmp_path: Path) -> None:
    model = write_fold(tmp_path / "mine" / "3d_fullres" / "fold_0", make_plan())
    put_images(tmp_path / "images")
    shutil.make_archive(str(tmp_path / "hand"), "zip", tmp_path / "mine", "3d_fullres")
    wanted = predict(model, tmp_path / "images", tmp_path / "wanted", device="cpu")
    found = predict(tmp_path / "hand.zip", tmp_path / "images", tmp_path / "found", device="cpu")
    assert [path.read_bytes() for path in wanted] == [path.read_bytes() for path in found]


def test_what_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    put_images(tmp_path / "images")
    assert main(["predict", "--model", str(tmp_path / "bad.zip"), "-i", str(tmp_path / "images"), "-o", "out"]) == 6
    assert "no undamaged zip" in capsys.readouterr().err
    assert main(["pack", str(tmp_path), str(tmp_path / "out.tar")]) == 2
    assert "ends in .zip" in capsys.readouterr().err
    assert main(["pack", str(tmp_path / "images"), str(tmp_path / "out.zip"), "--work", str(tmp_path / "work")]) == 6
    assert "No fold" in capsys.readouterr().err
