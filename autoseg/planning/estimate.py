"""A plan's configuration in; activation memory, disk space and steps of training out, before anything runs.

These are orders of magnitude for a person who decides whether to start; what was really used is in the history.
"""

import math
from typing import NamedTuple

from autoseg.planning.memory import count_activations
from autoseg.records.plan import Configuration, Plan

_IMAGE_BYTES = 4
"""Preprocessed images are float32."""

_LABEL_BYTES = 2
"""Preprocessed labels are int16."""

_COMPRESSION = 0.8
"""Share of its size to which a normalised float32 image is compressed (losslessly); labels all but vanish."""


class Cost(NamedTuple):
    """What one configuration asks of the machine."""

    activation_bytes: int
    """Outputs of all convolutions of one training batch; kept for the backward pass."""
    disk_bytes: int
    """Preprocessed images and labels of all cases."""
    steps: int
    """Optimiser steps of one fold."""


def estimate_cost(plan: Plan, configuration: Configuration, num_cases: int, bytes_a_value: int = 4) -> Cost:
    """Memory, disk and steps of `configuration` of `plan`.

    Args:
        plan: for channels and heads.
        configuration: one of the plan's.
        num_cases: cases that are preprocessed.
        bytes_a_value: 4 for float32, 2 for mixed precision.
    """
    return Cost(
        activation_bytes(configuration, plan.labels.num_heads, bytes_a_value),
        disk_bytes(configuration, len(plan.channel_names), num_cases),
        training_steps(configuration),
    )


def activation_bytes(configuration: Configuration, num_heads: int, bytes_a_value: int = 4) -> int:
    """Bytes of the outputs of all convolutions for one training batch."""
    one = count_activations(configuration.network, configuration.patch_size, num_heads)
    return one * configuration.batch_size * bytes_a_value


def disk_bytes(configuration: Configuration, num_channels: int, num_cases: int) -> int:
    """Bytes of the preprocessed cases, taking each for the median one; the labels' are an upper bound."""
    voxels = math.prod(configuration.median_shape)
    return round(voxels * num_cases * (num_channels * _IMAGE_BYTES * _COMPRESSION + _LABEL_BYTES))


def training_steps(configuration: Configuration) -> int:
    """Optimiser steps of one fold as scheduled."""
    schedule = configuration.recipe.schedule
    return schedule.epochs * schedule.iterations_per_epoch
