"""What the commands say and refuse around the stages, whose own work is tested elsewhere."""

import json
import shutil
from pathlib import Path

import pytest

from autoseg.cli.main import main
from autoseg.datasets.phantoms import write_phantoms
from autoseg.records.base import read_record, write_record
from autoseg.records.plan import Plan
from autoseg.records.results import TrainedFold
from autoseg.records.workspace import Paths
from tests.reporting.workspace import make_workspace

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    return make_workspace(tmp_path_factory.mktemp("commands"), num_cases=2)


@pytest.fixture
def paths(finished: Paths, tmp_path: Path) -> Paths:
    """A copy of a finished workspace, to be changed."""
    folder = tmp_path / "work" / finished.folder.name
    shutil.copytree(finished.folder, folder)
    return Paths(folder=folder)


def next_of(paths: Paths, capsys: Captured, dataset: str | None = None) -> str:
    arguments = ["status", dataset or paths.folder.name, "--work", str(paths.folder.parent), "--json"]
    assert main(arguments) == 0
    return str(json.loads(capsys.readouterr().out)["next"])


def test_interrupted_commands_say_that_they_can_be_called_again(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("autoseg.pipeline.fingerprint.verify_only", interrupt)
    assert main(["verify", str(tmp_path), "--work", str(tmp_path)]) == 130
    assert "call the same command again" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "D", "--seed", "-1"],
        ["train", "D", "2d", "--seed", "-1"],
        ["demo", "--seed", "-1"],
        ["phantoms", "OUT", "--seed", "-1"],
        ["run", "D", "--workers", "-1"],
        ["fingerprint", "D", "--workers", "0"],
        ["benchmark", "D", "--fold", "-1"],
    ],
)
def test_numbers_out_of_range_are_usage_errors(arguments: list[str], capsys: Captured) -> None:
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert f"Invalid value for '{arguments[-2]}'" in message
    assert "Traceback" not in message


def test_the_images_may_lie_where_we_stand(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for options in (["-i", ".", "-o", "out"], ["-i", "images", "-o", "."]):
        assert main(["predict", *options, "--model", "nowhere"]) != 0
        assert "needs -i IMAGES" not in capsys.readouterr().err
    assert main(["predict", "-i", ".", "--model", "nowhere"]) == 2
    assert "needs -i IMAGES" in capsys.readouterr().err


def test_a_model_folder_has_its_own_plan(tmp_path: Path, capsys: Captured) -> None:
    assert main(["predict", "-i", str(tmp_path), "-o", "out", "--model", "fold_0", "--plan", "small"]) == 2
    assert "--plan chooses among" in capsys.readouterr().err


def test_a_finding_about_no_case_is_about_the_dataset(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "Task01_Empty").mkdir()
    assert main(["verify", str(tmp_path / "Task01_Empty"), "--work", str(tmp_path / "work")]) == 3
    printed = capsys.readouterr().out
    assert "FAULT   dataset: " in printed
    assert "None" not in printed


def test_status_names_the_first_step_that_is_not_done(paths: Paths, capsys: Captured) -> None:
    name = paths.folder.name
    (paths.folder / "preprocessed" / "ab").mkdir(parents=True)
    (paths.folder / "preprocessed" / "ab" / "manifest.json").touch()
    assert next_of(paths, capsys) == f"autoseg report {name}"
    paths.report.parent.mkdir()
    paths.report.touch()
    assert next_of(paths, capsys) == f"autoseg predict -i IMAGES -o OUT {name}"
    paths.selection.unlink()
    assert next_of(paths, capsys) == f"autoseg select {name}"
    shutil.rmtree(paths.folder / "models")
    assert next_of(paths, capsys) == f"autoseg train {name} 3d_fullres"
    plan = read_record(paths.plan("small"), Plan)
    flat = plan.model_copy(update={"name": "flat", "configurations": {"2d": plan.configurations["2d"]}})
    write_record(paths.plan("flat"), flat)
    assert next_of(paths, capsys) == f"autoseg train {name} 2d --plan flat"
    shutil.rmtree(paths.plans)
    assert next_of(paths, capsys) == f"autoseg plan_and_preprocess {name}"


def test_status_after_a_training_on_all_cases_does_not_advise_to_select(paths: Paths, capsys: Captured) -> None:
    trained = read_record(paths.fold("small", "2d", "0") / "fold.json", TrainedFold)
    shutil.rmtree(paths.folder / "models")
    paths.selection.unlink()
    every = trained.model_copy(update={"fold": "all", "validation_cases": (), "mean_dice": None})
    write_record(paths.fold("small", "2d", "all") / "fold.json", every)
    (paths.folder / "preprocessed" / "ab").mkdir(parents=True)
    (paths.folder / "preprocessed" / "ab" / "manifest.json").touch()
    assert next_of(paths, capsys) == f"autoseg report {paths.folder.name}"
    assert main(["report", paths.folder.name, "--work", str(paths.folder.parent)]) == 0
    assert f"Next: autoseg status {paths.folder.name}" in capsys.readouterr().out
    assert "autoseg select" not in paths.report.read_text().split("What next")[-1]


def test_status_finds_a_dataset_as_every_command_does(tmp_path: Path, capsys: Captured) -> None:
    """A folder whose name cannot be a workspace's as it is, with a slash at its end; and one never seen."""
    folder = write_phantoms(tmp_path / "my data (1)", num_cases=1, seed=0, two_d=True)
    work = ["--work", str(tmp_path / "work")]
    assert main(["status", str(folder), *work]) == 2
    assert "Next: autoseg run" in capsys.readouterr().err
    assert main(["fingerprint", str(folder), *work, "-q"]) == 0
    capsys.readouterr()
    assert main(["status", f"{folder}/", *work]) == 0
    assert "Next: autoseg plan_and_preprocess" in capsys.readouterr().out
    assert main(["status", "nothing", *work]) == 2


def test_run_says_what_its_budget_is_and_names_its_plan(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["run", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Time for the whole command" in text
    assert "--plan-name" in text


def test_commands_after_which_nothing_must_follow_say_what_can(
    finished: Paths, tmp_path: Path, capsys: Captured
) -> None:
    assert main(["doctor", "--work", str(tmp_path)]) == 0
    assert "Next: autoseg demo" in capsys.readouterr().out
    references = finished.folder.parent.parent / "data" / "labelsTr"
    assert main(["evaluate", str(references), str(references), "-o", str(tmp_path)]) == 0
    assert f"Next: look at the worst cases in {tmp_path / 'evaluation.csv'}" in capsys.readouterr().out


def test_planning_tells_how_long_training_takes_here(tmp_path: Path, capsys: Captured) -> None:
    folder = write_phantoms(tmp_path / "Two", num_cases=2, seed=0, two_d=True)
    arguments = ["plan_and_preprocess", str(folder), "--work", str(tmp_path / "work"), "--preset", "small", "-c", "2d"]
    arguments += ["--folds", "2", "--workers", "1", "--device", "cpu", "--set", "2d.patch_size=[64,64]"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "Predicted for cpu (" in shown
    assert "  2d: about " in shown
    assert " for 20 epochs of 100 steps, " in shown
    assert " for 2 trainings\n" in shown
    assert "  2d: 1 training cases, " in shown
    assert " as float16: held in main memory, which has room for " in shown
    assert shown.splitlines()[-1].startswith("Next: autoseg train Two 2d")

    assert main([*arguments, "--device", "cuda:77"]) == 0, "planning for a GPU of another machine is no error"
    shown = capsys.readouterr().out
    assert "How long training takes is not predicted. --device cuda:77" in shown
    assert shown.splitlines()[-1].startswith("Next: autoseg train Two 2d")
