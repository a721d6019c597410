"""The newer networks from the plan to a prediction, on cases of a few voxels; and from the command line on to another
dataset."""

import json
from pathlib import Path

import numpy as np
import pytest

from autoseg.cli.main import main
from autoseg.images.reading import read_label
from autoseg.pipeline.fingerprint import verify_and_fingerprint
from autoseg.pipeline.ingest import ingest
from autoseg.pipeline.plan import PlanOptions
from autoseg.pipeline.plan import plan as plan_stage
from autoseg.pipeline.predict import predict
from autoseg.pipeline.preprocess import preprocess
from autoseg.pipeline.train import train
from autoseg.records.base import read_record
from autoseg.records.plan import Plan
from autoseg.records.results import TrainedFold
from autoseg.records.workspace import Paths
from autoseg.training.history import read_history
from autoseg.training.schedule import TrainOptions
from tests.pipeline.test_train_from import write_other
from tests.pipeline.tiny import write_dataset

NARROW = ("all.network.features_per_stage=[8,16,32,64,128]", "3d_fullres.batch_size=2", "2d.batch_size=4")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    folder = tmp_path_factory.mktemp("networks")
    write_dataset(folder / "Tiny")
    found = ingest(str(folder / "Tiny"), folder / "work", num_folds=3)
    verify_and_fingerprint(found, num_workers=1)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "configuration"), [("mednext_s", "3d_fullres"), ("mednext_b", "2d")])
def test_mednext_is_planned_learns_and_predicts(paths: Paths, preset: str, configuration: str, tmp_path: Path) -> None:
    plan = plan_stage(paths, PlanOptions(preset=preset, settings=NARROW))
    settings = plan.configurations[configuration]  # type: ignore[index]
    assert settings.network.architecture == "mednext"
    assert settings.patch_size[-2:] == (16, 16)
    preprocess(paths, plan, [configuration], num_workers=1)
    record = train(paths, plan, configuration, "0", TrainOptions(epochs=3, iterations=12, seed=1, device="cpu"))
    losses = [epoch.train_loss for epoch in read_history(paths.fold(plan.name, configuration, "0"))]
    assert all(loss is not None for loss in losses)
    assert losses[-1] < losses[0] - 0.1  # type: ignore[operator]
    assert record.mean_dice is not None
    images = paths.folder.parent.parent / "Tiny" / "imagesTr"
    written = predict(paths.fold(plan.name, configuration, "0"), images, tmp_path, device="cpu")
    assert set(np.unique(read_label(written[0]).array)) <= {0, 1, 5}


@pytest.mark.slow
def test_an_architecture_is_a_value_of_the_plan(paths: Paths) -> None:
    settings = ("all.network.architecture=fpn", "all.network.features_per_stage=[4,8]", "3d_fullres.batch_size=2")
    plan = plan_stage(paths, PlanOptions(preset="small", name="pyramid", settings=settings))
    preprocess(paths, plan, ["3d_fullres"], num_workers=1)
    train(paths, plan, "3d_fullres", "0", TrainOptions(epochs=3, iterations=12, seed=1, device="cpu"))
    losses = [epoch.train_loss for epoch in read_history(paths.fold("pyramid", "3d_fullres", "0"))]
    assert losses[-1] < losses[0]  # type: ignore[operator]


@pytest.mark.slow
def test_from_the_command_line_to_another_dataset(
    paths: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As docs/how-to/fine_tune_a_model.md says it."""
    work = str(paths.folder.parent)
    steps = ["--epochs", "1", "--iterations", "2", "--device", "cpu", "-q"]
    plan_stage(paths, preset="small", settings=("all.network.features_per_stage=[4,8]",))
    assert main(["preprocess", "Tiny", "--plan", "small", "--work", work, "-q"]) == 0
    assert main(["train", "Tiny", "3d_fullres", "all", "--plan", "small", "--work", work, *steps]) == 0
    write_other(tmp_path / "Other")
    model, other = str(paths.configuration("small", "3d_fullres")), ["Other", "--work", work]
    assert main(["fingerprint", str(tmp_path / "Other"), "--folds", "3", "--work", work, "-q"]) == 0
    capsys.readouterr()
    assert main(["plan", *other, "--like", model, "-q"]) == 0
    text = capsys.readouterr().out
    assert (
        f"Next: autoseg preprocess Other --plan like_small   and   autoseg train Other 3d_fullres --from {model}"
        in text
    )
    assert main(["preprocess", *other, "-q"]) == 0
    assert main(["train", other[0], "3d_fullres", "0", *other[1:], "--from", model, *steps]) == 0
    found = Paths(folder=paths.folder.parent / "Other")
    record = read_record(found.fold("like_small", "3d_fullres", "0") / "fold.json", TrainedFold)
    assert [(o.dataset, o.fold, o.kept_heads) for o in record.origins] == [("Tiny", "all", ("background", "far"))]
    assert read_record(found.plan("like_small"), Plan).dataset == "Other"
    capsys.readouterr()
    assert main(["info", str(found.configuration("like_small", "3d_fullres")), "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["folds"]["0"]["trained_from"] == ["Tiny 3d_fullres fold all"]
