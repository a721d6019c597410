"""A network, batches and a fixed schedule in, trained weights out: the training loop, and nothing else.

The host never waits for the device within an epoch: losses stay on the device and are read at its end, and a
step whose gradient is not finite is skipped by the optimiser itself (through the gradient scaler, whose scale is
1 except for float16). Ten such steps in a row end the training with the last good checkpoint kept.

A checkpoint is written at the end of each epoch, after ten minutes within a long one, and when the process is
asked to stop. All of a training's state is in it, so an interrupted training on a CPU gives the same weights, bit
for bit, as one that was not interrupted.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from autoseg import console
from autoseg.errors import ModelError, ResourceError
from autoseg.inference.sliding_window import autocast
from autoseg.records.recipe import Recipe
from autoseg.records.results import EpochRecord
from autoseg.training.batches import Batch, Place, Sampler, batches
from autoseg.training.checkpoint import Progress, restore_checkpoint, save_checkpoint
from autoseg.training.curve import draw_curve
from autoseg.training.hard_cases import CaseLosses, HardCases
from autoseg.training.history import append_epoch, keep_epochs, read_history
from autoseg.training.optimizer import build_optimizer, set_learning_rate, start_average, update_average
from autoseg.training.schedule import Precision, TrainingSchedule, learning_rate
from autoseg.training.stopping import StopRequest

Loss = Callable[[Sequence[Tensor], Tensor], Tensor]

MAX_SKIPPED_STEPS = 10
_SECONDS_BETWEEN_CHECKPOINTS = 600.0
_SECONDS_BETWEEN_CURVES = 300.0
_NUM_MESSAGES = 10


@dataclass(frozen=True)
class Learner:
    """What changes during a training: the network and what moves it."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]
    """Moving average of the weights; empty when the recipe has none."""
    scaler: torch.amp.GradScaler
    loss: Loss
    recipe: Recipe
    precision: Precision
    device: torch.device


def build_learner(
    network: nn.Module, loss: Loss, recipe: Recipe, precision: Precision, device: torch.device
) -> Learner:
    """Put `network` on `device`, ready to be trained by `recipe`."""
    network = network.to(device).train()
    return Learner(
        network=network,
        optimizer=build_optimizer(network, recipe.optimizer),
        average=start_average(network) if recipe.ema_decay is not None else {},
        scaler=torch.amp.GradScaler(device.type, init_scale=2.0**16 if precision == "float16" else 1.0),
        loss=loss,
        recipe=recipe,
        precision=precision,
        device=device,
    )


def train_step(learner: Learner, batch: Batch, rate: float, step: int) -> Tensor:
    """One optimiser step; global step `step` (from 0).

    Returns:
        The loss, a scalar on the device; not a number when the step was skipped. A float16 step that is skipped
        because its scaled gradient overflows is none of these: the scale falls until it fits, at first always.
    """
    network, optimizer, scaler, recipe = learner.network, learner.optimizer, learner.scaler, learner.recipe
    set_learning_rate(optimizer, rate)
    optimizer.zero_grad(set_to_none=True)
    with autocast(learner.device, learner.precision):
        logits = network(batch.images)
    loss = learner.loss(logits, batch.labels)
    factor = scaler.scale(torch.ones_like(loss))
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(network.parameters(), recipe.gradient_clip)
    scaler.step(optimizer)
    scaler.update(None if learner.precision == "float16" else 1.0)
    if recipe.ema_decay is not None:
        update_average(learner.average, network, recipe.ema_decay, step)
    # With a factor above 1 an overflow says nothing of the batch.
    is_sound = torch.isfinite(norm) | (torch.isfinite(loss.detach()) & (factor > 1))
    return torch.where(is_sound, loss.detach(), torch.nan)


def train_network(
    learner: Learner, sampler: Sampler, schedule: TrainingSchedule, folder: Path, stop: StopRequest, title: str
) -> list[EpochRecord]:
    """Train from the newest checkpoint of `folder` (or the start) to the end of the schedule.

    Args:
        learner: freshly built; holds the trained weights afterwards.
        sampler: source of the batches.
        schedule: fixed length and rates.
        folder: of the fold; gets checkpoints, history and curve.
        stop: looked at after every step.
        title: of the training, for messages.

    Returns:
        All epochs, those of earlier sessions included.

    Raises:
        ModelError: no checkpoint is whole, or the loss stays not finite.
        ResourceError: the memory or the disk is full.
        Preempted, KeyboardInterrupt: `stop` was asked for; everything is saved.
    """
    progress = _restore(learner, folder)
    history = keep_epochs(folder, progress.epoch)
    first = progress.epoch * schedule.iterations_per_epoch + progress.step
    places = [divmod(step, schedule.iterations_per_epoch) for step in range(first, schedule.num_steps)]
    hard = _follow_cases(sampler, schedule, progress)
    if hard is not None:
        sampler = replace(sampler, case_odds=hard.odds)
    session = _Session(learner, schedule, folder, title, history, progress, hard)
    with torch.backends.cudnn.flags(enabled=True, benchmark=True), memory_errors(title):
        for place, batch in _shown(places, batches(sampler, places), title):
            session.do_step(place, batch)
            if stop.signal is not None:
                session.save()
                stop.raise_if_asked(title)
    draw_curve(folder, session.history, title)
    return session.history


class _Session:
    """The run of one process through (part of) a schedule: counters, losses and when it last saved."""

    def __init__(
        self,
        learner: Learner,
        schedule: TrainingSchedule,
        folder: Path,
        title: str,
        history: list[EpochRecord],
        progress: Progress,
        hard: HardCases | None,
    ) -> None:
        self.learner, self.schedule, self.folder = learner, schedule, folder
        self.title, self.history, self.hard = title, history, hard
        self.losses = [math.nan if loss is None else loss for loss in progress.losses]
        self.pending: list[Tensor] = []
        self.cases: list[tuple[str, ...]] = []
        self.num_skipped = progress.num_skipped
        self.next_place: Place = (progress.epoch, progress.step)
        self.seconds_before, self.started = progress.seconds, time.monotonic()
        self.saved = self.drawn = self.started

    def do_step(self, place: Place, batch: Batch) -> None:
        epoch, in_epoch = place
        step = epoch * self.schedule.iterations_per_epoch + in_epoch
        recipe = self.learner.recipe
        rate = learning_rate(recipe.optimizer.learning_rate, recipe.schedule, self.schedule, step)
        self.pending.append(train_step(self.learner, batch, rate, step))
        self.cases.append(batch.cases)
        self.next_place = divmod(step + 1, self.schedule.iterations_per_epoch)
        if self.next_place[0] > epoch:
            self.end_epoch(epoch, step + 1, rate)
        elif time.monotonic() - self.saved > _SECONDS_BETWEEN_CHECKPOINTS:
            self.save()

    def end_epoch(self, epoch: int, steps: int, rate: float) -> None:
        self.read_losses()
        finite = [loss for loss in self.losses if math.isfinite(loss)]
        now = time.monotonic()
        record = EpochRecord(
            epoch=epoch,
            steps=steps,
            train_loss=sum(finite) / len(finite) if finite else None,
            learning_rate=rate,
            seconds=self.seconds_before + now - self.started,
        )
        append_epoch(self.folder, record)
        self.history.append(record)
        self.losses, self.seconds_before, self.started = [], 0.0, now
        if self.hard is not None:
            self.hard.end_epoch(epoch)
        self.save()
        if now - self.drawn > _SECONDS_BETWEEN_CURVES:
            draw_curve(self.folder, self.history, self.title)
            self.drawn = now
        every = math.ceil(self.schedule.epochs / _NUM_MESSAGES)
        if (epoch + 1) % every == 0 and record.train_loss is not None:
            console.say(f"{self.title}: epoch {epoch + 1} of {self.schedule.epochs}, loss {record.train_loss:.4f}")

    def read_losses(self) -> None:
        """Fetch the losses of the steps since the last time (the device is waited for here) and look at them."""
        values = torch.stack(self.pending).tolist() if self.pending else []
        for value, cases in zip(values, self.cases, strict=True):
            self.losses.append(value)
            if self.hard is not None:
                self.hard.add(cases, value)
            self.num_skipped = 0 if math.isfinite(value) else self.num_skipped + 1
            if self.num_skipped:
                console.warn(f"The loss of a step on {', '.join(cases)} was not finite; the step is skipped.")
            if self.num_skipped >= MAX_SKIPPED_STEPS:
                raise ModelError(
                    f"The loss was not finite {MAX_SKIPPED_STEPS} steps in a row, last on {', '.join(cases)}. The last "
                    f"good checkpoint of {self.folder} is kept. Look at these cases (`autoseg verify`), or lower "
                    "recipe.optimizer.learning_rate or set recipe.precision to float32 under a new plan name."
                )
        self.pending, self.cases = [], []

    def save(self) -> None:
        self.read_losses()
        now = time.monotonic()
        progress = Progress(
            epoch=self.next_place[0],
            step=self.next_place[1],
            losses=tuple(loss if math.isfinite(loss) else None for loss in self.losses),
            num_skipped=self.num_skipped,
            seconds=self.seconds_before + now - self.started,
            loss_scale=self.learner.scaler.state_dict(),
            case_losses=None if self.hard is None else self.hard.state(),
        )
        save_checkpoint(self.folder, self.learner.network, self.learner.optimizer, self.learner.average, progress)
        self.saved = now


@contextmanager
def memory_errors(what: str) -> Iterator[None]:
    """Turn torch's errors of full memory into a ResourceError that says what to do; `what` names the work."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU's allocator raises a plain one
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise ResourceError(
            f"{what}: the memory is full. Plan for less (`autoseg plan --gpu-memory GIB --name OTHER`), or set a "
            "smaller batch_size or patch_size in the plan (`--set CONFIGURATION.batch_size=2`)."
        ) from error


def final_weights(learner: Learner) -> dict[str, Tensor]:
    """The weights that predict from now on: their moving average if the recipe has one."""
    return {**learner.network.state_dict(), **learner.average}


def _restore(learner: Learner, folder: Path) -> Progress:
    progress = restore_checkpoint(folder, learner.network, learner.optimizer, learner.average)
    if progress is None:
        # One line may stand there without a checkpoint: the process died between writing the two.
        if len(read_history(folder)) > 1:
            raise ModelError(
                f"{folder} has a history but no checkpoint: it was removed. Restore it from a backup, or delete "
                "the folder to train again from the start."
            )
        return Progress()
    scale = progress.loss_scale
    learner.scaler.load_state_dict({**scale, "_growth_tracker": int(scale["_growth_tracker"])})
    return progress


def _follow_cases(sampler: Sampler, schedule: TrainingSchedule, progress: Progress) -> HardCases | None:
    """What follows the cases' losses; None where the recipe does not ask for it."""
    sampling = sampler.recipe.sampling
    if sampling.cases != "hard":
        return None
    ids = [case.id for case in sampler.source.cases]
    state = progress.case_losses or CaseLosses()
    return HardCases(ids, sampling.hard_ratio, schedule.iterations_per_epoch, state, progress.epoch)


def _shown(places: Sequence[Place], made: Iterator[Batch], title: str) -> Iterator[tuple[Place, Batch]]:
    """Places with their batches, with a bar or lines that show the time left."""
    yield from zip(console.track(places, len(places), title), made, strict=False)
