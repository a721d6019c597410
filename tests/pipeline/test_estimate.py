"""What people are told about the planned trainings: their time, with a step whose time is given, and their cases."""

import math

import pytest
import torch

from autoseg import console
from autoseg.errors import ModelError
from autoseg.pipeline import estimate
from autoseg.pipeline.estimate import describe_tiers, describe_times
from autoseg.preprocessing import store
from autoseg.records.base import read_record
from autoseg.records.dataset import Folds
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.run import TrainingCount
from autoseg.records.workspace import Paths
from autoseg.training import tiers
from autoseg.training.source import open_source
from autoseg.training.step_time import StepTime
from autoseg.training.task import types_held
from tests.pipeline.fakes import make_plan
from tests.pipeline.tiny import make_plan as make_tiny_plan

PLAN = make_plan(names=("3d_lowres", "3d_fullres"))
ONE = {"3d_lowres": TrainingCount(left=1)}


@pytest.fixture(autouse=True)
def _steps_of_half_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "predict_step_time", lambda *_: StepTime(0.5, "float32"))


def test_the_times_by_hand() -> None:
    rows = describe_times(
        PLAN, {"3d_lowres": TrainingCount(left=1), "3d_fullres": TrainingCount(left=5)}, "cpu", epochs=10, iterations=24
    )
    assert rows[0].startswith("Predicted for cpu (")
    assert rows[1:] == [
        "  3d_lowres: about 0.5 s a step (float32), 2 min for 10 epochs of 24 steps, 2 min for 1 training",
        "  3d_fullres: about 0.5 s a step (float32), 2 min for 10 epochs of 24 steps, 10 min for 5 trainings",
    ]


def test_what_is_done_is_said_and_not_counted() -> None:
    counts = {"3d_lowres": TrainingCount(left=0, done=5), "3d_fullres": TrainingCount(left=2, done=3)}
    rows = describe_times(PLAN, counts, "cpu", 10, 24, None, True)
    assert describe_times(PLAN, {"3d_lowres": counts["3d_lowres"]}, "cpu") == [
        "Nothing is left to train: 5 trainings done already."
    ]
    assert rows[1] == "  3d_lowres: 5 trainings done already"
    assert rows[2].endswith("24 steps, 4 min for 2 trainings (3 more done already)")
    assert rows[3].endswith("at most about 4 min, if all epochs are needed")


def test_the_plan_gives_the_length_where_nothing_else_is_asked_for() -> None:
    course = PLAN.configurations["3d_lowres"].recipe.schedule
    rows = describe_times(PLAN, {"3d_lowres": TrainingCount(left=2)}, "cpu")
    assert f"for {course.epochs} epochs of {course.iterations_per_epoch} steps" in rows[1]


def test_a_budget_and_a_plateau_are_told() -> None:
    few = {"3d_lowres": TrainingCount(left=2)}
    assert describe_times(PLAN, few, "cpu", 10, 24, 60.0)[-1].endswith("the budget, which leaves 60 s for them")
    open_ended = describe_times(PLAN, few, "cpu", 10, 24, None, True)[-1]
    assert open_ended.endswith("at its plateau; at most about 4 min, if all epochs are needed")
    assert describe_times(PLAN, few, "cpu", 10, 24, 7200.0, True)[-1].endswith("at its plateau; at most 2.0 h")


def test_what_cannot_be_predicted_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "predict_step_time", lambda *_: None)
    assert describe_times(PLAN, ONE, "cpu")[1] == (
        "  3d_lowres: the time of a step cannot be predicted for this loss or network"
    )


def test_an_end_that_cannot_be_predicted_is_not_called_zero_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "predict_step_time", lambda *_: None)
    assert describe_times(PLAN, ONE, "cpu", until_plateau=True)[-1].endswith(
        "each training ends at its plateau, or when all epochs are done"
    )


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory.\nTried to"), ModelError("no such loss")])
def test_a_step_that_cannot_be_timed_ends_nothing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """What is timed is beside what was asked for: another program may fill the GPU, or a kernel may be missing."""

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(estimate, "predict_step_time", fails)
    assert describe_times(PLAN, ONE, "cpu")[1] == (
        f"  3d_lowres: the time of a step cannot be predicted here: {str(error).splitlines()[0]}"
    )


def test_a_plan_for_a_device_of_another_machine_has_no_times() -> None:
    rows = describe_times(PLAN, ONE, "cuda:77")
    assert len(rows) == 1
    assert rows[0].startswith("How long training takes is not predicted. --device cuda:77: this machine has ")


def test_where_the_cases_will_be_follows_from_the_preprocessed_ones(
    prepared: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a cascade each voxel has two labels. The words are those that the training of the largest fold says."""
    plan, said = make_tiny_plan(prepared), []
    monkeypatch.setattr(tiers, "available_memory_bytes", lambda: 8 * 2**30)
    counts = {"3d_fullres": TrainingCount(left=1), "3d_cascade_fullres": TrainingCount(left=3)}
    rows = describe_tiers(prepared, plan, counts, "cpu")
    assert rows[0] == "Cases of the largest fold, with the memory that is free now:"
    assert [row.split(":")[0] for row in rows[1:]] == ["  3d_fullres", "  3d_cascade_fullres"]
    assert all(row.endswith(": held in main memory, which has room for 4 GiB of cases.") for row in rows[1:])

    monkeypatch.setattr(console, "say", said.append)
    folder = prepared.preprocessed(store.digest(plan, "3d_fullres", read_record(prepared.fingerprint, Fingerprint)))
    manifest, folds = store.open_store(folder), read_record(prepared.folds, Folds).folds
    held = types_held(plan.configurations["3d_fullres"], plan.labels)
    voxels = []
    for fold in folds:
        open_source(folder, manifest, fold.train, 1, torch.device("cpu"), held=held)
        voxels.append(sum(math.prod(manifest.cases[case].shape) for case in fold.train))
    largest = voxels.index(max(voxels))
    assert rows[1] == f"  3d_fullres: {said[largest]}"

    monkeypatch.setattr(tiers, "available_memory_bytes", lambda: 2 * max(voxels) * (2 + 1))  # float16 and a byte
    away = describe_tiers(prepared, plan, counts, "cpu")
    assert "held in main memory" in away[1]
    assert "read from disk" in away[2], "a label more for each voxel"


def test_nothing_is_said_of_cases_that_nobody_will_train_on(prepared: Paths) -> None:
    plan = make_tiny_plan(prepared)
    assert describe_tiers(prepared, plan, {"3d_fullres": TrainingCount(left=0, done=3)}, "cpu") == []
    assert describe_tiers(prepared, plan, {"3d_fullres": TrainingCount(left=1)}, "cuda:77") == []


def test_a_gpu_that_cannot_be_asked_ends_nothing(prepared: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("CUDA error: out of memory\nmore")

    monkeypatch.setattr(estimate, "tier_here", fails)
    assert describe_tiers(prepared, make_tiny_plan(prepared), {"3d_fullres": TrainingCount(left=1)}, "cpu") == [
        "Where trainings will hold their cases is not predicted: CUDA error: out of memory"
    ]
