"""A channel and values in, the channel changed in place: the local and coarse transforms of nnU-Net's DA5 trainer.

Sharpening, median filter, blank rectangles, and brightness and gamma that change across the volume. At equal
parameters they equal batchgeneratorsv2 0.3.6 up to rounding (`tests/differential/test_artefacts_peer.py`). Places and
extents are drawn as fractions of the patch, so that drawing needs no shape; nothing waits for the device.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# As in batchgeneratorsv2: a volume without contrast is not divided by its range.
_SMALLEST_RANGE = 1e-8
# nnU-Net's DA5: widths of gradients are between the axis and a sixth of it, rectangles between a tenth and a third.
_WIDEST_SHARE, _RECTANGLE_SHARES = 6, (10, 3)
NUM_RECTANGLE_VALUES = 6


def sharpen(channel: Tensor, values: tuple[float, ...], generator: torch.Generator) -> None:  # noqa: ARG001
    """Add the Laplacian (own value minus each neighbour's; outside the patch its border goes on); value: its factor."""
    laplacian = torch.zeros_like(channel)
    for axis, size in enumerate(channel.shape):
        inner = channel.narrow(axis, 0, 1), channel, channel.narrow(axis, size - 1, 1)
        padded = torch.cat(inner, dim=axis)
        laplacian.add_(channel, alpha=2).sub_(padded.narrow(axis, 0, size)).sub_(padded.narrow(axis, 2, size))
    channel.add_(laplacian, alpha=values[0])


def median_filter(channel: Tensor, values: tuple[float, ...], generator: torch.Generator) -> None:  # noqa: ARG001
    """The middle value in a cube around each voxel, as scipy's; value: the cube's edge in voxels.

    Outside the patch it is mirrored, its border voxels repeated. The time grows with the cube of the edge.
    """
    edge = int(values[0])
    before, after = edge // 2, edge - 1 - edge // 2
    padded = channel
    for axis, size in enumerate(channel.shape):
        period = 2 * size
        where = [i % period for i in range(-before, size + after)]
        ends = [padded.narrow(axis, min(i, period - 1 - i), 1) for i in where]
        padded = torch.cat([*ends[:before], padded, *ends[before + size :]], dim=axis)
    middle = edge**3 // 2 + 1
    for z in range(channel.shape[0]):
        cubes = padded[z : z + edge].unfold(1, edge, 1).unfold(2, edge, 1)  # edge Y X edge edge
        around = cubes.permute(1, 2, 0, 3, 4).flatten(2)
        channel[z] = around.kthvalue(middle, dim=-1).values


def shift_brightness(channel: Tensor, values: tuple[float, ...], generator: torch.Generator) -> None:  # noqa: ARG001
    """Add the value."""
    channel.add_(values[0])


def stretch_contrast_unclipped(
    channel: Tensor,
    values: tuple[float, ...],
    generator: torch.Generator,  # noqa: ARG001
) -> None:
    """Multiply the distance from the mean, the range growing or shrinking with it; value: the factor."""
    mean = channel.mean()
    channel.sub_(mean).mul_(values[0]).add_(mean)


def blank_rectangles(channel: Tensor, values: tuple[float, ...], generator: torch.Generator) -> None:  # noqa: ARG001
    """Fill boxes with their own mean, one after the other; values: for each box its three extents and three places.

    All are fractions from 0 to 1: an extent of the way from a tenth to a third of the axis, a place of the room left.
    """
    smallest, largest = _RECTANGLE_SHARES
    for first in range(0, len(values), NUM_RECTANGLE_VALUES):
        extents, places = values[first : first + 3], values[first + 3 : first + 6]
        region = channel
        for axis, (extent, place) in enumerate(zip(extents, places, strict=True)):
            size = channel.shape[axis]
            low = max(1, size // smallest)
            length = low + int(extent * (max(size // largest, low + 1) - low))
            region = region.narrow(axis, int(place * (size - length + 1)), length)
        region.copy_(region.mean().expand_as(region))


def add_gradient(channel: Tensor, values: tuple[float, ...], generator: torch.Generator) -> None:  # noqa: ARG001
    """Add a wide Gaussian hill; values: its height, and as for `hill`."""
    channel.add_(hill(channel, values[1:]), alpha=values[0])


def change_gamma_locally(channel: Tensor, values: tuple[float, ...], generator: torch.Generator) -> None:  # noqa: ARG001
    """Raise the intensities, brought to 0 to 1, to a power, as much as a wide Gaussian hill is high at each voxel.

    Values: the exponent, and as for `hill`. The range there was is kept.
    """
    low, high = torch.aminmax(channel)
    extent = (high - low).clamp(min=_SMALLEST_RANGE)
    channel.sub_(low).div_(extent)
    channel.lerp_(channel.pow(values[0]), hill(channel, values[1:])).mul_(extent).add_(low)


def hill(channel: Tensor, values: Sequence[float]) -> Tensor:
    """Product of one Gaussian an axis, brought to 0 to 1, `Z Y X`.

    Args:
        channel: tells shape, type and device.
        values: three places as fractions of the axes (below 0 and above 1: outside), and three fractions that say how
            far each width lies between a sixth of the axis and all of it, on a logarithmic scale.
    """
    product, lowest = torch.ones((1, 1, 1), dtype=torch.float64, device=channel.device), 1.0
    for axis, size in enumerate(channel.shape):
        narrow = max(1, size // _WIDEST_SHARE)
        width = math.exp(math.log(narrow) + values[3 + axis] * (math.log(size) - math.log(narrow)))
        # The mass of a voxel is that between its faces.
        faces = np.arange(size + 1) - 0.5 - values[axis] * size
        mass = np.diff([0.5 * (1 + math.erf(face / (width * math.sqrt(2)))) for face in faces])
        mass = mass / max(mass.max(), np.finfo(float).tiny)
        lowest *= float(mass.min())
        shape = [1, 1, 1]
        shape[axis] = size
        product = product * torch.from_numpy(mass).to(channel.device, non_blocking=True).view(shape)
    result: Tensor = ((product - lowest) / max(1 - lowest, _SMALLEST_RANGE)).to(channel.dtype)
    return result
