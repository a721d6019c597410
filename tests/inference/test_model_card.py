"""A model folder without its workspace: what it says of itself, and that it predicts."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from autoseg.cli.main import main
from autoseg.errors import ModelError
from autoseg.images.reading import read_label
from autoseg.inference.model_card import CARD, describe_model, write_card
from autoseg.pipeline.train import train
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Dataset
from autoseg.records.fine_tuning import Origin
from autoseg.records.model_card import ModelCard
from autoseg.records.results import TrainedFold
from tests.pipeline.tiny import SHORT, prepare


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A model folder whose workspace is gone, images, and their segmentations by the model before it was moved."""
    folder = tmp_path_factory.mktemp("whole")
    paths, plan = prepare(folder)
    for fold in ("0", "2"):
        train(paths, plan, "3d_fullres", fold, SHORT)
    images = Path(shutil.copytree(Path(read_record(paths.dataset, Dataset).root) / "imagesTr", folder / "images"))
    elsewhere, model = tmp_path_factory.mktemp("elsewhere"), paths.configuration("tiny", "3d_fullres")
    assert main(["predict", "--model", str(model), "-i", str(images), "-o", str(folder / "before"), "-q"]) == 0
    shutil.move(model, elsewhere / "model")
    for gone in (folder / "work", folder / "Tiny"):
        shutil.rmtree(gone)
    return elsewhere / "model", images, folder / "before"


def test_the_card_says_what_is_needed(moved: tuple[Path, Path, Path]) -> None:
    card = read_record(moved[0] / CARD, ModelCard)
    assert (card.dataset, card.plan, card.configuration) == ("Tiny", "tiny", "3d_fullres")
    assert (card.channel_names, card.labels.class_names) == (("MRI",), ("background", "near", "far"))
    assert (card.architecture, card.patch_size, card.spacing_mm) == ("plain_unet", (8, 8, 8), (1.5, 1.0, 1.0))
    assert list(card.folds) == ["0", "2"]
    for name, fold in card.folds.items():
        record = read_record(moved[0] / f"fold_{name}" / "fold.json", TrainedFold)
        assert (fold.num_train_cases, fold.num_validation_cases) == (4, 2)
        assert (fold.mean_dice, fold.epochs, fold.trained_from) == (record.mean_dice, 2, ())
    assert card.licence is None
    assert describe_model(moved[0]) == card


def test_the_card_names_no_case_and_the_folder_no_path(moved: tuple[Path, Path, Path]) -> None:
    model, images, _ = moved
    text = (model / CARD).read_text()
    assert "case_" not in text
    root = str(images.parent)
    found = [path.name for path in model.rglob("*") if path.is_file() and root.encode() in path.read_bytes()]
    assert found == []


def test_it_predicts_what_it_predicted(moved: tuple[Path, Path, Path], tmp_path: Path) -> None:
    model, images, before = moved
    assert main(["predict", "--model", str(model), "-i", str(images), "-o", str(tmp_path), "-q"]) == 0
    written = sorted(tmp_path.glob("*.nii.gz"))
    assert len(written) == 6
    for path in written:
        np.testing.assert_array_equal(read_label(path).array, read_label(before / path.name).array)


def test_info_for_people_and_programs(moved: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    model, *_ = moved
    assert main(["info", str(model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folds"]["2"]["num_train_cases"] == 4
    assert main(["info", str(model / "fold_2")]) == 0
    text = capsys.readouterr().out
    assert "segments      near, far" in text
    assert "needs         0: MRI" in text
    assert "fold 2        4 cases, 2 epochs of 2 steps, mean Dice 0." in text
    assert "fold 0" not in text
    assert f"autoseg predict --model {model / 'fold_2'}" in text


def test_a_licence_that_was_written_stays_and_an_origin_is_told(
    moved: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(moved[0], tmp_path / "m"))
    card = read_record(model / CARD, ModelCard)
    write_record(model / CARD, card.model_copy(update={"licence": "CC BY 4.0"}))
    shutil.rmtree(model / "fold_0")
    record = read_record(model / "fold_2" / "fold.json", TrainedFold)
    known = {"dataset": "Liver", "plan": "p", "configuration": "3d_fullres", "weights": "0", "cases": ("secret",)}
    origins = (Origin(fold="0", **known), Origin(fold="all", **known))  # type: ignore[arg-type]
    write_record(model / "fold_2" / "fold.json", record.model_copy(update={"origins": origins}))
    write_card(model)
    fresh = read_record(model / CARD, ModelCard)
    assert (fresh.licence, list(fresh.folds)) == ("CC BY 4.0", ["2"])
    assert fresh.folds["2"].trained_from == ("Liver 3d_fullres fold 0", "Liver 3d_fullres fold all")
    assert "secret" not in (model / CARD).read_text()
    assert main(["info", str(model)]) == 0
    text = capsys.readouterr().out
    assert "licence       CC BY 4.0" in text
    assert "from Liver 3d_fullres fold all, from Liver 3d_fullres fold 0" in text


def test_what_is_no_model_is_named(moved: tuple[Path, Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no trained fold"):
        describe_model(tmp_path)
    model = Path(shutil.copytree(moved[0], tmp_path / "m"))
    record, plan = (json.loads((model / "fold_0" / f"{name}.json").read_text()) for name in ("fold", "plan"))
    assert "3d_lowres" in plan["configurations"]
    (model / "fold_0" / "fold.json").write_text(json.dumps({**record, "configuration": "3d_lowres"}))
    with pytest.raises(ModelError, match="holds folds of 3d_lowres and of 3d_fullres"):
        describe_model(model)


def test_a_damaged_fold_beside_it_ends_no_training(
    moved: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(moved[0], tmp_path / "m"))
    before = (model / CARD).read_bytes()
    (model / "fold_0" / "plan.json").unlink()
    write_card(model)
    assert "model.json is not written" in capsys.readouterr().err
    assert (model / CARD).read_bytes() == before
