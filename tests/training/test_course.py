"""Every schedule, optimiser and growth of the patch: interrupted equals uninterrupted, cooldowns begin and are kept."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from autoseg.errors import Preempted
from autoseg.records.base import read_record, write_record
from autoseg.records.course import PatchGrowth, PatchStage, Watch
from autoseg.records.recipe import Optimizer, Recipe, Sampling, Schedule
from autoseg.training import loop as module
from autoseg.training.batches import Sampler, batches
from autoseg.training.history import read_history
from autoseg.training.learner import final_weights, predicting, train_step
from autoseg.training.loop import COOLDOWN_REQUEST, train_network
from autoseg.training.schedule import SCHEDULE as FILE
from autoseg.training.schedule import TrainingSchedule
from autoseg.training.stopping import StopRequest
from tests.training.test_loop import StopAfter
from tests.training.tools import RECIPE, make_learner, make_sampler, make_source, scaled

SCHEDULE = TrainingSchedule(epochs=6, iterations_per_epoch=2, seed=7, precision="float32", device="cpu")
WSD = Schedule(name="wsd", epochs=6, iterations_per_epoch=2, warmup_fraction=0.1, cooldown_fraction=0.4)
GROWTH = PatchGrowth(stages=(PatchStage(until=0.3, fraction=0.5), PatchStage(until=0.6, fraction=0.75)))
PLAIN = RECIPE.model_copy(update={"ema_decay": None})
WATCH = Watch(cases=1, every_epochs=1, window=1, patience=1, min_gain=0.01)


def _with(recipe: Recipe = PLAIN, **changes: object) -> Recipe:
    return recipe.model_copy(update=changes)


RECIPES = {
    "wsd": _with(schedule=WSD),
    "one_cycle": _with(schedule=Schedule(name="one_cycle", epochs=6, iterations_per_epoch=2)),
    "muon": _with(optimizer=Optimizer(name="muon", momentum=0.9)),
    "schedule_free": _with(optimizer=Optimizer(name="schedule_free", momentum=0.9), schedule=WSD),
    "growth": _with(patch_growth=GROWTH),
    "growth_voxels": _with(patch_growth=GROWTH.model_copy(update={"keeps_voxels": True})),
    "scaled_rate": _with(optimizer=Optimizer(reference_batch=1)),
    "watched": _with(RECIPE, watch=WATCH),
    "plateau": _with(RECIPE, watch=WATCH, schedule=WSD),
    "hard_watched": _with(RECIPE, watch=WATCH, sampling=Sampling(hard_ratio=3.0)),
    "plateau_schedule_free": _with(
        watch=WATCH, optimizer=Optimizer(name="schedule_free", momentum=0.9), schedule=WSD, patch_growth=GROWTH
    ),
}


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "draw_curve", lambda *args: None)
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_REQUESTS", 0.0)


def _sampler(recipe: Recipe) -> Sampler:
    return replace(make_sampler(scaled(make_source([(10, 9, 8), (8, 12, 9)]), 1e-3), recipe), divisor_zyx=(1, 1, 1))


def _look(network: nn.Module) -> float:
    """Depends on the weights, and hardly rises: the plateau comes at the second look."""
    assert not network.training
    return 0.5 + 1e-6 * float(next(network.parameters()).detach().sum())


def _session(folder: Path, recipe: Recipe, stop: StopRequest) -> dict[str, torch.Tensor]:
    """What one process does: the schedule as it is on disk, the training up to its end or its stop."""
    schedule = read_record(folder / FILE, TrainingSchedule)
    learner = make_learner(recipe)
    look = _look if recipe.watch.cases else None
    train_network(learner, _sampler(recipe), schedule, folder, stop, "a training", look)
    return final_weights(learner)


def _train(
    folder: Path, recipe: Recipe, stops: tuple[int, ...] = (), until_plateau: bool = False
) -> dict[str, torch.Tensor]:
    folder.mkdir()
    write_record(folder / FILE, SCHEDULE.model_copy(update={"until_plateau": until_plateau}))
    for num_steps in stops:
        with pytest.raises(Preempted):
            _session(folder, recipe, StopAfter(num_steps - 1))
    return _session(folder, recipe, StopRequest())


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("name", RECIPES)
def test_interrupted_equals_uninterrupted_bit_for_bit(tmp_path: Path, name: str) -> None:
    recipe, until_plateau = RECIPES[name], name.startswith("plateau")
    whole = _train(tmp_path / "whole", recipe, until_plateau=until_plateau)
    for stops in ((4,), (1, 4)):
        folder = tmp_path / "_".join(map(str, stops))
        assert _equal(_train(folder, recipe, stops, until_plateau), whole)
        for one, other in zip(read_history(folder), read_history(tmp_path / "whole"), strict=True):
            assert one.model_dump(exclude={"seconds"}) == other.model_dump(exclude={"seconds"})


class _KilledAfter(StopRequest):
    """Ends the process after so many steps without a word, as `kill -9` does: nothing is saved."""

    def __init__(self, num_steps: int) -> None:
        self._left = num_steps

    @property
    def signal(self) -> None:  # type: ignore[override]
        self._left -= 1
        if self._left < 0:
            raise _Killed


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("name", RECIPES)
def test_killed_within_an_epoch_equals_uninterrupted_bit_for_bit(tmp_path: Path, name: str) -> None:
    recipe, until_plateau = RECIPES[name], name.startswith("plateau")
    whole = _train(tmp_path / "whole", recipe, until_plateau=until_plateau)
    folder = tmp_path / "killed"
    folder.mkdir()
    write_record(folder / FILE, SCHEDULE.model_copy(update={"until_plateau": until_plateau}))
    for num_steps in (0, 4, 2):  # within the first epoch, the third, and the fourth
        with pytest.raises(_Killed):
            _session(folder, recipe, _KilledAfter(num_steps))
    assert _equal(_session(folder, recipe, StopRequest()), whole)
    for one, other in zip(read_history(folder), read_history(tmp_path / "whole"), strict=True):
        assert one.model_dump(exclude={"seconds"}) == other.model_dump(exclude={"seconds"})


def test_they_all_give_other_weights(tmp_path: Path) -> None:
    names = [name for name in RECIPES if name != "watched"]
    plain = _train(tmp_path / "plain", PLAIN)
    for name in names:
        assert not _equal(_train(tmp_path / name, RECIPES[name], until_plateau=name.startswith("plateau")), plain), name


def test_looking_changes_no_weight(tmp_path: Path) -> None:
    watched = _train(tmp_path / "watched", RECIPES["watched"])
    assert _equal(_train(tmp_path / "unwatched", RECIPE), watched)
    assert [record.watch_dice is not None for record in read_history(tmp_path / "watched")] == [True] * 6


def test_it_is_looked_at_every_so_many_epochs_and_at_the_end(tmp_path: Path) -> None:
    _train(tmp_path / "watched", _with(watch=WATCH.model_copy(update={"every_epochs": 4})))
    looks = [record.watch_dice is not None for record in read_history(tmp_path / "watched")]
    assert looks == [False, False, False, True, False, True]


def test_the_plateau_begins_a_cooldown_that_ends_the_training(tmp_path: Path) -> None:
    _train(tmp_path / "plateau", RECIPES["plateau"], until_plateau=True)
    schedule = read_record(tmp_path / "plateau" / FILE, TrainingSchedule)
    assert schedule.cooldown is not None
    # Two looks, the second no better: from step 4, and 4 * 0.4 / 0.6 = 2.7 steps are filled up to the epoch's end.
    assert (schedule.cooldown.start, schedule.cooldown.steps, schedule.cooldown.why) == (4, 4, "plateau")
    history = read_history(tmp_path / "plateau")
    assert [record.epoch for record in history] == [0, 1, 2, 3]
    assert history[1].learning_rate > history[2].learning_rate > history[3].learning_rate
    assert len(read_history(tmp_path / "plateau")) == schedule.num_epochs


def test_without_until_plateau_it_is_only_watched(tmp_path: Path) -> None:
    _train(tmp_path / "watched", RECIPES["plateau"])
    assert read_record(tmp_path / "watched" / FILE, TrainingSchedule).cooldown is None
    assert len(read_history(tmp_path / "watched")) == 6


@pytest.mark.parametrize("name", ["wsd", "one_cycle", "growth", "schedule_free"])
def test_a_cooldown_asked_for_of_a_stopped_training(tmp_path: Path, name: str) -> None:
    recipe, results = RECIPES[name], []
    for folder, stops in ((tmp_path / "one", (1,)), (tmp_path / "several", (1, 1, 1))):
        folder.mkdir()
        write_record(folder / FILE, SCHEDULE)
        with pytest.raises(Preempted):
            _session(folder, recipe, StopAfter(2))
        (folder / COOLDOWN_REQUEST).touch()
        for num_steps in stops:
            with pytest.raises(Preempted):
                _session(folder, recipe, StopAfter(num_steps - 1))
        assert not (folder / COOLDOWN_REQUEST).exists()
        schedule = read_record(folder / FILE, TrainingSchedule)
        assert schedule.cooldown is not None
        assert (schedule.cooldown.start, schedule.cooldown.why) == (4, "asked")
        results.append(_session(folder, recipe, StopRequest()))
        assert len(read_history(folder)) == schedule.num_epochs < SCHEDULE.epochs
    assert _equal(*results)


def test_a_crash_between_schedule_and_checkpoint_changes_nothing(tmp_path: Path) -> None:
    """The cooldown is on disk, its first step is not: the steps before it are made again at the old rate."""
    whole, crashed = tmp_path / "whole", tmp_path / "crashed"
    for folder in (whole, crashed):
        folder.mkdir()
        write_record(folder / FILE, SCHEDULE)
        with pytest.raises(Preempted):
            _session(folder, RECIPES["wsd"], StopAfter(2))
    (whole / COOLDOWN_REQUEST).touch()
    expected = _session(whole, RECIPES["wsd"], StopRequest())
    write_record(crashed / FILE, read_record(whole / FILE, TrainingSchedule))  # one step ahead of the checkpoint
    assert _equal(_session(crashed, RECIPES["wsd"], StopRequest()), expected)


def test_a_request_that_comes_too_late_is_told_and_forgotten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.console._state, "quiet", False)
    _train(tmp_path / "late", RECIPES["wsd"], stops=())
    write_record(tmp_path / "late" / FILE, SCHEDULE)
    (tmp_path / "late" / COOLDOWN_REQUEST).touch()
    _session(tmp_path / "late", RECIPES["wsd"], StopRequest())
    assert not (tmp_path / "late" / COOLDOWN_REQUEST).exists()
    folder = tmp_path / "cooling"
    folder.mkdir()
    write_record(folder / FILE, SCHEDULE)
    with pytest.raises(Preempted):
        _session(folder, RECIPES["wsd"], StopAfter(8))
    (folder / COOLDOWN_REQUEST).touch()
    _session(folder, RECIPES["wsd"], StopRequest())
    assert "asked to cool down, but its cooldown began at step 7" in capsys.readouterr().err
    assert read_record(folder / FILE, TrainingSchedule).cooldown is None


@pytest.mark.parametrize("name", ["schedule_free", "watched"])
def test_predicting_shows_the_average_and_puts_the_weights_back(name: str) -> None:
    recipe = RECIPES[name]
    learner = make_learner(recipe)
    for step, batch in enumerate(batches(_sampler(recipe), [(0, 0), (0, 1), (1, 0)])):
        train_step(learner, batch, 0.05, step)
    before = {key: value.clone() for key, value in learner.network.state_dict().items()}
    averaged = {key: value.clone() for key, value in final_weights(learner).items()}
    with predicting(learner) as network:
        assert not network.training
        assert _equal(dict(network.state_dict()), averaged)
    assert learner.network.training
    assert _equal(dict(learner.network.state_dict()), before)
    assert not _equal(averaged, before)


class _NoReading(TorchDispatchMode):
    """Fails where the host reads a value of a tensor, which on a GPU would make it wait."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        assert func is not torch.ops.aten._local_scalar_dense.default, "the host reads a value"
        return func(*args, **(kwargs or {}))


def test_reading_a_value_is_noticed() -> None:
    with pytest.raises(AssertionError, match="reads a value"), _NoReading():
        torch.ones(1).item()


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon", "schedule_free"])
def test_no_optimiser_makes_the_host_wait(name: str) -> None:
    recipe = _with(optimizer=Optimizer(name=name, momentum=0.9))  # type: ignore[arg-type]
    learner = make_learner(recipe)
    (batch,) = batches(_sampler(recipe), [(0, 0)])
    train_step(learner, batch, 0.01, 0)
    with _NoReading():
        train_step(learner, batch, 0.01, 1)
