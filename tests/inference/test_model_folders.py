"""What a model is: folders and zips of every shape are opened alike, and what is none is refused in the same words."""

import json
import shutil
from pathlib import Path

import pytest

from autoseg.cli.main import main
from autoseg.errors import ModelError, UsageError
from autoseg.inference.model_folders import folds_in, open_configuration, open_model
from autoseg.pipeline.pack import pack
from autoseg.records.base import write_record
from autoseg.records.results import Selection
from autoseg.records.workspace import Paths
from tests.pipeline.fakes import make_plan, make_workspace, write_fold

CASCADE = ("3d_fullres", "3d_lowres", "3d_cascade_fullres")


def chosen(model: Path, name: str | None = None) -> tuple[str, list[str]]:
    """Name of the folder that is opened, and of its folds."""
    with open_configuration(model, name) as folder:
        assert all((fold / "weights").is_dir() for fold in folds_in(folder))
        return folder.name, [fold.name for fold in folds_in(folder)]


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A cascade beside a single network, of which the cascade is selected with one of its folds."""
    paths, plan = make_workspace(tmp_path), make_plan(names=CASCADE)
    for name in CASCADE:
        for fold in ("0", "1"):
            write_fold(paths.fold("plan", name, fold), plan, name, fold)
    write_fold(paths.fold("other", "2d", "0"), make_plan(name="other"), fold="0")
    return paths


def select(paths: Paths, *names: str) -> None:
    folds = dict.fromkeys(names, ("1",))
    write_record(paths.selection, Selection(plan="plan", configurations=names, folds=folds, candidates=()))


def test_folders_of_a_fold_and_of_a_configuration(paths: Paths) -> None:
    folder = paths.configuration("plan", "3d_fullres")
    assert chosen(folder) == ("3d_fullres", ["fold_0", "fold_1"])
    assert chosen(folder, "3d_lowres") == ("3d_fullres", ["fold_0", "fold_1"])  # there is but one
    assert chosen(folder / "fold_1") == ("fold_1", ["fold_1"])


def test_of_several_the_named_one_or_the_only_one_that_predicts(paths: Paths, tmp_path: Path) -> None:
    plan = paths.configuration("plan", "3d_fullres").parent
    for model in (plan, Path(shutil.make_archive(str(tmp_path / "hand"), "zip", plan.parent, "plan"))):
        assert chosen(model, "3d_lowres")[0] == "3d_lowres"
        with pytest.raises(UsageError, match=r"several models: name .*3d_cascade_fullres, .*3d_fullres, .*3d_lowres"):
            chosen(model)
    shutil.rmtree(plan / "3d_fullres")
    assert chosen(plan)[0] == "3d_cascade_fullres"


def test_a_selection_decides(paths: Paths, tmp_path: Path) -> None:
    select(paths, "3d_cascade_fullres")
    assert chosen(paths.folder)[0] == "3d_cascade_fullres"
    assert chosen(paths.folder, "2d")[0] == "3d_cascade_fullres"  # that is of another plan
    assert chosen(paths.folder, "3d_fullres")[0] == "3d_fullres"
    pack(paths, tmp_path / "model.zip")
    assert chosen(tmp_path / "model.zip") == ("3d_cascade_fullres", ["fold_1"])
    assert chosen(tmp_path / "model.zip", "3d_lowres") == ("3d_lowres", ["fold_0", "fold_1"])
    shutil.unpack_archive(tmp_path / "model.zip", tmp_path / "unpacked")
    assert chosen(tmp_path / "unpacked") == ("3d_cascade_fullres", ["fold_1"])
    select(paths, "3d_cascade_fullres", "3d_fullres")
    with pytest.raises(UsageError, match="several models"):
        chosen(paths.folder)


def test_a_model_inside_a_zip_is_named_by_its_path(paths: Paths, tmp_path: Path) -> None:
    select(paths, "3d_cascade_fullres", "3d_fullres")
    packed, plan = tmp_path / "model.zip", paths.configuration("plan", "3d_fullres").parent
    pack(paths, packed)
    zipped = Path(shutil.make_archive(str(tmp_path / "hand"), "zip", plan.parent, "plan"))
    alone = Path(shutil.make_archive(str(tmp_path / "alone"), "zip", plan, "3d_fullres"))
    with pytest.raises(UsageError) as several:
        chosen(packed)
    names = str(several.value).removesuffix(".").split("name one, ")[1].split(", ")
    assert names == [str(packed / "plan" / name) for name in sorted(CASCADE)]
    for model in (packed, zipped):
        assert chosen(model / "3d_fullres")[0] == "3d_fullres"
        assert chosen(model / "3d_lowres" / "fold_1") == ("fold_1", ["fold_1"])
    assert [chosen(Path(name))[0] for name in names] == sorted(CASCADE)
    assert chosen(packed / "models" / "plan" / "3d_fullres")[0] == "3d_fullres"
    with pytest.raises(UsageError, match=r"holds no model 2d, .* It holds .*plan/3d_cascade_fullres, "):
        chosen(packed / "2d")
    for wrong in (alone / "3d_fullres", packed / "..", packed / "models" / ".." / "models" / "plan" / "3d_fullres"):
        with pytest.raises(UsageError, match="holds no model"):
            chosen(wrong)


def test_commands_take_a_model_inside_a_zip(paths: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    select(paths, "3d_cascade_fullres", "3d_fullres")
    pack(paths, tmp_path / "model.zip")
    inside = str(tmp_path / "model.zip" / "3d_fullres")
    assert main(["info", inside, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["configuration"] == "3d_fullres"
    assert main(["export", "torch", inside, str(tmp_path / "out"), "-q"]) == 0
    assert (tmp_path / "out" / "model.pt2").is_file()
    assert main(["pack", inside, str(tmp_path / "one.zip"), "-q"]) == 0
    assert chosen(tmp_path / "one.zip") == ("3d_fullres", ["fold_1"])


def test_a_zip_is_there_until_the_block_ends(paths: Paths, tmp_path: Path) -> None:
    pack(paths.configuration("plan", "3d_fullres"), tmp_path / "model.zip")
    with open_model(tmp_path / "model.zip") as where:
        assert isinstance(where, Paths)
        assert where.configuration("plan", "3d_fullres").is_dir()
    assert not where.folder.exists()


def test_every_command_refuses_what_is_no_model_alike(
    tmp_path: Path, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no model")
    (tmp_path / "data" / "imagesTr").mkdir(parents=True)
    (tmp_path / "untrained" / "models").mkdir(parents=True)
    shutil.make_archive(str(tmp_path / "images"), "zip", tmp_path / "data")
    shutil.make_archive(str(tmp_path / "layout"), "zip", tmp_path / "untrained")
    out = str(tmp_path / "out")
    for name in ("empty", "notes.txt", "data", "untrained", "images.zip", "layout.zip", "missing", "missing.zip"):
        model = str(tmp_path / name)
        fault = "does not exist" if name.startswith("missing") else "holds no trained fold"
        with pytest.raises(ModelError) as error, open_model(tmp_path / name):
            pass
        assert str(error.value).startswith(f"{model} {fault}: expected a model, that is a zip")
        calls = [
            ["predict", "--model", model, "-i", str(paths.folder), "-o", out],
            ["serve", model],
            ["info", model],
            *(["export", kind, model, out] for kind in ("nnunet", "onnx", "torch", "monai-bundle")),
        ]
        for call in calls:
            assert main(call) == 6, call
            assert str(error.value) in capsys.readouterr().err, call
