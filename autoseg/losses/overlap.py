"""Logits and a label map in, a scalar that compares whole classes out: Dice, Jaccard, Tversky and their relatives.

All take logits `N H Z Y X` (float32 or float64), targets `N Z Y X` of internal class numbers and a
`LossContext`. Where the docstring does not say otherwise they give minus the mean overlap, from -1 (perfect) to
0: over the foreground classes (softmax; nnU-Net leaves the background out) or all regions (sigmoid), and over
samples unless `batch_dice` sums these first. Ignored voxels take no part.

`smooth` is added to numerator and denominator, so that a class that is absent and not predicted has overlap 1
(1e-5: nnU-Net's). In the Tversky family `alpha` weighs the false positives and `beta` the false negatives.
"""

import torch
from torch import Tensor

from autoseg.losses.sums import class_sums
from autoseg.losses.targets import LossContext, compared, foreground, head_weights, mean_over_foreground, power


def soft_dice(logits: Tensor, target: Tensor, context: LossContext, *, smooth: float = 1e-5) -> Tensor:
    """Minus the mean soft Dice, 2 |P T| / (|P| + |T|) (Milletari et al., 2016, arXiv:1606.04797; denominator of
    first powers as in nnU-Net).
    """
    return -_mean(dice_scores(logits, target, context, smooth), context)


def jaccard(logits: Tensor, target: Tensor, context: LossContext, *, smooth: float = 1e-5) -> Tensor:
    """Minus the mean soft intersection over union (Rahman and Wang, 2016, ISVC)."""
    return -_mean(_tversky_index(logits, target, context, 1.0, 1.0, smooth), context)


def tversky(
    logits: Tensor, target: Tensor, context: LossContext, *, alpha: float = 0.3, beta: float = 0.7, smooth: float = 1e-5
) -> Tensor:
    """Minus the mean Tversky index |P T| / (|P T| + alpha FP + beta FN), which counts a missed voxel more than a
    false one (Salehi et al., 2017, arXiv:1706.05721; its best weights).
    """
    return -_mean(_tversky_index(logits, target, context, alpha, beta, smooth), context)


def focal_tversky(
    logits: Tensor,
    target: Tensor,
    context: LossContext,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 4 / 3,
    smooth: float = 1e-5,
) -> Tensor:
    """Mean of (1 - Tversky index)^(1 / gamma), from 0 (perfect) to 1 (Abraham and Khan, 2018, arXiv:1810.07842).

    The paper's weights and exponent; what it calls alpha is `beta` here. A gamma above 1 keeps the gradient of
    classes that are nearly right.
    """
    index = _tversky_index(logits, target, context, alpha, beta, smooth)
    return _mean(power(1 - index, 1 / gamma), context)


def asymmetric_similarity(
    logits: Tensor, target: Tensor, context: LossContext, *, beta: float = 1.5, smooth: float = 1e-5
) -> Tensor:
    """Minus the mean soft F-beta score (Hashemi et al., 2018, arXiv:1803.11078; its best `beta`).

    That is the Tversky index with weights 1 / (1 + beta^2) of false positives and beta^2 / (1 + beta^2) of false
    negatives. Here `beta` is the F score's.
    """
    false_positives = 1 / (1 + beta**2)
    index = _tversky_index(logits, target, context, false_positives, 1 - false_positives, smooth)
    return -_mean(index, context)


def generalised_dice(logits: Tensor, target: Tensor, context: LossContext, *, smooth: float = 1e-5) -> Tensor:
    """Minus the generalised Dice: one ratio of sums over all classes, each weighted by 1 / volume^2 (Sudre et al.,
    2017, arXiv:1707.03237).

    The background is a class like the others, as in the paper. A class that is absent from a sample weighs as much
    as the rarest that is there. Weights are relative to the largest, so that `smooth` is in voxels of the rarest class.
    """
    return -_generalised_dice(logits, target, context, smooth).mean()


def penalty_generalised_dice(
    logits: Tensor, target: Tensor, context: LossContext, *, k: float = 2.5, smooth: float = 1e-5
) -> Tensor:
    """L / (1 + k (1 - L)) of L = 1 - generalised Dice, from 0 (perfect) to 1 (Yang et al., 2019, MIDL,
    openreview.net/forum?id=H1lTh8unKN; its `k`).
    """
    overlap = _generalised_dice(logits, target, context, smooth)
    return ((1 - overlap) / (1 + k * overlap)).mean()


def sensitivity_specificity(
    logits: Tensor, target: Tensor, context: LossContext, *, sensitivity: float = 0.05, smooth: float = 1e-5
) -> Tensor:
    """Mean squared error inside each class times `sensitivity`, plus that outside times 1 - `sensitivity`: from 0
    (perfect) to 1 (Brosch et al., 2015, MICCAI; its ratio, with similar results from 0.01 to 0.1).

    `smooth` is added to the denominators alone: where a class is absent its first part is 0.
    """
    probabilities, truth, valid = compared(logits, target, context)
    rest = ~truth if valid is None else ~truth & valid
    parts = []
    for inside, error in ((truth, 1 - probabilities), (rest, probabilities)):
        sums, counts = (error.square() * inside).sum((2, 3, 4)), inside.sum((2, 3, 4))
        if context.batch_dice:
            sums, counts = sums.sum(0, keepdim=True), counts.sum(0, keepdim=True)
        parts.append(sums / (counts + smooth).clamp_min(1e-8))
    return _mean(sensitivity * parts[0] + (1 - sensitivity) * parts[1], context)


def dice_scores(logits: Tensor, target: Tensor, context: LossContext, smooth: float) -> Tensor:
    """Soft Dice of every head, background included: N H, or 1 H with `batch_dice`."""
    both, predicted, true, _ = class_sums(logits, target, context)
    return (2 * both + smooth) / (true + predicted + smooth).clamp_min(1e-8)


def _tversky_index(
    logits: Tensor, target: Tensor, context: LossContext, alpha: float, beta: float, smooth: float
) -> Tensor:
    both, predicted, true, _ = class_sums(logits, target, context)
    errors = alpha * (predicted - both) + beta * (true - both)
    return (both + smooth) / (both + errors + smooth).clamp_min(1e-8)


def _generalised_dice(logits: Tensor, target: Tensor, context: LossContext, smooth: float) -> Tensor:
    """One score a sample, or one in all with `batch_dice`."""
    both, predicted, true, _ = class_sums(logits, target, context)
    rarest = torch.where(true > 0, true, torch.inf).amin(1, keepdim=True)
    rarest = torch.where(rarest.isinf(), 1, rarest)  # nothing there: all weigh alike
    weights = (rarest / torch.where(true > 0, true, rarest)).square() * head_weights(context, true)
    overlap = 2 * (weights * both).sum(1) + smooth
    return overlap / ((weights * (predicted + true)).sum(1) + smooth).clamp_min(1e-8)


def _mean(scores: Tensor, context: LossContext) -> Tensor:
    return mean_over_foreground(foreground(scores, context), context)
