"""Label maps in, what a loss compares with out: downsampled views, masks, regions; and what losses share.

That is the context of a loss, the mean over its heads, and a power whose gradient stays finite.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from autoseg.errors import UsageError
from autoseg.records.labels import LabelScheme


@dataclass(frozen=True)
class LossContext:
    """What a loss knows besides logits and target."""

    labels: LabelScheme
    """Decides softmax over classes or one sigmoid a region, and which voxels are ignored."""
    batch_dice: bool
    """Whether overlap losses sum over the batch before they divide."""
    class_weights: tuple[float, ...] | None = None
    """One factor a head, from the plan; None: all 1."""
    shared: dict[str, Any] | None = field(default=None, compare=False, repr=False)
    """What the terms of a loss have computed of the output at hand, for one another; None: nothing is shared."""


def downsample(target: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The labels at the voxels nearest to those of a coarser grid, as a view.

    Args:
        target: N Z Y X.
        shape: z, y, x of the coarser grid; each must divide the target's.

    Returns:
        N z y x: of every `s` voxels along an axis the one at `s // 2`, as nnU-Net (`nearest-exact`) takes.

    Raises:
        UsageError: a size does not divide the target's.
    """
    if tuple(target.shape[1:]) == tuple(shape):
        return target
    if any(fine % coarse for fine, coarse in zip(target.shape[1:], shape, strict=True)):
        raise UsageError(
            f"The network gives an output of {tuple(shape)} voxels for a patch of {tuple(target.shape[1:])}: every "
            "output must be smaller by whole factors. Choose a patch size that the strides divide."
        )
    steps = (fine // coarse for fine, coarse in zip(target.shape[1:], shape, strict=True))
    return target[(slice(None), *(slice(s // 2, None, s) for s in steps))]


def split_ignored(target: Tensor, labels: LabelScheme) -> tuple[Tensor, Tensor | None]:
    """Class numbers (int64, 0 where ignored), and which voxels count (None: all); both of the target's shape."""
    target = target.long()
    if labels.ignore_index is None:
        return target, None
    valid = target != labels.ignore_index
    return target * valid, valid


def regions_of(target: Tensor, labels: LabelScheme) -> Tensor:
    """Membership of each voxel in each region: bool N H Z Y X from class numbers N Z Y X (int64)."""
    return _membership(labels, target.device)[target].movedim(-1, 1)


def compared(logits: Tensor, target: Tensor, context: LossContext) -> tuple[Tensor, Tensor, Tensor | None]:
    """What losses compare that need whole maps: probabilities, truth, and which voxels count.

    Returns:
        Probabilities N H Z Y X (softmax over classes, or one sigmoid a region); truth, bool of that shape, False
        where ignored; and N 1 Z Y X bool, or None where all voxels count.
    """
    classes, valid = split_ignored(target, context.labels)
    if context.labels.has_regions:
        probabilities, truth = logits.sigmoid(), regions_of(classes, context.labels)
    else:
        numbers = torch.arange(logits.shape[1], device=logits.device).view(-1, 1, 1, 1)
        probabilities, truth = logits.softmax(1), classes.unsqueeze(1) == numbers
    if valid is None:
        return probabilities, truth, None
    valid = valid.unsqueeze(1)
    return probabilities, truth & valid, valid


def foreground(heads: Tensor, context: LossContext) -> Tensor:
    """N H ... without the background class; all regions."""
    return heads if context.labels.has_regions else heads[:, 1:]


def mean_over_foreground(scores: Tensor, context: LossContext) -> Tensor:
    """Mean of N x foreground heads over samples, and over heads with their weights."""
    weights = foreground(head_weights(context, scores)[None], context)[0]
    return (scores.mean(0) * weights).sum() / weights.sum()


def voxel_mean(values: Tensor, valid: Tensor | None) -> Tensor:
    """Mean of N H Z Y X over the voxels that count (N 1 Z Y X; None: all): N H, and 0 where none does."""
    axes = (2, 3, 4)
    if valid is None:
        return values.mean(axes)
    return torch.where(valid, values, 0).sum(axes) / valid.sum(axes).clamp_min(1)


def power(base: Tensor, exponent: float) -> Tensor:
    """`base ** exponent` of a base from 0 up; constant below 1e-6, since at 0 a power under 1 is infinitely steep."""
    return base.clamp_min(1e-6) ** exponent


def head_weights(context: LossContext, like: Tensor) -> Tensor:
    """The context's class weights as a tensor of one factor a head, of the type and device of `like`."""
    return _factors(context.class_weights or (1.0,) * context.labels.num_heads, like.dtype, like.device)


# Both are kept: what is made anew in every step is copied to a GPU in every step.
@lru_cache(maxsize=16)
def _membership(labels: LabelScheme, device: torch.device) -> Tensor:
    """Whether a class is in a region: bool, classes x heads."""
    table = torch.zeros(labels.num_classes, labels.num_heads, dtype=torch.bool)
    for position, region in enumerate(labels.regions):
        table[list(region.members), position] = True
    return table.to(device, non_blocking=True)


@lru_cache(maxsize=16)
def _factors(weights: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(weights, dtype=dtype).to(device, non_blocking=True)
