"""What was asked for and the recipe in, the course of a training out: its length, decided once, and its rates.

`schedule.json` is written before the first step and read by every resumed run, so nothing that decides the result
(steps, precision, seed) depends on how often a training was interrupted or on how fast the machine is today. It is
written once more when a cooldown begins earlier than planned, before the first step of the cooldown is made: from
then on that step is as fixed as all else.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field

from autoseg.records.base import Record
from autoseg.records.dataset import Fold
from autoseg.records.provenance import TrainingInputs
from autoseg.records.recipe import Optimizer, Schedule

SCHEDULE = "schedule.json"
Precision = Literal["float32", "bfloat16", "float16"]
POLY_EXPONENT = 0.9  # nnU-Net's


class TrainOptions(Record):
    """What the user asks for beside the plan; None leaves it to the plan or the device."""

    epochs: int | None = Field(default=None, ge=1)
    iterations: int | None = Field(default=None, ge=1)
    """Steps an epoch."""
    seed: int | None = Field(default=None, ge=0)
    budget_seconds: float | None = Field(default=None, gt=0)
    """Wall time for the whole call, measurement, loading and validation included."""
    until_plateau: bool = False
    """Whether the training ends when the watched cases no longer gain, whatever the plan says; see `Watch`."""
    device: str | None = None
    """`cpu`, `cuda`, `cuda:N`; None: the first GPU, else the CPU."""
    start: Path | None = None
    """A packed model (zip), a model folder or one of its folds, whose weights are fine-tuned; None: the seed's."""
    started_seconds: float | None = None
    """Value of `time.monotonic()` from which the budget counts; None: when the function is called."""


class Cooldown(Record):
    """The last part of a training, in which the rate falls to zero."""

    start: int = Field(ge=1)
    """Its first step, counted over the whole training from 0."""
    steps: int = Field(ge=0)
    """Its length; the training ends with it."""
    why: Literal["planned", "asked", "plateau"]


class TrainingSchedule(Record):
    """The course of one training, fixed before its first step."""

    epochs: int = Field(ge=1)
    """As planned; an early cooldown makes them fewer."""
    iterations_per_epoch: int = Field(ge=1)
    seed: int
    precision: Precision
    """Arithmetic of the network; what `auto` came to."""
    budget_seconds: float | None = None
    """Budget the length was derived from, if any."""
    until_plateau: bool = False
    """Whether the cooldown begins when the watched cases no longer gain."""
    cooldown: Cooldown | None = None
    """Cooldown that began earlier than planned; it ends with an epoch. None: none did so far."""
    step_seconds: float | None = None
    """Time of one step when it was measured, before the training."""
    validation_seconds: float | None = None
    """Estimated time of the validation."""
    device: str
    """Device it was decided for."""
    cases: Fold | None = None
    """Cases it was begun with."""
    inputs: TrainingInputs | None = None
    """Data it was begun with; None: begun by an autoseg that did not keep this."""

    @property
    def planned_steps(self) -> int:
        """Optimiser steps of the whole training if no cooldown begins early."""
        return self.epochs * self.iterations_per_epoch

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.planned_steps if self.cooldown is None else self.cooldown.start + self.cooldown.steps

    @property
    def num_epochs(self) -> int:
        """Epochs of the whole training."""
        return self.num_steps // self.iterations_per_epoch


def cooldown_of(course: Schedule, schedule: TrainingSchedule) -> Cooldown | None:
    """The cooldown as things stand: the one that began early, else wsd's planned one, else none."""
    if schedule.cooldown is not None or course.name != "wsd":
        return schedule.cooldown
    steps = round(course.cooldown_fraction * schedule.planned_steps)
    start = max(1, schedule.planned_steps - steps)
    return Cooldown(start=start, steps=schedule.planned_steps - start, why="planned")


def with_cooldown(
    course: Schedule, schedule: TrainingSchedule, start: int, why: Literal["asked", "plateau"]
) -> TrainingSchedule:
    """`schedule` with a cooldown from global step `start` (at least 1) on; unchanged where one has begun by then.

    It is as long as makes it the recipe's share of all steps, and then up to the end of its epoch; never does it end
    later than the training was planned to.
    """
    present = cooldown_of(course, schedule)
    if schedule.cooldown is not None or start >= (schedule.planned_steps if present is None else present.start):
        return schedule
    share, per_epoch = course.cooldown_fraction, schedule.iterations_per_epoch
    wanted = start + start * share / (1 - share)
    epochs = min(math.ceil(wanted / per_epoch - 1e-9), schedule.epochs)
    cooldown = Cooldown(start=start, steps=epochs * per_epoch - start, why=why)
    return schedule.model_copy(update={"cooldown": cooldown})


def peak_rate(optimizer: Optimizer, batch_size: int) -> float:
    """The recipe's learning rate, scaled to the batch size where it names the one it is meant for."""
    if optimizer.reference_batch is None:
        return optimizer.learning_rate
    factor = batch_size / optimizer.reference_batch
    return optimizer.learning_rate * (factor if optimizer.name == "sgd" else math.sqrt(factor))


def learning_rate(peak: float, course: Schedule, schedule: TrainingSchedule, step: int) -> float:
    """Learning rate of global step `step` (from 0).

    The length is the schedule's, not the recipe's, so a training shortened by a budget still anneals fully. In a
    cooldown the rate falls from what it was at its first step, whatever the schedule's name.
    """
    cooldown, rate = cooldown_of(course, schedule), _COURSES[course.name]
    if cooldown is None or step < cooldown.start:
        return rate(peak, course, schedule, step)
    done = (step + 1 - cooldown.start) / (cooldown.steps + 1)
    return rate(peak, course, schedule, cooldown.start) * _SHAPES[course.cooldown_shape](done)


def _poly(peak: float, course: Schedule, schedule: TrainingSchedule, step: int) -> float:  # noqa: ARG001
    """nnU-Net's (1 - epoch / epochs) ** 0.9, constant within an epoch."""
    epoch = step // schedule.iterations_per_epoch
    return float(peak * (1 - epoch / schedule.epochs) ** POLY_EXPONENT)


def _cosine(peak: float, course: Schedule, schedule: TrainingSchedule, step: int) -> float:
    """Linear over the warm-up share of all steps, then to zero at the end, step by step."""
    warmup = course.warmup_fraction * schedule.planned_steps
    if step + 1 <= warmup:
        return peak * (step + 1) / warmup
    done = (step + 1 - warmup) / (schedule.planned_steps + 1 - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * done))


def _constant(peak: float, course: Schedule, schedule: TrainingSchedule, step: int) -> float:
    """Linear over the warm-up share of all steps, then constant: wsd up to its cooldown."""
    return peak * min(1.0, (step + 1) / max(course.warmup_fraction * schedule.planned_steps, 1.0))


def _one_cycle(peak: float, course: Schedule, schedule: TrainingSchedule, step: int) -> float:
    """Smith and Topin 2018 (arXiv:1708.07120) as in torch's OneCycleLR with cosines; the momentum stays as it is."""
    first, top = peak / course.start_divisor, course.rise_fraction * schedule.planned_steps - 1
    last = first / course.end_divisor
    if step <= top:
        return peak + (first - peak) * 0.5 * (1 + math.cos(math.pi * step / top)) if top > 0 else peak
    top = max(top, 0.0)
    done = (step - top) / max(schedule.planned_steps - 1 - top, 1.0)
    return last + (peak - last) * 0.5 * (1 + math.cos(math.pi * done))


_COURSES: dict[str, Callable[[float, Schedule, TrainingSchedule, int], float]] = {
    "poly": _poly,
    "cosine": _cosine,
    "wsd": _constant,
    "one_cycle": _one_cycle,
}
_SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1 - done,
    "sqrt": lambda done: 1 - math.sqrt(done),
}
