"""An interrupted training equals an uninterrupted one; bad steps are skipped; what was learnt is kept."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autoseg.errors import ModelError, Preempted, ResourceError
from autoseg.storage.hashing import sha256_bytes
from autoseg.training import loop as module
from autoseg.training.batches import Sampler
from autoseg.training.checkpoint import NEWEST, PREVIOUS
from autoseg.training.history import read_history
from autoseg.training.learner import Learner, final_weights
from autoseg.training.loop import memory_errors, train_network
from autoseg.training.stopping import StopRequest
from tests.training.tools import RECIPE, SCHEDULE, make_learner, make_sampler, make_source, scaled

SHAPES = [(10, 9, 8), (8, 12, 9)]


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The curve has its own test, and takes longer than these trainings."""
    monkeypatch.setattr(module, "draw_curve", lambda *args: None)


def _sampler() -> Sampler:
    return make_sampler(scaled(make_source(SHAPES), 1e-3))


def _digest(learner: Learner) -> str:
    weights = final_weights(learner)
    return sha256_bytes(b"".join(weights[name].numpy().tobytes() for name in sorted(weights)))


class StopAfter(StopRequest):
    """A request that arrives while the given number of steps is being done."""

    def __init__(self, num_steps: int) -> None:
        self.looks = num_steps

    @property
    def signal(self) -> int | None:  # type: ignore[override]
        self.looks -= 1
        return 15 if self.looks < 0 else None


def _train(folder: Path, precision: str = "float32", stops: tuple[int, ...] = (), recipe: object = RECIPE) -> str:
    """Train to the end, interrupted after the given numbers of steps; a new process each time."""
    folder.mkdir(exist_ok=True)
    for num_steps in stops:
        learner = make_learner(recipe, precision)  # type: ignore[arg-type]
        with pytest.raises(Preempted):
            train_network(learner, _sampler(), SCHEDULE, folder, StopAfter(num_steps - 1), "a training")
    learner = make_learner(recipe, precision)  # type: ignore[arg-type]
    train_network(learner, _sampler(), SCHEDULE, folder, StopRequest(), "a training")
    return _digest(learner)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_interrupted_equals_uninterrupted_bit_for_bit(tmp_path: Path, precision: str) -> None:
    whole = _train(tmp_path / "whole", precision)
    # After two epochs, in the middle of the third, and twice.
    assert _train(tmp_path / "between", precision, stops=(4,)) == whole
    assert _train(tmp_path / "within", precision, stops=(1, 4)) == whole
    losses = [record.train_loss for record in read_history(tmp_path / "whole")]
    assert len(losses) == SCHEDULE.epochs
    assert [record.train_loss for record in read_history(tmp_path / "within")] == losses


def test_damaged_newest_checkpoint_costs_steps_but_changes_nothing(tmp_path: Path) -> None:
    whole = _train(tmp_path / "whole")
    folder = tmp_path / "damaged"
    folder.mkdir()
    with pytest.raises(Preempted):
        train_network(make_learner(), _sampler(), SCHEDULE, folder, StopAfter(4), "a training")
    (folder / NEWEST / "weights.safetensors").write_bytes(b"cut off")
    assert _train(folder) == whole
    assert [record.epoch for record in read_history(folder)] == [0, 1, 2, 3]


def test_a_finished_training_called_again_does_nothing(tmp_path: Path) -> None:
    first = _train(tmp_path)
    before = (tmp_path / "history.jsonl").read_bytes()
    assert _train(tmp_path) == first
    assert (tmp_path / "history.jsonl").read_bytes() == before


def test_a_history_without_checkpoint_is_an_error(tmp_path: Path) -> None:
    _train(tmp_path)
    for name in (NEWEST, PREVIOUS):
        (tmp_path / name).rename(tmp_path / ("lost_" + name))
    with pytest.raises(ModelError, match="no checkpoint"):
        train_network(make_learner(), _sampler(), SCHEDULE, tmp_path, StopRequest(), "a training")
    assert len(read_history(tmp_path)) == SCHEDULE.epochs


def test_other_seeds_give_other_weights(tmp_path: Path) -> None:
    first = _train(tmp_path / "first")
    learner = make_learner()
    (tmp_path / "second").mkdir()
    train_network(learner, replace(_sampler(), seed=8), SCHEDULE, tmp_path / "second", StopRequest(), "a training")
    assert _digest(learner) != first


def _broken_sampler(every: int) -> Sampler:
    """Batches of one sample; every so many reads give an image that is not finite."""
    good, reads = scaled(make_source([(8, 8, 8)]), 1e-3), iter(range(10**6))

    def read(number: int, box: tuple[slice, slice, slice]) -> tuple[torch.Tensor, torch.Tensor]:
        image, labels = good.read(number, box)
        return (image * torch.nan if next(reads) % every == every - 1 else image), labels

    return make_sampler(replace(good, read=read), batch_size=1)


def test_skipped_steps_are_reported_with_their_cases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = train_network(make_learner(), _broken_sampler(2), SCHEDULE, tmp_path, StopRequest(), "a training")
    assert capsys.readouterr().err.count("case_0") == 4
    assert all(record.train_loss is not None for record in history)


def test_ten_bad_steps_in_a_row_end_the_training_and_keep_the_last_good_state(tmp_path: Path) -> None:
    schedule = SCHEDULE.model_copy(update={"epochs": 20})
    with pytest.raises(Preempted):
        train_network(make_learner(), _sampler(), schedule, tmp_path, StopAfter(1), "a training")
    with pytest.raises(ModelError, match="10 steps in a row, last on case_0"):
        train_network(make_learner(), _broken_sampler(1), schedule, tmp_path, StopRequest(), "a training")
    learner = make_learner()
    assert module._restore(learner, tmp_path).epoch == 5
    assert all(torch.isfinite(value).all() for value in learner.network.state_dict().values())


def test_a_training_without_one_sound_step_is_none(tmp_path: Path) -> None:
    schedule = SCHEDULE.model_copy(update={"epochs": 2})
    with pytest.raises(ModelError, match="a training: not one step could be made"):
        train_network(make_learner(), _broken_sampler(1), schedule, tmp_path, StopRequest(), "a training")


def test_long_epochs_are_saved_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    saved: list[tuple[int, int]] = []
    monkeypatch.setattr(module, "save_checkpoint", lambda *args: saved.append((args[-1].epoch, args[-1].step)))
    train_network(make_learner(), _sampler(), SCHEDULE, tmp_path, StopRequest(), "a training")
    assert saved == [(0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1), (4, 0)]


def test_full_memory_is_said_with_advice() -> None:
    with pytest.raises(ResourceError, match="batch_size"), memory_errors("3d_fullres fold 0"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(ResourceError, match="memory is full"), memory_errors("3d_fullres fold 0"):
        torch.empty(2**55)
    with pytest.raises(RuntimeError, match="shape"), memory_errors("3d_fullres fold 0"):
        raise RuntimeError("shape mismatch")
