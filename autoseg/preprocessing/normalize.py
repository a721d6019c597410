"""One channel in, its values on a scale that a network likes out: the schemes of nnU-Net.

A scheme is a function `(values Z Y X float32, mask or None, statistics or None) -> values`; it may work in place.
With a mask (images that were mostly cropped away: skull-stripped heads) mean and deviation are those inside the
nonzero mask and the outside stays as it is. nnU-Net also counts labelled voxels outside the mask; a case
to predict has no labels, so here it never does, and training and prediction see the same values.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from autoseg.errors import DataError
from autoseg.records.fingerprint import IntensityStatistics
from autoseg.records.plan import Normalization

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Scheme = Callable[[FloatArray, BoolArray | None, IntensityStatistics | None], FloatArray]

_SMALLEST_DEVIATION = 1e-8  # nnU-Net's: a constant image becomes zero instead of dividing by zero


def normalize(
    image: FloatArray,
    schemes: Sequence[Normalization],
    masks: Sequence[BoolArray | None],
    statistics: Sequence[IntensityStatistics | None],
) -> FloatArray:
    """Normalise each channel of `image` (C Z Y X float32) in place; the sequences have one entry a channel.

    Args:
        image: cropped image.
        schemes: keys of `SCHEMES`.
        masks: nonzero mask Z Y X for channels whose statistics are taken inside it.
        statistics: foreground intensities of the dataset, needed by `ct`.

    Returns:
        `image`.

    Raises:
        DataError: a channel's values do not fit its scheme.
    """
    if len(schemes) != len(image):
        raise DataError(f"the image has {len(image)} channels, the plan normalises {len(schemes)}.")
    for number, (scheme, mask, known) in enumerate(zip(schemes, masks, statistics, strict=True)):
        try:
            image[number] = SCHEMES[scheme](image[number], mask, known)
        except DataError as error:
            raise DataError(f"channel {number}: {error}") from error
    return image


def _ct(values: FloatArray, _mask: BoolArray | None, statistics: IntensityStatistics | None) -> FloatArray:
    if statistics is None:
        raise DataError("CT normalisation needs the dataset's intensities; the plan has none for this channel.")
    np.clip(values, statistics.percentile_00_5, statistics.percentile_99_5, out=values)
    values -= statistics.mean
    values /= max(statistics.std, _SMALLEST_DEVIATION)
    return values


def _zscore(values: FloatArray, mask: BoolArray | None, _statistics: IntensityStatistics | None) -> FloatArray:
    if mask is None or not mask.any():
        mean, deviation = values.mean(), values.std()
        values -= mean
        values /= max(deviation, _SMALLEST_DEVIATION)
        return values
    inside = values[mask]
    values[mask] = (inside - inside.mean()) / max(inside.std(), _SMALLEST_DEVIATION)
    return values


def _none(values: FloatArray, _mask: BoolArray | None, _statistics: IntensityStatistics | None) -> FloatArray:
    return values


def _rescale(values: FloatArray, _mask: BoolArray | None, _statistics: IntensityStatistics | None) -> FloatArray:
    values -= values.min()
    values /= max(values.max(), _SMALLEST_DEVIATION)
    return values


def _rgb(values: FloatArray, _mask: BoolArray | None, _statistics: IntensityStatistics | None) -> FloatArray:
    low, high = values.min(), values.max()
    if low < 0 or high > 255:
        raise DataError(f"values from {low:g} to {high:g}; an RGB channel has 0 to 255. Is it another modality?")
    values /= 255
    return values


SCHEMES: dict[Normalization, Scheme] = {
    "ct": _ct,
    "zscore": _zscore,
    "none": _none,
    "rescale": _rescale,
    "rgb": _rgb,
}
