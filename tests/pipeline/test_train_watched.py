"""Watched cases are whole ones that are not trained on; trainings end at the plateau or when asked to."""

from pathlib import Path

import pytest
import torch
from torch import nn

from autoseg.cli.main import main
from autoseg.errors import UsageError
from autoseg.pipeline.train import TrainOptions, request_cooldown, train
from autoseg.preprocessing import store
from autoseg.records.base import read_record, write_record
from autoseg.records.course import Watch
from autoseg.records.dataset import Dataset
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Plan
from autoseg.records.recipe import Optimizer, Recipe, Schedule
from autoseg.records.workspace import Paths
from autoseg.storage.locks import is_locked, locked
from autoseg.training import loop
from autoseg.training.history import read_history
from autoseg.training.schedule import SCHEDULE, TrainingSchedule
from autoseg.training.validation import Validator
from autoseg.training.watching import watched_dice
from tests.pipeline.tiny import SHORT, make_plan
from tests.training.tools import CPU, RECIPE

WSD = Schedule(name="wsd", epochs=8, iterations_per_epoch=2, cooldown_fraction=0.5)
WATCH = Watch(cases=1, every_epochs=1, window=1, patience=1, min_gain=1.0)


def _plan(paths: Paths, name: str, **changes: object) -> Plan:
    return make_plan(paths, name=name, recipe=RECIPE.model_copy(update=changes))


class _Reference(nn.Module):
    """Segments by intensity, which in the tiny dataset is the class: background 1, near 2, far 6, before z-scores."""

    def __init__(self, edges: tuple[float, float]) -> None:
        super().__init__()
        self.edges = edges

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        low, high = self.edges
        classes = (x[:, 0] > low).long() + (x[:, 0] > high).long()
        return (nn.functional.one_hot(classes, 3).movedim(-1, 1).float(),)


def _validator(paths: Paths, plan: Plan, folder: Path) -> Validator:
    dataset, fingerprint = read_record(paths.dataset, Dataset), read_record(paths.fingerprint, Fingerprint)
    where = paths.preprocessed(store.digest(plan, "3d_fullres", fingerprint))
    configuration = plan.configurations["3d_fullres"]
    return Validator(folder, where, store.open_store(where), dataset, configuration, plan.labels, CPU)


def test_watched_dice_is_that_of_whole_cases(prepared: Paths, tmp_path: Path) -> None:
    validator = _validator(prepared, make_plan(prepared), tmp_path)
    case = "case_0"
    image, labels = store.read_image(validator.store_folder, case)[0], store.read_labels(validator.store_folder, case)
    near, far = image[labels == 1].min(), image[labels == 2].min()
    edges = (float((image[labels == 0].max() + near) / 2), float((image[labels == 1].max() + far) / 2))
    assert watched_dice(_Reference(edges).eval(), validator, [case]) == pytest.approx(1.0, abs=0.02)
    # Everything is `far` where anything is: near has Dice 0, far has 2 * 48 / (96 + 48).
    both = watched_dice(_Reference((edges[0], edges[0])).eval(), validator, [case])
    num_near, num_far = int((labels == 1).sum()), int((labels == 2).sum())
    assert both == pytest.approx(0.5 * 2 * num_far / (num_near + 2 * num_far), abs=0.02)
    assert watched_dice(_Reference((99.0, 99.0)).eval(), validator, [case, "case_1"]) == 0.0
    assert not list(tmp_path.iterdir())


def test_watched_cases_are_set_aside_and_the_held_out_ones_stay(
    prepared: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    step = loop.train_step

    def noting(learner, batch, rate, number):  # type: ignore[no-untyped-def]
        seen.update(batch.cases)
        return step(learner, batch, rate, number)

    monkeypatch.setattr(loop, "train_step", noting)
    options = TrainOptions(epochs=12, iterations=2, seed=5, device="cpu")
    record = train(prepared, _plan(prepared, "watched", watch=WATCH), "3d_fullres", "0", options)
    (watched,) = record.watched_cases
    assert watched in record.train_cases
    assert watched not in record.validation_cases
    assert seen == set(record.train_cases) - {watched}
    history = read_history(prepared.fold("watched", "3d_fullres", "0"))
    assert all(record.watch_dice is not None and 0 <= record.watch_dice <= 1 for record in history)
    assert (prepared.fold("watched", "3d_fullres", "0") / "curve.png").stat().st_size > 0


def test_until_the_plateau(prepared: Paths) -> None:
    plan = _plan(prepared, "plateau", watch=WATCH, schedule=WSD)
    options = TrainOptions(seed=5, device="cpu", until_plateau=True)
    record = train(prepared, plan, "3d_fullres", "0", options)
    # No gain is ever as large as 1: the second look ends it, and half of all steps are the cooldown.
    assert record.epochs == 4 < WSD.epochs
    schedule = read_record(prepared.fold("plateau", "3d_fullres", "0") / SCHEDULE, TrainingSchedule)
    assert schedule.cooldown is not None
    assert (schedule.cooldown.start, schedule.cooldown.why) == (4, "plateau")


def test_the_plan_itself_can_say_so(prepared: Paths) -> None:
    ends = WSD.model_copy(update={"ends": "plateau"})
    optimizer = Optimizer(name="schedule_free", momentum=0.9)
    plan = _plan(prepared, "ends", watch=WATCH, schedule=ends, optimizer=optimizer, ema_decay=None)
    assert train(prepared, plan, "3d_fullres", "1", TrainOptions(seed=5, device="cpu")).epochs == 4
    with pytest.raises(ValueError, match=r"watch\.cases"):
        Recipe(schedule=ends)


def test_budget_auto_needs_a_constant_rate_and_cases_to_watch(prepared: Paths) -> None:
    options = SHORT.model_copy(update={"until_plateau": True})
    for name, changes in (("no_watch", {"schedule": WSD}), ("no_wsd", {"watch": WATCH})):
        with pytest.raises(UsageError, match=r"name=wsd --set all\.recipe\.watch\.cases=4"):
            train(prepared, _plan(prepared, name, **changes), "3d_fullres", "0", options)


def test_a_cooldown_can_be_asked_for(prepared: Paths) -> None:
    plan, folder = _plan(prepared, "asked", schedule=WSD), prepared.fold("asked", "3d_fullres", "0")
    with pytest.raises(UsageError, match="not begun"):
        request_cooldown(prepared, plan, "3d_fullres", "0")
    train(prepared, plan, "3d_fullres", "0", TrainOptions(epochs=2, iterations=2, device="cpu"))
    assert not request_cooldown(prepared, plan, "3d_fullres", "00")
    assert not (folder / loop.COOLDOWN_REQUEST).exists()
    (folder / "fold.json").unlink()
    assert not request_cooldown(prepared, plan, "3d_fullres", "0")
    assert (folder / loop.COOLDOWN_REQUEST).exists()
    with locked(folder, "training"):
        assert request_cooldown(prepared, plan, "3d_fullres", "0")
    assert not is_locked(folder)


def test_the_command_asks_a_running_training_and_goes_on_with_a_stopped_one(
    prepared: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, folder = _plan(prepared, "command", schedule=WSD), prepared.fold("command", "3d_fullres", "0")
    write_record(prepared.plan("command"), plan)
    command = ["train", "Tiny", "3d_fullres", "--plan", "command", "--device", "cpu"]
    command += ["--work", str(prepared.folder.parent), "--quiet", "--cooldown"]
    assert main(command) == 2
    assert "of one fold" in capsys.readouterr().err
    assert main([*command, "0"]) == 2
    assert "not begun" in capsys.readouterr().err
    train(prepared, plan, "3d_fullres", "0", TrainOptions(device="cpu"))
    for name in ("fold.json", "history.jsonl"):  # as if it had been begun and stopped before its first checkpoint
        (folder / name).unlink()
    with locked(folder, "training"):
        assert main([*command, "0", "--json"]) == 0
    assert capsys.readouterr().out == "[]\n"
    assert (folder / loop.COOLDOWN_REQUEST).exists()
    assert main([*command, "0"]) == 0
    assert "Next: autoseg select" in capsys.readouterr().out
    assert not (folder / loop.COOLDOWN_REQUEST).exists()
