"""A volume's shape and a patch in, the starts of overlapping tiles and their weights out."""

from collections.abc import Callable, Sequence
from itertools import product
from math import ceil

import numpy as np
import torch
from scipy import ndimage

from autoseg.records.geometry import IntTriple
from autoseg.records.plan import TileWeights


def tile_starts(shape: Sequence[int], patch: Sequence[int], step: float = 0.5) -> list[IntTriple]:
    """Where tiles of size `patch` start so that they cover `shape` evenly.

    The number of tiles an axis is the smallest with which neighbours are at most `step` patches apart; they are
    then spread evenly from border to border (nnU-Net's rule). An axis shorter than the patch has one tile
    at 0: pad the volume.

    Args:
        shape: voxels z, y, x.
        patch: tile size z, y, x.
        step: largest distance of neighbours in patches, above 0 and at most 1.

    Returns:
        Starts (z, y, x), x fastest.
    """
    assert 0 < step <= 1, f"step must be above 0 and at most 1, got {step}"
    axes = []
    for voxels, size in zip(shape, patch, strict=True):
        room = max(voxels - size, 0)
        count = ceil(room / max(size * step, 1.0)) + 1
        axes.append([round(room * i / max(count - 1, 1)) for i in range(count)])
    return [(z, y, x) for z, y, x in product(*axes)]


def gaussian_weights(patch: Sequence[int], sigma_in_patches: float = 0.125) -> torch.Tensor:
    """Weights Z Y X of a tile's voxels, 1 in its middle, falling to the borders where context is missing.

    A Gaussian with a standard deviation of an eighth of the patch (nnU-Net's), centred between the voxels so
    that mirrored tiles have mirrored weights. Every weight is positive, the smallest about 4e-11, so that
    voxels that only a corner sees are divided by something float32 can hold.
    """
    weights = torch.ones(1, 1, 1, dtype=torch.float64)
    for axis, size in enumerate(patch):
        offset = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
        profile = torch.exp(-0.5 * (offset / (size * sigma_in_patches)) ** 2)
        weights = weights * profile.view([-1 if i == axis else 1 for i in range(3)])
    return (weights / weights.max()).float()


def nnunet_weights(patch: Sequence[int]) -> torch.Tensor:
    """Weights Z Y X of a tile's voxels as nnU-Net (2.8) makes them, to the bit, for models that come from there.

    The same Gaussian, but around voxel `size // 2`, half a voxel behind the middle of an even patch; cut off at four
    deviations; 10 at its peak, rounded to float16, and what that rounds to zero gets the smallest weight that is left.
    """
    peak = np.zeros(tuple(patch))
    peak[tuple(size // 2 for size in patch)] = 1
    blurred = ndimage.gaussian_filter(peak, [size * 0.125 for size in patch], mode="constant")
    weights = torch.from_numpy(blurred / (blurred.max() / 10)).half()
    weights[weights == 0] = weights[weights > 0].min()
    return weights.float()


TILE_WEIGHTS: dict[TileWeights, Callable[[Sequence[int]], torch.Tensor]] = {
    "symmetric": gaussian_weights,
    "nnunet": nnunet_weights,
}
