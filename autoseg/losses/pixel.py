"""Logits and a label map in, a scalar that adds up the voxels one by one out: cross-entropy and its relatives.

All take logits `N H Z Y X` (float32 or float64), targets `N Z Y X` of internal class numbers and a
`LossContext`. With regions "cross-entropy" is the binary one, one sigmoid a region. Ignored voxels
take no part; a batch of nothing else has loss 0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from autoseg.losses.sums import class_sums
from autoseg.losses.targets import LossContext, head_weights, power, regions_of, split_ignored


def cross_entropy(logits: Tensor, target: Tensor, context: LossContext) -> Tensor:
    """Mean of -log p(true class), each voxel weighted by its class's weight (weighted cross-entropy).

    With regions, the mean over voxels and regions. nnU-Net does the same unless there is an ignore label, where
    it adds up the regions instead, so that the loss is larger by their number; we keep the mean.
    """
    if context.labels.has_regions:
        return weighted_mean(*voxel_losses(logits, target, context))
    sums, weights = class_sums(logits, target, context), head_weights(context, logits)
    assert sums.surprise is not None, "it is there for classes"
    total = (weights * sums.true).sum()
    return (weights * sums.surprise).sum() / torch.where(total > 0, total, 1)


def focal(logits: Tensor, target: Tensor, context: LossContext, *, gamma: float = 2.0) -> Tensor:
    """Cross-entropy in which a voxel of probability p counts (1 - p)^gamma (Lin et al., 2017, arXiv:1708.02002).

    `gamma` is the paper's best; its alpha is the class weights.
    """
    losses, weights = voxel_losses(logits, target, context)
    return weighted_mean(power(1 - torch.exp(-losses), gamma) * losses, weights)


def top_k_cross_entropy(logits: Tensor, target: Tensor, context: LossContext, *, share: float = 0.1) -> Tensor:
    """Mean cross-entropy of the hardest `share` of the voxels (Wu et al., 2016, arXiv:1605.06885; a tenth is
    nnU-Net's TopK10).

    Where fewer than that count (ignore label), the mean of all that do. Class weights enter before the choice.
    """
    losses, weights = voxel_losses(logits, target, context)
    if weights is None:
        valid = losses.new_ones(()).expand_as(losses)
    else:
        losses, valid = losses * weights, (weights > 0).to(losses.dtype).expand_as(losses)
    num_kept = max(1, int(losses.numel() * share))
    # Voxels that do not count are put below all others, so that no count must be fetched from the device.
    hardest, where = torch.where(valid > 0, losses, -1).flatten().topk(num_kept, sorted=False)
    return weighted_mean(hardest, valid.flatten()[where])


def voxel_losses(logits: Tensor, target: Tensor, context: LossContext) -> tuple[Tensor, Tensor | None]:
    """Cross-entropy of each voxel (N Z Y X) or voxel and region (N H Z Y X), and its weight (None: all 1)."""
    classes, valid = split_ignored(target, context.labels)
    weights = None if context.class_weights is None else head_weights(context, logits)
    if context.labels.has_regions:
        truth = regions_of(classes, context.labels).to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        weights = None if weights is None else weights.view(-1, 1, 1, 1)
        valid = None if valid is None else valid.unsqueeze(1)
    else:
        losses = F.cross_entropy(logits, classes, reduction="none")
        weights = None if weights is None else weights[classes]
    if valid is not None:
        weights = valid.to(logits.dtype) if weights is None else weights * valid
    return losses, weights


def weighted_mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """Mean with the weights of `voxel_losses`; 0 where nothing counts."""
    if weights is None:
        return losses.mean()
    weights = weights.expand_as(losses)
    total = weights.sum()
    # Nothing counts: 0 / 1, not 0 / 0.
    return (losses * weights).sum() / torch.where(total > 0, total, 1)
