"""The order of the stages: what a run does when a stage can do only part of its work."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from autoseg.cli.main import main
from autoseg.datasets.phantoms import write_phantoms
from autoseg.errors import PartialError, UsageError
from autoseg.pipeline import flow
from autoseg.pipeline.flow import PrepareOptions, RunOptions, run_dataset
from autoseg.pipeline.train import TrainOptions
from autoseg.pipeline.trainings import train_jobs, wanted_configurations
from autoseg.records.base import write_record
from autoseg.records.dataset import Folds
from autoseg.records.plan import Plan
from autoseg.records.run import RunResult
from autoseg.records.workspace import Paths
from tests.pipeline.fakes import make_plan

TINY = (
    "2d.network.features_per_stage=[4,4]", "2d.network.strides=[[1,1],[2,2]]",
    "2d.network.kernel_sizes=[[3,3],[3,3]]", "2d.network.blocks_per_stage=[1,1]",
    "2d.network.decoder_blocks_per_stage=[1]", "2d.patch_size=[32,32]", "2d.batch_size=2",
)  # fmt: skip
OPTIONS = RunOptions(
    prepare=PrepareOptions(preset="small", plan_name="mine", settings=TINY, num_folds=2, num_workers=1),
    epochs=1,
    iterations=1,
    device="cpu",
)


def edit_description(folder: Path, **fields: object) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_one_case_is_trained_on_and_predicts(tmp_path: Path) -> None:
    """No case can be held out, so there is nothing to select; everything else is done."""
    folder = write_phantoms(tmp_path / "One", num_cases=1, seed=0, two_d=True)
    result = run_dataset(str(folder), tmp_path / "work", OPTIONS)
    assert result.selection is None
    assert result.as_json()["chosen"] == []
    assert "nothing was compared" in result.as_text()
    assert result.as_text().endswith("Next: autoseg predict -i IMAGES -o OUT One")
    assert len(result.predictions) == 2
    assert all(path.is_file() for path in (*result.predictions, result.report))
    work = tmp_path / "work" / "One"
    assert [path.parent.name for path in work.glob("models/mine/2d/*/fold.json")] == ["fold_all"]
    assert not (work / "selection.json").exists()


def test_a_faulty_test_case_costs_neither_the_others_nor_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Test images lie elsewhere than usual, one is cut off, and the folder of references is empty."""
    folder = write_phantoms(tmp_path / "Ghosts", num_cases=2, seed=0, two_d=True)
    (folder / "imagesTs").rename(folder / "held_back")
    images = sorted((folder / "held_back").iterdir())
    edit_description(folder, test=[f"./held_back/{path.name}" for path in images])
    (folder / "labelsTs").rename(folder / "kept")
    (folder / "labelsTs").mkdir()
    content = images[1].read_bytes()
    images[1].write_bytes(content[: len(content) // 2])
    work, report = tmp_path / "work", tmp_path / "work" / "Ghosts" / "report" / "index.html"
    for _ in range(2):  # called again it says so again
        with pytest.raises(PartialError, match=r"phantom_003: (.|\n)*All else is done: open .*index\.html"):
            run_dataset(str(folder), work, OPTIONS)
        assert report.is_file()
        report.unlink()
    predictions = work / "Ghosts" / "predictions"
    assert [path.name for path in predictions.glob("*.nii.gz")] == ["phantom_002.nii.gz"]

    images[1].write_bytes(content)
    (folder / "kept" / "phantom_003.nii.gz").rename(folder / "labelsTs" / "phantom_003.nii.gz")
    result = run_dataset(str(folder), work, OPTIONS)
    assert result.predictions == tuple(predictions / f"phantom_00{number}.nii.gz" for number in (2, 3))
    assert "test case phantom_002 is not scored: there is no reference" in capsys.readouterr().err
    assert report.is_file()


def test_a_device_that_is_not_there_is_named_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    folder = write_phantoms(tmp_path / "One", num_cases=1, seed=0, two_d=True)
    assert main(["run", str(folder), "--work", str(tmp_path / "work"), "--device", "cuda"]) == 2
    assert "--device cuda" in capsys.readouterr().err
    assert main(["benchmark", str(folder), "--work", str(tmp_path / "work"), "--device", "cuda"]) == 2
    assert not (tmp_path / "work").exists()


def test_a_cascade_brings_its_previous_stage_with_it() -> None:
    plan = make_plan(names=("3d_fullres", "3d_lowres", "3d_cascade_fullres"))
    assert wanted_configurations(plan, ["3d_cascade_fullres"]) == ["3d_lowres", "3d_cascade_fullres"]
    assert wanted_configurations(plan, ["3d_fullres"]) == ["3d_fullres"]
    assert wanted_configurations(plan, None) == ["3d_fullres", "3d_lowres", "3d_cascade_fullres"]
    with pytest.raises(UsageError, match="no configuration 2d"):
        wanted_configurations(plan, ["2d"])


@pytest.mark.parametrize(("budget", "training"), [(None, None), (600.0, 540.0), (36_000.0, 35_700.0)])
def test_part_of_the_budget_is_kept_for_what_follows_the_training(budget: float, training: float) -> None:
    assert flow.training_seconds(budget) == training


def test_the_budget_counts_from_the_start_of_the_command_and_is_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that began 100 s ago has 540 - 100 s left for the three folds that are not trained yet."""
    shares: list[float | None] = []

    def note(paths: Paths, plan: Plan, configuration: str, fold: str, options: TrainOptions) -> None:
        shares.append(options.budget_seconds)

    monkeypatch.setattr("autoseg.pipeline.train.train", note)
    monkeypatch.setattr("autoseg.pipeline.train.is_trained", lambda paths, plan, configuration, fold: fold == "0")
    monkeypatch.setattr(time, "monotonic", lambda: 1100.0)
    paths = Paths(folder=tmp_path)
    write_record(paths.folds, Folds(folds=(), source="kfold"))
    options = replace(OPTIONS, budget_seconds=540.0, started_seconds=1000.0)
    train_jobs(paths, make_plan(), [("2d", fold) for fold in "0123"], options)
    assert shares[1:] == pytest.approx([440 / 3, 440 / 2, 440])  # no time passes while `note` trains


def test_a_run_until_the_plateau_ends_each_fold_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A gain that no look can reach: the plateau shows after two looks, and a cooldown follows."""
    folder = write_phantoms(tmp_path / "Some", num_cases=4, seed=0, two_d=True)
    watch = ("cases=1", "every_epochs=1", "window=1", "patience=1", "min_gain=0.99")
    settings = (*TINY, *(f"2d.recipe.watch.{one}" for one in watch))
    arguments = [
        "run",
        str(folder),
        "--work",
        str(tmp_path / "work"),
        "--preset",
        "small",
        "--device",
        "cpu",
        "-c",
        "2d",
    ]
    arguments += ["--folds", "2", "--workers", "1", "--epochs", "30", "--iterations", "1"]
    arguments += [word for setting in settings for word in ("--set", setting)]
    assert main([*arguments, "--budget", "auto"]) == 0
    shown = capsys.readouterr().err
    assert "each training ends at its plateau; at most about" in shown
    assert "30 epochs of 1 steps" in shown
    assert "Cases of the largest fold, with the memory that is free now:\n  2d: 2 training cases, " in shown
    folds = sorted((tmp_path / "work" / "Some" / "models" / "small_plateau" / "2d").glob("fold_?"))
    assert len(folds) == 2
    for fold in folds:
        schedule = json.loads((fold / "schedule.json").read_text())
        assert schedule["until_plateau"]
        assert schedule["cooldown"]["why"] == "plateau"
        assert json.loads((fold / "fold.json").read_text())["epochs"] < 10
    assert (tmp_path / "work" / "Some" / "selection.json").is_file()
    assert main([*arguments, "--budget", "auto:2h"]) == 0, "called again all is done"
    assert "each training ends" not in capsys.readouterr().err


def test_a_named_plan_must_itself_say_how_it_plateaus(tmp_path: Path) -> None:
    folder = write_phantoms(tmp_path / "One", num_cases=1, seed=0, two_d=True)
    options = replace(OPTIONS, until_plateau=True, prepare=replace(OPTIONS.prepare, configurations=("2d",)))
    with pytest.raises(UsageError, match="has the schedule cosine and watches 0 cases"):
        run_dataset(str(folder), tmp_path / "work", options)
    work = tmp_path / "work" / "One"
    assert (work / "plans" / "mine.json").is_file()
    assert not (work / "preprocessed").exists(), "what cannot be trained need not be preprocessed"


def test_what_a_run_says_at_its_end(tmp_path: Path) -> None:
    result = RunResult(dataset="D", selection=None, report=tmp_path / "index.html", predictions=(), seconds=3.0)
    assert "0 test cases segmented; 3 s" in result.as_text()
    assert result.as_json()["mean_dice"] is None
