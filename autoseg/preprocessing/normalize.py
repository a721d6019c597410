"""One channel in, how its values come onto a scale that a network likes out: the schemes of nnU-Net.

Every scheme clips, subtracts and divides, the same for all voxels, so a channel is measured once, slab by slab, and
normalised wherever rows of it are read: no normalised copy of the whole exists. With a mask (images that were mostly
cropped away: skull-stripped heads) mean and deviation are those inside the nonzero mask and the outside stays as it
is. nnU-Net also counts labelled voxels outside the mask; a case to predict has no labels, so here it never does, and
training and prediction see the same values.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from autoseg.errors import DataError
from autoseg.preprocessing.statistics import Channel, FloatArray, moments
from autoseg.records.fingerprint import IntensityStatistics
from autoseg.records.plan import Normalization

_SMALLEST_DEVIATION = 1e-8  # nnU-Net's: a constant image becomes zero instead of dividing by zero


class Scale(NamedTuple):
    """What is done to each value, in this order, in float32; None: nothing."""

    clip: tuple[float, float] | None = None
    subtract: float | np.float32 | None = None
    divide: float | np.float32 | None = None


Scheme = Callable[[Channel, IntensityStatistics | None], Scale]


def scale_of(channel: Channel, scheme: Normalization, statistics: IntensityStatistics | None) -> Scale:
    """How a channel is normalised.

    Args:
        channel: of the cropped image; only the values inside its mask are measured.
        scheme: key of `SCHEMES`.
        statistics: foreground intensities of the dataset, needed by `ct`.

    Raises:
        DataError: the values do not fit the scheme.
    """
    return SCHEMES[scheme](channel, statistics)


def scaled(values: FloatArray, scale: Scale) -> FloatArray:
    """`values` (any shape) normalised in place. It never changes their order: the largest stays the largest."""
    if scale.clip is not None:
        np.clip(values, *scale.clip, out=values)
    if scale.subtract is not None:
        values -= scale.subtract
    if scale.divide is not None:
        values /= scale.divide
    return values


def _ct(_channel: Channel, statistics: IntensityStatistics | None) -> Scale:
    if statistics is None:
        raise DataError("CT normalisation needs the dataset's intensities; the plan has none for this channel.")
    limits = (statistics.percentile_00_5, statistics.percentile_99_5)
    return Scale(limits, statistics.mean, max(statistics.std, _SMALLEST_DEVIATION))


def _zscore(channel: Channel, _statistics: IntensityStatistics | None) -> Scale:
    mean, deviation = moments(channel)
    return Scale(None, mean, _divisor(deviation))


def _divisor(width: np.float32) -> float | np.float32:
    return width if width > _SMALLEST_DEVIATION else _SMALLEST_DEVIATION


def _none(_channel: Channel, _statistics: IntensityStatistics | None) -> Scale:
    return Scale()


def _rescale(channel: Channel, _statistics: IntensityStatistics | None) -> Scale:
    return Scale(None, channel.low, _divisor(channel.high - channel.low))


def _rgb(channel: Channel, _statistics: IntensityStatistics | None) -> Scale:
    if channel.low < 0 or channel.high > 255:
        raise DataError(
            f"values from {channel.low:g} to {channel.high:g}; an RGB channel has 0 to 255. Is it another modality?"
        )
    return Scale(None, None, 255)


SCHEMES: dict[Normalization, Scheme] = {
    "ct": _ct,
    "zscore": _zscore,
    "none": _none,
    "rescale": _rescale,
    "rgb": _rgb,
}

MASKED: tuple[Normalization, ...] = ("zscore",)
"""Those that look at a mask; the others normalise everything alike."""


def masked_channels(normalization: Sequence[Normalization], use_mask: Sequence[bool]) -> tuple[int, ...]:
    """Numbers of the channels that are normalised inside the nonzero mask only, one scheme and one wish a channel."""
    both = zip(normalization, use_mask, strict=True)
    return tuple(number for number, (scheme, masked) in enumerate(both) if masked and scheme in MASKED)
