"""Two checkpoints are kept; damage costs steps, never the training."""

from pathlib import Path

import pytest
import torch

from autoseg.errors import ModelError
from autoseg.training.checkpoint import (
    NEWEST,
    PREVIOUS,
    Progress,
    remove_checkpoints,
    restore_checkpoint,
    save_checkpoint,
)
from autoseg.training.learner import Learner
from tests.training.tools import RECIPE, make_learner


def _fill(learner: Learner, value: float) -> None:
    with torch.no_grad():
        for parameter in learner.network.parameters():
            parameter.fill_(value)


def _save(folder: Path, learner: Learner, value: float, epoch: int) -> None:
    _fill(learner, value)
    save_checkpoint(folder, learner.network, learner.optimizer, learner.average, Progress(epoch=epoch))


def _restore(folder: Path, learner: Learner) -> Progress | None:
    return restore_checkpoint(folder, learner.network, learner.optimizer, learner.average)


def _value(learner: Learner) -> float:
    return next(learner.network.parameters()).flatten()[0].item()


def test_nothing_there_is_a_fresh_start(tmp_path: Path) -> None:
    assert _restore(tmp_path, make_learner()) is None


def test_progress_and_tensors_come_back(tmp_path: Path) -> None:
    learner = make_learner()
    progress = Progress(
        epoch=3, step=5, losses=(0.1, None, 1 / 3), num_skipped=1, seconds=2.5, loss_scale={"scale": 8.0}
    )
    learner.average["encoder"] = torch.tensor([1.5])
    _fill(learner, 0.25)
    save_checkpoint(tmp_path, learner.network, learner.optimizer, learner.average, progress)
    fresh = make_learner()
    fresh.average["encoder"] = torch.zeros(1)
    assert _restore(tmp_path, fresh) == progress
    assert _value(fresh) == 0.25
    assert fresh.average["encoder"].tolist() == [1.5]


def test_a_damaged_newest_one_falls_back_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learner = make_learner()
    for epoch in (1, 2, 3):
        _save(tmp_path, learner, float(epoch), epoch)
    weights = tmp_path / NEWEST / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    progress = _restore(tmp_path, learner)
    assert progress is not None
    assert progress.epoch == 2
    assert _value(learner) == 2.0
    assert "sha256" in capsys.readouterr().err


def test_no_whole_checkpoint_is_an_error_never_a_fresh_start(tmp_path: Path) -> None:
    learner = make_learner()
    for epoch in (1, 2):
        _save(tmp_path, learner, float(epoch), epoch)
    for name in (NEWEST, PREVIOUS):
        (tmp_path / name / "optimizer.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="No checkpoint of"):
        _restore(tmp_path, learner)


def test_checkpoints_of_another_network_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, torch.nn.Linear(2, 2), make_learner().optimizer, {}, Progress())
    with pytest.raises(ModelError, match="does not fit the network"):
        _restore(tmp_path, make_learner(RECIPE))


def test_a_crash_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    learner = make_learner()
    for epoch in (1, 2):
        _save(tmp_path, learner, float(epoch), epoch)
    (tmp_path / NEWEST).rename(tmp_path / (NEWEST + ".new"))
    progress = _restore(tmp_path, learner)
    assert progress is not None
    assert progress.epoch == 2


def test_removing_leaves_nothing(tmp_path: Path) -> None:
    for epoch in (1, 2):
        _save(tmp_path, make_learner(), 1.0, epoch)
    remove_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == []
