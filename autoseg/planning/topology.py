"""Spacing and wished patch size in; strides, kernels and the patch a U-Net can take out.

`plan_topology` is nnU-Net's rule, whose depth follows from the patch; `fixed_topology` is for networks of one depth.

Works for 2 and 3 axes. Sizes may be fractional (medians of shapes); they are rounded up when halved and
when padded.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from autoseg.planning.spacing import SIMILAR_FACTOR

SMALLEST_EDGE = 4
"""nnU-Net: no axis is pooled below this many voxels."""

_LONE_AXIS_FACTOR = 3
"""nnU-Net: an axis that would be pooled alone must have this many times the smallest edge, not only twice."""


class Topology(NamedTuple):
    """Shape of a U-Net, one entry an axis in each tuple."""

    patch_size: tuple[int, ...]
    """The wished patch, padded to a multiple of `divisor`."""
    strides: tuple[tuple[int, ...], ...]
    """One a stage, finest first; the first is all ones."""
    kernel_sizes: tuple[tuple[int, ...], ...]
    """One a stage."""
    divisor: tuple[int, ...]
    """Product of all strides."""


def plan_topology(spacing_mm: Sequence[float], patch_size: Sequence[float]) -> Topology:
    """Pool as deep as the patch allows, in-plane first where slices are thick.

    In each stage the axes are pooled that are long enough and whose current spacing is less than twice the
    finest among those. A kernel is 1 along an axis until the axis is that fine against all axes, then 3 for good;
    the deepest stage always has 3.
    """
    axes = range(len(spacing_mm))
    spacing = [float(s) for s in spacing_mm]
    size = [float(s) for s in patch_size]
    kernel = [1] * len(spacing)
    strides = [tuple(1 for _ in axes)]
    kernels = []
    while pooled := _axes_to_pool(spacing, size):
        finest = min(spacing)
        kernel = [3 if kernel[axis] == 3 or spacing[axis] / finest < SIMILAR_FACTOR else 1 for axis in axes]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in pooled else 1 for axis in axes))
        for axis in pooled:
            spacing[axis] *= 2
            size[axis] = math.ceil(size[axis] / 2)
    kernels.append(tuple(3 for _ in axes))
    return _padded(patch_size, strides, kernels)


def fixed_topology(spacing_mm: Sequence[float], patch_size: Sequence[float], num_stages: int, kernel: int) -> Topology:
    """As many stages and as large a kernel whatever the patch, which is padded to fit.

    Each stage halves the axes whose current spacing is less than twice the finest. Where spacing is isotropic that is
    each axis every time, as in MedNeXt (Roy et al., 2023), which was published for 1 mm cubes alone; thick slices are
    halved later, or never.
    """
    spacing, strides = [float(s) for s in spacing_mm], [(1,) * len(spacing_mm)]
    for _ in range(num_stages - 1):
        finest = min(spacing)
        strides.append(tuple(2 if s / finest < SIMILAR_FACTOR else 1 for s in spacing))
        spacing = [s * step for s, step in zip(spacing, strides[-1], strict=True)]
    return _padded(patch_size, strides, [(kernel,) * len(spacing)] * num_stages)


def _padded(
    patch_size: Sequence[float], strides: Sequence[tuple[int, ...]], kernels: Sequence[tuple[int, ...]]
) -> Topology:
    divisor = tuple(math.prod(stride[axis] for stride in strides) for axis in range(len(patch_size)))
    padded = tuple(math.ceil(p / d) * d for p, d in zip(patch_size, divisor, strict=True))
    return Topology(padded, tuple(strides), tuple(kernels), divisor)


def _axes_to_pool(spacing_mm: Sequence[float], size: Sequence[float]) -> list[int]:
    """Axes that the next stage halves; empty when the network ends here."""
    long_enough = [axis for axis, s in enumerate(size) if s >= 2 * SMALLEST_EDGE]
    if not long_enough:
        return []
    finest = min(spacing_mm[axis] for axis in long_enough)
    pooled = [axis for axis in long_enough if spacing_mm[axis] / finest < SIMILAR_FACTOR]
    if len(pooled) == 1 and size[pooled[0]] < _LONE_AXIS_FACTOR * SMALLEST_EDGE:
        return []
    return pooled
