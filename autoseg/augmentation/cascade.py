"""The previous stage's one-hot segmentation of a patch in, a plausibly wrong one out.

The second stage of a cascade would otherwise learn to copy the first stage's answer. As in nnU-Net, labels are
dilated, eroded, opened or closed with a ball, and single components are removed. Labels take turns in random order;
voxels that a label gains are taken from all others, voxels that it loses become background.

A ball is applied as a distance: a voxel belongs to the dilation when the nearest voxel of the mask is at most the
radius away, and the squared distance is a minimum along one axis after the other. This is exact, costs six passes a
voxel and unit of radius instead of one a voxel of the ball, and runs where the tensor lives. Outside of the patch
nothing is assumed: neither mask nor its complement grows in from there.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from autoseg.records.recipe import CascadeAugmentation
from autoseg.spatial.components import components

# Squared distance of voxels outside the mask before any pass; far above any radius, far below the type's end.
FAR = 2**14


def corrupt_previous(onehot: Tensor, policy: CascadeAugmentation, rng: np.random.Generator) -> Tensor:
    """Corrupt the one-hot channels of one sample.

    Args:
        onehot: `K Z Y X`, one channel a foreground class, 0 or 1 of any type.
        policy: odds and ranges.
        rng: the sample's own generator.

    Returns:
        A corrupted copy. Dropping components waits for the device once a label; morphology never does.
    """
    result = onehot.clone()
    if rng.random() < policy.morphology_probability:
        for label in rng.permutation(len(result)):
            if rng.random() < policy.morphology_label_probability:
                name = str(rng.choice(list(OPERATIONS)))
                low, high = policy.morphology_radius
                change_shape(result, int(label), name, int(rng.integers(low, high + 1)))
    if rng.random() < policy.drop_probability:
        for label in rng.permutation(len(result)):
            if rng.random() < policy.drop_label_probability:
                _drop_component(result[int(label)], policy.drop_max_fraction, rng)
    return result


def change_shape(onehot: Tensor, label: int, operation: str, radius: int) -> None:
    """Apply one of `OPERATIONS` to channel `label` in place; what it gains is taken from all other channels."""
    before = onehot[label] > 0
    after = OPERATIONS[operation](before, radius)
    onehot.masked_fill_(after & ~before, 0)
    onehot[label] = after


def dilate(mask: Tensor, radius: int) -> Tensor:
    """Voxels at most `radius` voxels away from `mask` (`Z Y X`, boolean)."""
    squared = torch.full(mask.shape, FAR, dtype=torch.int16, device=mask.device).masked_fill_(mask, 0)
    for axis in range(3):
        size = mask.shape[axis]
        nearest = squared.clone()
        for step in range(1, min(radius, size - 1) + 1):
            count = size - step
            for here, there in ((0, step), (step, 0)):
                target = nearest.narrow(axis, here, count)
                torch.minimum(target, squared.narrow(axis, there, count) + step * step, out=target)
        squared = nearest
    return squared <= radius * radius


def erode(mask: Tensor, radius: int) -> Tensor:
    """Voxels farther than `radius` from every voxel outside `mask`."""
    return ~dilate(~mask, radius)


def opened(mask: Tensor, radius: int) -> Tensor:
    """Eroded, then dilated: thin parts vanish."""
    return dilate(erode(mask, radius), radius)


def closed(mask: Tensor, radius: int) -> Tensor:
    """Dilated, then eroded: thin gaps vanish."""
    return erode(dilate(mask, radius), radius)


OPERATIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "dilation": dilate,
    "erosion": erode,
    "closing": closed,
    "opening": opened,
}


def _drop_component(channel: Tensor, max_fraction: float, rng: np.random.Generator) -> None:
    """Remove, in place, one random 26-connected component smaller than `max_fraction` of the patch, if there is one."""
    numbers, _ = components((channel > 0).cpu().numpy())
    sizes = np.bincount(numbers.ravel())[1:]
    candidates = np.flatnonzero(sizes < max_fraction * numbers.size) + 1
    if len(candidates):
        dropped = numbers == rng.choice(candidates)
        channel.masked_fill_(torch.from_numpy(dropped).to(channel.device, non_blocking=True), 0)
