"""The state of a training in, two checked checkpoint folders on disk out, and the newest good one back.

`checkpoint` is the newest and `checkpoint_previous` the one before. A damaged newest one costs the steps since
the previous one and a warning; when neither is good the training stops with an error: it never starts again
silently, because days of work would be gone unnoticed. Nothing random is stored (see `rng`).
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from autoseg import console
from autoseg.errors import ModelError
from autoseg.records.base import Record, parse_record
from autoseg.storage import tensors
from autoseg.training.hard_cases import CaseLosses
from autoseg.training.optimizer import optimizer_tensors, restore_optimizer

NEWEST, PREVIOUS = "checkpoint", "checkpoint_previous"


class Progress(Record):
    """How far a training is: all of its state that is not a tensor."""

    epoch: int = 0
    """Epoch the next step belongs to."""
    step: int = 0
    """Next step within that epoch."""
    losses: tuple[float | None, ...] = ()
    """Losses of the epoch's steps so far; None: not finite, the step was skipped."""
    num_skipped: int = 0
    """Consecutive steps skipped up to here."""
    seconds: float = 0.0
    """Wall time of the epoch so far."""
    loss_scale: dict[str, float] = {}
    """State of the gradient scaler (float16 only)."""
    case_losses: CaseLosses | None = None
    """What is known of each case's loss; None: nothing follows it."""


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, Tensor],
    progress: Progress,
) -> None:
    """Write the newest checkpoint of the fold in `folder` and keep the one before; raises ResourceError."""
    newest, previous = folder / NEWEST, folder / PREVIOUS
    if newest.exists():
        shutil.rmtree(previous, ignore_errors=True)
        os.replace(newest, previous)
    content = {
        "weights": network.state_dict(),
        "optimizer": optimizer_tensors(optimizer, network),
        "average": dict(average),
    }
    tensors.save(newest, content, progress.model_dump(mode="json"))


def restore_checkpoint(
    folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, average: Mapping[str, Tensor]
) -> Progress | None:
    """Put the newest good checkpoint into the network, the optimiser and the average, in place.

    Returns:
        How far the training was; None when the fold has no checkpoint at all.

    Raises:
        ModelError: there are checkpoints but none is whole, or they belong to another network.
    """
    problems: list[str] = []
    for name in (NEWEST, PREVIOUS):
        if not tensors.exists(folder / name):
            continue
        try:
            content, state = tensors.load(folder / name)
        except ModelError as error:
            problems.append(str(error))
            continue
        if problems:
            console.warn(f"{problems[0]} Going on from the checkpoint before it.")
        _restore(content, network, optimizer, average, folder / name)
        return parse_record(state, Progress, str(folder / name / "state.json"), ModelError)
    if problems:
        raise ModelError(
            f"No checkpoint of {folder} is whole: {' '.join(problems)} "
            "Restore them from a backup, or delete the folder to train again from the start."
        )
    return None


def _restore(
    content: Mapping[str, Mapping[str, Tensor]],
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, Tensor],
    where: Path,
) -> None:
    try:
        network.load_state_dict(dict(content["weights"]))
        for name, value in content["average"].items():
            average[name].copy_(value)
    except (KeyError, RuntimeError) as error:
        raise ModelError(f"{where} does not fit the network of the plan: {error}") from error
    restore_optimizer(optimizer, network, content["optimizer"])


def remove_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of a finished training; its weights are kept apart."""
    for name in (NEWEST, PREVIOUS):
        for ending in ("", ".new", ".old"):
            shutil.rmtree(folder / (name + ending), ignore_errors=True)
