"""Logits and a label map in, a scalar that compares whole classes out: soft Dice and Tversky.

All take logits `N H Z Y X` (float32 or float64), targets `N Z Y X` of internal class numbers and a
`LossContext`, and give minus the mean overlap, from -1 (perfect) to 0: over the foreground classes
(softmax; nnU-Net leaves the background out) or all regions (sigmoid), and over samples unless `batch_dice`
sums these first. Ignored voxels take no part. A class that is absent and not predicted has overlap 1.
"""

from typing import Any

import torch
from torch import Tensor

from autoseg.losses.targets import LossContext, head_weights, regions_of, split_ignored

SMOOTH = 1e-5
"""Added to numerator and denominator (nnU-Net's value)."""

FALSE_POSITIVES, FALSE_NEGATIVES = 0.3, 0.7
"""Weights of the two errors in the Tversky index (alpha and beta; the paper's best)."""


def soft_dice(logits: Tensor, target: Tensor, context: LossContext) -> Tensor:
    """Minus the mean soft Dice, 2 |P T| / (|P| + |T|) (Milletari et al., 2016, arXiv:1606.04797; denominator of
    first powers as in nnU-Net).
    """
    both, predicted, true = _sums(logits, target, context)
    dice = (2 * both + SMOOTH) / (true + predicted + SMOOTH).clamp_min(1e-8)
    return -_mean_over_heads(dice, context)


def tversky(logits: Tensor, target: Tensor, context: LossContext) -> Tensor:
    """Minus the mean Tversky index, which counts a missed voxel more than a false one (Salehi et al., 2017,
    arXiv:1706.05721).
    """
    both, predicted, true = _sums(logits, target, context)
    errors = FALSE_POSITIVES * (predicted - both) + FALSE_NEGATIVES * (true - both)
    return -_mean_over_heads((both + SMOOTH) / (both + errors + SMOOTH).clamp_min(1e-8), context)


def _sums(logits: Tensor, target: Tensor, context: LossContext) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of probability inside the truth, of probability, and of truth: each N H, or 1 H with `batch_dice`."""
    classes, valid = split_ignored(target, context.labels)
    if context.labels.has_regions:
        truth = regions_of(classes, context.labels)
        probabilities = logits.sigmoid()
        if valid is not None:
            truth, probabilities = truth & valid.unsqueeze(1), probabilities * valid.unsqueeze(1)
        axes = tuple(range(2, logits.ndim))
        sums = ((probabilities * truth).sum(axes), probabilities.sum(axes), truth.sum(axes).to(logits.dtype))
    else:
        flat = None if valid is None else valid.flatten(1)
        sums = _SoftmaxSums.apply(logits.flatten(2), classes.flatten(1), flat)  # type: ignore[no-untyped-call]
    if context.batch_dice:
        both, predicted, true = (s.sum(0, keepdim=True) for s in sums)
        return both, predicted, true
    return sums


def _mean_over_heads(scores: Tensor, context: LossContext) -> Tensor:
    """Mean of `N H` over samples, and over heads with their weights, without the background class."""
    weights = head_weights(context, scores)
    if not context.labels.has_regions:
        scores, weights = scores[:, 1:], weights[1:]
    return (scores.mean(0) * weights).sum() / weights.sum()


class _SoftmaxSums(torch.autograd.Function):
    """The sums of `_sums` for softmax, with a closed-form backward and no one-hot copy of the target.

    Only the logits and the class numbers are kept; the softmax is computed again in backward. The loop over
    classes costs no more than the softmax, and unlike a scatter its sums do not depend on the order in which a
    GPU's threads finish.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, classes: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        probabilities = logits.softmax(1)
        if valid is not None:
            probabilities.mul_(valid.unsqueeze(1))
        both, true = logits.new_empty(logits.shape[:2]), logits.new_empty(logits.shape[:2])
        for number in range(logits.shape[1]):
            inside = classes == number if valid is None else (classes == number) & valid
            both[:, number] = (probabilities[:, number] * inside).sum(-1)
            true[:, number] = inside.sum(-1)
        ctx.save_for_backward(logits, classes, valid)
        ctx.mark_non_differentiable(true)
        return both, probabilities.sum(-1), true

    @staticmethod
    def backward(ctx: Any, grad_both: Tensor, grad_predicted: Tensor, _grad_true: Tensor) -> tuple[Tensor, None, None]:
        logits, classes, valid = ctx.saved_tensors
        probabilities = logits.softmax(1)
        # d/dp of a voxel is grad_predicted, and grad_both besides for its own class; then through the softmax.
        own = classes.unsqueeze(1)
        at_own = probabilities.gather(1, own) * grad_both.gather(1, classes).unsqueeze(1)
        mean = (probabilities * grad_predicted.unsqueeze(-1)).sum(1, keepdim=True) + at_own
        gradient = probabilities.mul_(grad_predicted.unsqueeze(-1) - mean).scatter_add_(1, own, at_own)
        if valid is not None:
            gradient.mul_(valid.unsqueeze(1))
        return gradient, None, None
