"""A network, batches and a fixed schedule in, trained weights out: the training loop, and nothing else.

The host never waits for the device within an epoch: losses stay on the device and are read at its end. Ten steps in a
row that were skipped (`learner`) end the training with the last good checkpoint kept.

A checkpoint is written at the end of each epoch, after ten minutes within a long one, and when the process is
asked to stop. All of a training's state is in it, so an interrupted training on a CPU gives the same weights, bit
for bit, as one that was not interrupted.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from autoseg import console
from autoseg.devices import is_out_of_memory
from autoseg.errors import ModelError, ResourceError
from autoseg.records.base import write_record
from autoseg.records.results import EpochRecord
from autoseg.training.batches import Batch, Place, Sampler, batches
from autoseg.training.checkpoint import Progress, restore_checkpoint, save_checkpoint
from autoseg.training.curve import draw_curve
from autoseg.training.hard_cases import CaseLosses, HardCases
from autoseg.training.history import append_epoch, keep_epochs, read_history
from autoseg.training.learner import Learner, predicting, train_step
from autoseg.training.patch_growth import part_at
from autoseg.training.schedule import (
    SCHEDULE,
    TrainingSchedule,
    cooldown_of,
    learning_rate,
    peak_rate,
    with_cooldown,
)
from autoseg.training.stopping import StopRequest
from autoseg.training.watching import has_plateaued

Look = Callable[[nn.Module], float | None]
"""A network in eval mode -> mean Dice of the watched cases."""

COOLDOWN_REQUEST = "cooldown.request"
"""A file that asks a running training to cool down; it vanishes when that has begun."""

MAX_SKIPPED_STEPS = 10
_SECONDS_BETWEEN_CHECKPOINTS = 600.0
_SECONDS_BETWEEN_CURVES = 300.0
_SECONDS_BETWEEN_REQUESTS = 1.0
_NUM_MESSAGES = 10


def train_network(
    learner: Learner,
    sampler: Sampler,
    schedule: TrainingSchedule,
    folder: Path,
    stop: StopRequest,
    title: str,
    look: Look | None = None,
) -> list[EpochRecord]:
    """Train from the newest checkpoint of `folder` (or the start) to the end of the schedule.

    A cooldown that begins early, since `COOLDOWN_REQUEST` asks for it or the watched cases no longer gain, is written
    into the folder's schedule before its first step.

    Args:
        learner: freshly built; holds the trained weights afterwards.
        sampler: source of the batches.
        schedule: fixed length and rates.
        folder: of the fold; gets checkpoints, history and curve.
        stop: looked at after every step.
        title: of the training, for messages.
        look: predicts the watched cases; None: none are watched.

    Returns:
        All epochs, those of earlier sessions included.

    Raises:
        ModelError: no checkpoint is whole, the loss stays not finite, or no step was made at all.
        ResourceError: the memory or the disk is full.
        Preempted, KeyboardInterrupt: `stop` was asked for; everything is saved.
    """
    progress = _restore(learner, folder)
    history = keep_epochs(folder, progress.epoch)
    first = progress.epoch * schedule.iterations_per_epoch + progress.step
    hard = _follow_cases(sampler, schedule, progress)
    if hard is not None:
        sampler = replace(sampler, case_odds=hard.odds)
    peak = peak_rate(learner.recipe.optimizer, sampler.batch_size)
    session = _Session(learner, schedule, folder, title, history, progress, peak, look, hard)
    with torch.backends.cudnn.flags(enabled=True, benchmark=True), memory_errors(title):
        made = _batches_to_the_end(session, sampler, first)
        for place, batch in console.track(made, schedule.num_steps - first, title):
            session.do_step(place, batch)
            if stop.signal is not None:
                session.save()
                stop.raise_if_asked(title)
    (folder / COOLDOWN_REQUEST).unlink(missing_ok=True)
    if all(epoch.train_loss is None for epoch in session.history):
        raise ModelError(
            f"{title}: not one step could be made, since loss or gradient were never finite. Set recipe.precision to "
            f"float32 or lower recipe.optimizer.learning_rate under a new plan name, or delete {folder}."
        )
    draw_curve(folder, session.history, title)
    return session.history


def _batches_to_the_end(session: "_Session", sampler: Sampler, step: int) -> Iterator[tuple[Place, Batch]]:
    """Places and their batches from global step `step` on; drawn anew where a step changes the schedule."""
    while step < session.schedule.num_steps:
        schedule = session.schedule
        part, stop = part_at(sampler, session.learner.recipe, schedule, step)
        places = [divmod(number, schedule.iterations_per_epoch) for number in range(step, stop)]
        for place, batch in zip(places, batches(part, places), strict=False):
            yield place, batch
            step += 1
            if session.schedule is not schedule:
                break


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
        peak: float,
        look: Look | None,
        hard: HardCases | None,
    ) -> None:
        self.peak, self.look = peak, look
        self.learner, self.schedule, self.folder = learner, schedule, folder
        self.title, self.history, self.hard = title, history, hard
        self.losses = [math.nan if loss is None else loss for loss in progress.losses]
        self.pending: list[Tensor] = []
        self.cases: list[tuple[str, ...]] = []
        self.num_skipped = progress.num_skipped
        self.next_place: Place = (progress.epoch, progress.step)
        self.seconds_before, self.started = progress.seconds, time.monotonic()
        self.saved = self.drawn = self.started
        self.asked = -math.inf

    def do_step(self, place: Place, batch: Batch) -> None:
        epoch, in_epoch = place
        step = epoch * self.schedule.iterations_per_epoch + in_epoch
        recipe = self.learner.recipe
        rate = learning_rate(self.peak, recipe.schedule, self.schedule, step)
        self.pending.append(train_step(self.learner, batch, rate, step))
        self.cases.append(batch.cases)
        self.next_place = divmod(step + 1, self.schedule.iterations_per_epoch)
        if self.next_place[0] > epoch:
            self.end_epoch(epoch, step + 1, rate)
        elif time.monotonic() - self.saved > _SECONDS_BETWEEN_CHECKPOINTS:
            self.save()
        if time.monotonic() - self.asked >= _SECONDS_BETWEEN_REQUESTS:
            self.asked = time.monotonic()
            if (self.folder / COOLDOWN_REQUEST).is_file():
                self.cool_down(step + 1, "asked")

    def cool_down(self, start: int, why: Literal["asked", "plateau"]) -> None:
        """Let the cooldown begin at global step `start`; written before that step is made, so that it is fixed."""
        course = self.learner.recipe.schedule
        changed = with_cooldown(course, self.schedule, start, why)
        if changed is not self.schedule:
            write_record(self.folder / SCHEDULE, changed)
            self.schedule = changed
            reason = "asked for" if why == "asked" else "the watched cases no longer gain"
            console.say(f"{self.title}: cooldown ({reason}) up to step {changed.num_steps} of {changed.planned_steps}")
        elif why == "asked":
            present = cooldown_of(course, self.schedule)
            what = "it ends now" if present is None else f"its cooldown began at step {present.start}"
            console.say(f"{self.title}: asked to cool down, but {what}")
        (self.folder / COOLDOWN_REQUEST).unlink(missing_ok=True)

    def end_epoch(self, epoch: int, steps: int, rate: float) -> None:
        self.read_losses()
        finite = [loss for loss in self.losses if math.isfinite(loss)]
        watch, watched = self.learner.recipe.watch, None
        if self.look is not None and ((epoch + 1) % watch.every_epochs == 0 or epoch + 1 == self.schedule.num_epochs):
            with predicting(self.learner) as network:
                watched = self.look(network)
        now = time.monotonic()
        record = EpochRecord(
            epoch=epoch,
            steps=steps,
            train_loss=sum(finite) / len(finite) if finite else None,
            learning_rate=rate,
            seconds=self.seconds_before + now - self.started,
            watch_dice=watched,
        )
        append_epoch(self.folder, record)
        self.history.append(record)
        if self.schedule.until_plateau and watched is not None and has_plateaued(self.history, watch):
            self.cool_down(steps, "plateau")
        self.losses, self.seconds_before, self.started = [], 0.0, now
        if self.hard is not None:
            self.hard.end_epoch(epoch)
        self.save()
        if now - self.drawn > _SECONDS_BETWEEN_CURVES:
            draw_curve(self.folder, self.history, self.title)
            self.drawn = now
        every = math.ceil(self.schedule.num_epochs / _NUM_MESSAGES)
        if record.train_loss is not None and ((epoch + 1) % every == 0 or watched is not None):
            dice = "" if watched is None else f", Dice of the watched cases {watched:.4f}"
            length = self.schedule.num_epochs
            console.say(f"{self.title}: epoch {epoch + 1} of {length}, loss {record.train_loss:.4f}{dice}")

    def read_losses(self) -> None:
        """Fetch the losses of the steps since the last time (the device is waited for here) and look at them."""
        values = torch.stack(self.pending).tolist() if self.pending else []
        for value, cases in zip(values, self.cases, strict=True):
            self.losses.append(value)
            if self.hard is not None:
                self.hard.add(cases, value)
            self.num_skipped = 0 if math.isfinite(value) else self.num_skipped + 1
            if self.num_skipped:
                console.warn(f"Loss or gradient of a step on {', '.join(cases)} was not finite; the step is skipped.")
            if self.num_skipped >= MAX_SKIPPED_STEPS:
                raise ModelError(
                    f"Loss or gradient was not finite {MAX_SKIPPED_STEPS} steps in a row, last on {', '.join(cases)}. "
                    f"The last good checkpoint of {self.folder} is kept. Look at these cases (`autoseg verify`), "
                    "or lower recipe.optimizer.learning_rate or set recipe.precision to float32 under a new plan name."
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
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(
            f"{what}: the memory is full. Plan for less (`autoseg plan --gpu-memory GIB --name OTHER`), or set a "
            "smaller batch_size or patch_size in the plan (`--set CONFIGURATION.batch_size=2`)."
        ) from error


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
    if sampling.hard_ratio == 1:
        return None
    ids = [case.id for case in sampler.source.cases]
    state = progress.case_losses or CaseLosses()
    return HardCases(ids, sampling.hard_ratio, schedule.iterations_per_epoch, state, progress.epoch)
