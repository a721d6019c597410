"""Data that changed after a training began: one that is interrupted is refused, a finished one is named."""

import json
import os
import shutil
import signal
from pathlib import Path

import nibabel
import numpy as np
import pytest

from autoseg.cli.main import main
from autoseg.errors import ModelError, Preempted
from autoseg.pipeline import train as stage
from autoseg.pipeline.fingerprint import verify_and_fingerprint
from autoseg.pipeline.preprocess import preprocess
from autoseg.pipeline.select import select
from autoseg.pipeline.train import train
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Dataset, Folds
from autoseg.records.workspace import Paths
from autoseg.training.provenance import outdated_folds
from autoseg.training.schedule import TrainingSchedule
from tests.pipeline.tiny import SHORT, make_plan

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def paths(prepared: Paths, tmp_path: Path) -> Paths:
    """A copy of the prepared workspace and its dataset, to be changed."""
    data, folder = tmp_path / "Tiny", tmp_path / "work" / "Tiny"
    shutil.copytree(Path(read_record(prepared.dataset, Dataset).root), data)
    shutil.copytree(prepared.folder, folder, ignore=shutil.ignore_patterns("models"))
    copied = Paths(folder=folder)
    write_record(copied.dataset, read_record(copied.dataset, Dataset).model_copy(update={"root": str(data)}))
    return copied


def _correct_label(paths: Paths, case: str) -> None:
    path = Path(read_record(paths.dataset, Dataset).root) / "labelsTr" / f"{case}.nii.gz"
    label = nibabel.load(path)
    array = np.array(label.dataobj)
    array[3:7, 4:8, 8] = 0
    nibabel.save(nibabel.Nifti1Image(array, label.affine), path)


def _interrupt(paths: Paths, configuration: str, fold: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin a training and stop it before its first step, its schedule written."""

    def stop(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        arguments[4].raise_if_asked("training")  # type: ignore[attr-defined]

    with monkeypatch.context() as patch:
        patch.setattr(stage, "train_network", stop)
        with pytest.raises(Preempted):
            train(paths, make_plan(paths), configuration, fold, SHORT)
    assert (paths.fold("tiny", configuration, fold) / "schedule.json").is_file()


def test_an_interrupted_cascade_refuses_another_first_stage(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(paths)
    for fold in ("0", "1", "2"):
        train(paths, plan, "3d_lowres", fold, SHORT)
    _interrupt(paths, "3d_cascade_fullres", "0", monkeypatch)
    folder = paths.fold("tiny", "3d_lowres", "1")

    shutil.rmtree(folder)
    train(paths, plan, "3d_lowres", "1", SHORT)  # the same seed: the same weights, so nothing changed
    _interrupt(paths, "3d_cascade_fullres", "0", monkeypatch)

    shutil.rmtree(folder)
    train(paths, plan, "3d_lowres", "1", SHORT.model_copy(update={"seed": 6}))
    with pytest.raises(ModelError, match=r"its previous stage was trained anew since.*delete it to train it anew"):
        train(paths, plan, "3d_cascade_fullres", "0", SHORT)
    shutil.rmtree(paths.fold("tiny", "3d_cascade_fullres", "0"))
    train(paths, plan, "3d_cascade_fullres", "0", SHORT)
    assert outdated_folds(paths, plan) == {}

    shutil.rmtree(folder)
    assert outdated_folds(paths, plan) == {}, "a previous stage that is not there is not another one"
    train(paths, plan, "3d_lowres", "1", SHORT)
    assert outdated_folds(paths, plan) == {("3d_cascade_fullres", "0"): "its previous stage was trained anew"}


def test_an_interrupted_training_refuses_a_corrected_label(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    _interrupt(paths, "3d_fullres", "0", monkeypatch)
    _correct_label(paths, "case_2")
    verify_and_fingerprint(paths, num_workers=1)
    preprocess(paths, make_plan(paths), ["3d_fullres"], num_workers=1)
    with pytest.raises(ModelError, match="files of case_2 changed since"):
        train(paths, make_plan(paths), "3d_fullres", "0", SHORT)


def test_a_corrected_label_is_told_wherever_a_finished_fold_is_used(paths: Paths, capsys: Captured) -> None:
    plan = make_plan(paths)
    write_record(paths.plan("tiny"), plan)
    train(paths, plan, "3d_fullres", "0", SHORT)
    case = read_record(paths.folds, Folds).folds[0].validation[0]
    first = select(paths, plan)
    assert "other data" not in capsys.readouterr().err

    _correct_label(paths, case)
    second = select(paths, plan)
    told = f"trained on other data than there is now: files of {case} changed"
    assert f"3d_fullres fold 0 was {told}" in capsys.readouterr().err
    assert second.decided_by != first.decided_by
    assert second.candidates[0].dice != first.candidates[0].dice
    assert select(paths, plan) == second
    assert told in capsys.readouterr().err, "also when nothing is compared again"

    verify_and_fingerprint(paths, num_workers=1)
    assert select(paths, plan) == second
    capsys.readouterr()
    assert train(paths, plan, "3d_fullres", "0", SHORT).fold == "0"
    assert told in capsys.readouterr().err
    assert main(["status", "Tiny", "--work", str(paths.folder.parent), "--json"]) == 0
    outdated = json.loads(capsys.readouterr().out)["outdated"]
    assert outdated == {"tiny/3d_fullres/fold_0": f"files of {case} changed"}


def test_a_fold_of_an_autoseg_that_kept_no_inputs_is_not_judged(paths: Paths, capsys: Captured) -> None:
    plan, folder = make_plan(paths), paths.fold("tiny", "3d_fullres", "0")
    train(paths, plan, "3d_fullres", "0", SHORT)
    schedule = read_record(folder / "schedule.json", TrainingSchedule)
    write_record(folder / "schedule.json", schedule.model_copy(update={"inputs": None}))
    _correct_label(paths, "case_2")
    assert outdated_folds(paths, plan) == {}
