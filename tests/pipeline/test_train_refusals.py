"""What the stage refuses or warns of before it trains: other cases, plans, options and folds than there are."""

import os

import pytest

from autoseg.errors import DataError, ModelError, UsageError
from autoseg.pipeline.train import TrainOptions, train
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Dataset, Folds
from autoseg.records.recipe import Mirroring, Sampling
from autoseg.records.results import TrainedFold
from autoseg.records.workspace import Paths
from autoseg.storage.locks import locked
from autoseg.training.schedule import TrainingSchedule
from tests.pipeline.tiny import SHORT, make_plan
from tests.training.tools import RECIPE


def test_other_options_on_a_finished_fold_are_warned_of(
    prepared: Paths, trained: TrainedFold, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(prepared)
    train(prepared, plan, "3d_fullres", "0", SHORT.model_copy(update={"epochs": 9, "seed": 6}))
    told = capsys.readouterr().err
    assert "--epochs 9 changes nothing: 3d_fullres fold 0 was trained with 2" in told
    assert "--seed 6 changes nothing" in told
    assert "--iterations" not in told
    train(prepared, plan, "3d_fullres", "0", SHORT)
    assert "warning" not in capsys.readouterr().err


def test_other_cases_than_trained_on_are_refused(prepared: Paths, trained: TrainedFold) -> None:
    plan, before = make_plan(prepared), read_record(prepared.folds, Folds)
    schedule = TrainingSchedule(
        epochs=2, iterations_per_epoch=2, seed=5, precision="float32", device="cpu", cases=before.folds[1]
    )
    write_record(prepared.fold("half", "3d_fullres", "1") / "schedule.json", schedule)
    write_record(prepared.folds, before.model_copy(update={"folds": before.folds[1:] + before.folds[:1]}))
    try:
        with pytest.raises(ModelError, match="begun with other cases: case_"):
            train(prepared, plan, "3d_fullres", "0", SHORT)
        with pytest.raises(ModelError, match="begun with other cases: case_"):
            train(prepared, make_plan(prepared, name="half"), "3d_fullres", "1", SHORT)
    finally:
        write_record(prepared.folds, before)


def test_folds_of_cases_that_do_not_exist_are_refused(prepared: Paths) -> None:
    before = read_record(prepared.folds, Folds)
    foreign = before.folds[2].model_copy(update={"train": (*before.folds[2].train, "gone")})
    write_record(prepared.folds, before.model_copy(update={"folds": (*before.folds[:2], foreign)}))
    try:
        with pytest.raises(DataError, match=r"fold 2: no such training cases: gone\."):
            train(prepared, make_plan(prepared, name="foreign"), "3d_fullres", "2", SHORT)
        write_record(prepared.folds, Folds(folds=(), source="too few cases"))
        with pytest.raises(UsageError, match="too few for folds, there is 'all'"):
            train(prepared, make_plan(prepared, name="foreign"), "3d_fullres", "0", SHORT)
    finally:
        write_record(prepared.folds, before)


def test_a_case_newer_than_the_fingerprint_is_named(prepared: Paths) -> None:
    before = read_record(prepared.dataset, Dataset)
    new = before.training[0].model_copy(update={"id": "new"})
    write_record(prepared.dataset, before.model_copy(update={"training": (*before.training[1:], new)}))
    try:
        with pytest.raises(DataError, match=r"new came since; case_0 went since"):
            train(prepared, make_plan(prepared, name="newer"), "3d_fullres", "all", SHORT)
    finally:
        write_record(prepared.dataset, before)


def test_unknown_configurations_and_folds_are_named(prepared: Paths) -> None:
    plan = make_plan(prepared)
    with pytest.raises(UsageError, match="3d_lowres"):
        train(prepared, plan, "2d", "0", SHORT)
    for fold in ("3", "03", "-1", "zero"):
        with pytest.raises(UsageError, match="0 to 2"):
            train(prepared, plan, "3d_fullres", fold, SHORT)


def test_sampling_weights_must_fit_the_targets(prepared: Paths) -> None:
    recipe = RECIPE.model_copy(update={"sampling": Sampling(class_weights=(1.0, 1.0, 1.0))})
    plan = make_plan(prepared, name="weighted", recipe=recipe)
    with pytest.raises(UsageError, match="2 numbers from 0 up, one a target"):
        train(prepared, plan, "3d_fullres", "0", SHORT)


def test_mirroring_of_classes_that_are_not_there_is_refused_before_training(prepared: Paths) -> None:
    recipe = RECIPE.model_copy(update={"mirroring": Mirroring(swap_axis=2, swap_pairs=((1, 7),))})
    with pytest.raises(ModelError, match="swap_pairs"):
        train(prepared, make_plan(prepared, name="mirrored", recipe=recipe), "3d_fullres", "0", SHORT)


def test_another_content_of_the_plan_is_refused(prepared: Paths, trained: TrainedFold) -> None:
    with pytest.raises(ModelError, match="another name"):
        train(prepared, make_plan(prepared, batch_size=3), "3d_fullres", "0", SHORT)


def test_other_options_than_begun_with_are_refused(prepared: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(prepared, name="begun")
    schedule = TrainingSchedule(epochs=2, iterations_per_epoch=2, seed=5, precision="float32", device="cpu")
    write_record(prepared.fold("begun", "3d_fullres", "1") / "schedule.json", schedule)
    for changed in ({"epochs": 3}, {"iterations": 3}, {"seed": 3}):
        with pytest.raises(UsageError, match=f"--{next(iter(changed))} 3"):
            train(prepared, plan, "3d_fullres", "1", SHORT.model_copy(update=changed))
    assert train(prepared, plan, "3d_fullres", "1", TrainOptions(device="cpu", budget_seconds=99)).epochs == 2
    assert "2 epochs of 2 steps were fixed with no budget" in capsys.readouterr().err


def test_not_preprocessed_says_what_to_do(prepared: Paths) -> None:
    plan = make_plan(prepared, name="other", spacing_mm=(3.0, 3.0, 3.0))
    with pytest.raises(UsageError, match=r"not preprocessed .* autoseg preprocess Tiny --plan other -c 3d_fullres$"):
        train(prepared, plan, "3d_fullres", "0", SHORT)


def test_a_fold_in_use_is_refused(prepared: Paths) -> None:
    plan = make_plan(prepared, name="locked")
    folder = prepared.fold("locked", "3d_fullres", "0")
    with locked(folder, "training"), pytest.raises(UsageError, match=f"process {os.getpid()}"):
        train(prepared, plan, "3d_fullres", "0", SHORT)
