"""Logits and a label map in, a few sums a class out, from which cross-entropy and all overlap losses follow.

The terms of one loss share them (`LossContext.shared`), so that Dice and cross-entropy together run through the logits
as often as one of them.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from autoseg.losses.targets import LossContext, regions_of, split_ignored


class ClassSums(NamedTuple):
    """Sums over the voxels that count: each N H, or 1 H with `batch_dice`."""

    both: Tensor
    """Of probability inside the truth."""
    predicted: Tensor
    """Of probability."""
    true: Tensor
    """Of truth; no gradient."""
    surprise: Tensor | None
    """Of -log(probability of the voxel's class) inside the truth; None with regions."""


def class_sums(logits: Tensor, target: Tensor, context: LossContext) -> ClassSums:
    """The sums of one output, computed at most once for all terms of a loss."""
    if context.shared is None:
        return _sums(logits, target, context)
    if _KEY not in context.shared:
        context.shared[_KEY] = _sums(logits, target, context)
    found: ClassSums = context.shared[_KEY]
    return found


_KEY = "class_sums"


def _sums(logits: Tensor, target: Tensor, context: LossContext) -> ClassSums:
    classes, valid = split_ignored(target, context.labels)
    if context.labels.has_regions:
        truth = regions_of(classes, context.labels)
        probabilities = logits.sigmoid()
        if valid is not None:
            truth, probabilities = truth & valid.unsqueeze(1), probabilities * valid.unsqueeze(1)
        axes = tuple(range(2, logits.ndim))
        sums = ClassSums(
            (probabilities * truth).sum(axes), probabilities.sum(axes), truth.sum(axes).to(logits.dtype), None
        )
    else:
        flat = None if valid is None else valid.flatten(1)
        sums = ClassSums(*_SoftmaxSums.apply(logits.flatten(2), classes.flatten(1), flat))  # type: ignore[no-untyped-call]
    if context.batch_dice:
        return ClassSums(*(None if part is None else part.sum(0, keepdim=True) for part in sums))  # type: ignore[arg-type]
    return sums


class _SoftmaxSums(torch.autograd.Function):
    """The sums for softmax, with a closed-form backward and no one-hot copy of the target.

    Only the logits and the class numbers are kept; the softmax is computed again in backward. The loop over
    classes costs no more than the softmax, and unlike a scatter its sums do not depend on the order in which a
    GPU's threads finish.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, classes: Tensor, valid: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        log_probabilities = logits.log_softmax(1)
        surprise = -log_probabilities.gather(1, classes.unsqueeze(1)).squeeze(1)
        probabilities = log_probabilities.exp_()
        if valid is not None:
            probabilities.mul_(valid.unsqueeze(1))
        at_own, small = torch.exp(-surprise), classes.to(torch.int16)
        both, true, surprises = (logits.new_empty(logits.shape[:2]) for _ in range(3))
        for number in range(logits.shape[1]):
            inside = (small == number if valid is None else (small == number) & valid).to(logits.dtype)
            both[:, number] = (at_own * inside).sum(-1)
            surprises[:, number] = (surprise * inside).sum(-1)
            true[:, number] = inside.sum(-1)
        ctx.save_for_backward(logits, small, valid)
        ctx.mark_non_differentiable(true)
        return both, probabilities.sum(-1), true, surprises

    @staticmethod
    def backward(
        ctx: Any, grad_both: Tensor, grad_predicted: Tensor, _grad_true: Tensor, grad_surprise: Tensor
    ) -> tuple[Tensor, None, None]:
        logits, classes, valid = ctx.saved_tensors
        classes = classes.long()
        probabilities = logits.softmax(1)
        # d/dp of a voxel is grad_predicted, and grad_both besides for its own class; then through the softmax. With
        # respect to its own logit -log p has the derivative p - 1, and p with respect to the others.
        own = classes.unsqueeze(1)
        at_own = probabilities.gather(1, own) * grad_both.gather(1, classes).unsqueeze(1)
        at_own -= grad_surprise.gather(1, classes).unsqueeze(1)
        mean = (probabilities * grad_predicted.unsqueeze(-1)).sum(1, keepdim=True) + at_own
        gradient = probabilities.mul_(grad_predicted.unsqueeze(-1) - mean).scatter_add_(1, own, at_own)
        if valid is not None:
            gradient.mul_(valid.unsqueeze(1))
        return gradient, None, None
