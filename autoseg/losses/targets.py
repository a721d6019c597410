"""Label maps in, what a loss compares with out: downsampled views, masks, regions; and the context of a loss."""

from dataclasses import dataclass
from functools import lru_cache

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


def head_weights(context: LossContext, like: Tensor) -> Tensor:
    """The context's class weights as a tensor of one factor a head, of the type and device of `like`."""
    return _factors(context.class_weights or (1.0,) * context.labels.num_heads, like.dtype, like.device)


# Both are kept: a host that copies a few numbers to a GPU in every step waits for the GPU each time.
@lru_cache(maxsize=16)
def _membership(labels: LabelScheme, device: torch.device) -> Tensor:
    """Whether a class is in a region: bool, classes x heads."""
    table = torch.zeros(labels.num_classes, labels.num_heads, dtype=torch.bool)
    for position, region in enumerate(labels.regions):
        table[list(region.members), position] = True
    return table.to(device)


@lru_cache(maxsize=16)
def _factors(weights: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(weights, dtype=dtype, device=device)
