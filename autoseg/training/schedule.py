"""What was asked for and the recipe in, the course of a training out: its length, decided once, and its rates.

`schedule.json` is written before the first step and read by every resumed run, so nothing that decides the result
(steps, precision, seed) depends on how often a training was interrupted or on how fast the machine is today.
"""

import math
from pathlib import Path
from typing import Literal

from pydantic import Field

from autoseg.records.base import Record
from autoseg.records.dataset import Fold
from autoseg.records.inputs import TrainingInputs
from autoseg.records.recipe import Schedule

SCHEDULE = "schedule.json"
Precision = Literal["float32", "bfloat16", "float16"]
POLY_EXPONENT = 0.9  # nnU-Net's


class TrainOptions(Record):
    """What a person asks for beside the plan; None leaves it to the plan or the device."""

    epochs: int | None = Field(default=None, ge=1)
    iterations: int | None = Field(default=None, ge=1)
    """Steps an epoch."""
    seed: int | None = Field(default=None, ge=0)
    budget_seconds: float | None = Field(default=None, gt=0)
    """Wall time for the whole call, measurement, loading and validation included."""
    device: str | None = None
    """`cpu`, `cuda`, `cuda:N`; None: the first GPU, else the CPU."""
    start: Path | None = None
    """Folder of a model or of one of its folds whose weights are fine-tuned; None: the seed's."""
    started_seconds: float | None = None
    """Value of `time.monotonic()` from which the budget counts; None: when the function is called."""


class TrainingSchedule(Record):
    """The course of one training, fixed before its first step."""

    epochs: int = Field(ge=1)
    iterations_per_epoch: int = Field(ge=1)
    seed: int
    precision: Precision
    """Arithmetic of the network; what `auto` came to."""
    budget_seconds: float | None = None
    """Budget the length was derived from, if any."""
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
    def num_steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.epochs * self.iterations_per_epoch


def learning_rate(peak: float, course: Schedule, schedule: TrainingSchedule, step: int) -> float:
    """Learning rate of global step `step` (from 0).

    `poly` is constant within an epoch, nnU-Net's (1 - epoch / epochs) ** 0.9. `cosine` rises linearly over the
    warm-up share of all steps and falls to zero at the end, step by step. The length is the schedule's, not the
    recipe's, so a training shortened by a budget still anneals fully.
    """
    if course.name == "poly":
        epoch = step // schedule.iterations_per_epoch
        return float(peak * (1 - epoch / schedule.epochs) ** POLY_EXPONENT)
    warmup = course.warmup_fraction * schedule.num_steps
    if step + 1 <= warmup:
        return peak * (step + 1) / warmup
    done = (step + 1 - warmup) / (schedule.num_steps + 1 - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * done))
