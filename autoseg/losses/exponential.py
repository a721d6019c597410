"""Logits and a label map in, powers of logarithms of Dice and probability out: the exponential logarithmic loss."""

import torch
from torch import Tensor

from autoseg.losses.overlap import dice_scores
from autoseg.losses.pixel import voxel_losses, weighted_mean
from autoseg.losses.targets import LossContext, foreground, mean_over_foreground, power


def exponential_logarithmic(
    logits: Tensor,
    target: Tensor,
    context: LossContext,
    *,
    dice_weight: float = 0.8,
    gamma: float = 0.3,
    smooth: float = 1.0,
) -> Tensor:
    """`dice_weight` times the mean of (-ln Dice)^gamma, plus 1 - `dice_weight` times that of (-ln p)^gamma (Wong et
    al., 2018, arXiv:1809.00076; its weights, exponent and pseudocount `smooth`). From 0 (perfect).

    The Dice is that of `soft_dice`: over the foreground classes or all regions, summed over the batch first with
    `batch_dice`. The paper weighs voxels by the square root of 1 / class frequency: give that as class weights.

    Args:
        logits: N H Z Y X, float32 or float64.
        target: N Z Y X of internal class numbers; ignored voxels take no part.
        context: scheme and class weights.
        dice_weight: share of the Dice part, 0 to 1.
        gamma: of both parts; below 1 what is nearly right still has a gradient.
        smooth: in voxels.
    """
    dice = foreground(dice_scores(logits, target, context, smooth), context)
    overlap = mean_over_foreground(power(-torch.log(dice), gamma), context)
    losses, weights = voxel_losses(logits, target, context)
    return dice_weight * overlap + (1 - dice_weight) * weighted_mean(power(losses, gamma), weights)
