"""One channel of an image in its file's type in, its limits, mean and deviation out, without a copy of the whole.

Slabs are converted to float32 one after another. Sums are taken in the order in which numpy sums a whole contiguous
array (pairwise: halves of halves, each a multiple of 8 long), so that they equal `mean()` and `std()` of such a
copy bit for bit, and prepared cases do not depend on how they were read.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from autoseg.spatial.slabs import Region, slab_boxes

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

PIECE = 1 << 22
"""Values converted at a time, 16 MiB in float32; at least 128, where numpy's halving ends."""


class Channel(NamedTuple):
    """A cropped channel and what is known of it."""

    values: npt.NDArray[Any]
    """Z Y X in the file's type; a view of what was read."""
    mask: BoolArray | None
    """Z Y X: where mean and deviation are taken; None: everywhere."""
    low: np.float32
    """Smallest value in float32; NaN where there is one."""
    high: np.float32
    """Largest."""


def measured(values: npt.NDArray[Any], mask: BoolArray | None = None) -> Channel:
    """A channel with its limits; see `Channel`."""
    ends = np.array([(values[box].min(), values[box].max()) for box in slab_boxes(values, PIECE)])
    with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite, which the caller refuses
        return Channel(values, mask, np.float32(ends[:, 0].min()), np.float32(ends[:, 1].max()))


def read(channel: Channel, box: Region) -> FloatArray:
    """A box of the channel, float32 Z Y X: contiguous, and the caller's own."""
    return np.array(channel.values[box], dtype=np.float32, order="C")


def moments(channel: Channel) -> tuple[np.float32, np.float32]:
    """Mean and population standard deviation of the channel, inside its mask if it has one."""
    if channel.mask is not None:
        inside = channel.values[channel.mask].astype(np.float32)
        return inside.mean(), inside.std()
    count = channel.values.size
    mean = np.float32(_sum(lambda part: part, channel, 0, count) / np.intp(count))
    variance = np.float32(_sum(lambda part: np.square(part - mean), channel, 0, count) / np.intp(count))
    return mean, np.sqrt(variance)


def _sum(what: Callable[[FloatArray], FloatArray], channel: Channel, start: int, stop: int) -> np.float32:
    """Sum of `what` of the voxels from `start` to `stop` in C order."""
    count = stop - start
    if count > PIECE:
        half = count // 2 - count // 2 % 8
        return _sum(what, channel, start, start + half) + _sum(what, channel, start + half, stop)
    _, height, width = channel.values.shape
    lines = slice(start // width, -(-stop // width))
    planes = slice(lines.start // height, -(-lines.stop // height))
    down = slice(None)
    if planes.stop - planes.start == 1:  # it may be large: a 2-D image has no other
        down = slice(lines.start - planes.start * height, lines.stop - planes.start * height)
    first = (planes.start * height + (down.start or 0)) * width
    rows = read(channel, (planes, down, slice(None))).reshape(-1)
    total: np.float32 = np.add.reduce(what(rows[start - first : stop - first]))
    return total
