"""Logits and a label map in, the convex surrogate of 1 - Jaccard out: Lovasz-Softmax, and the Lovasz hinge.

Berman, Rannen Triki and Blaschko, 2018 (arXiv:1705.08790): a class's voxels are sorted by their error, and each
error counts by how much 1 - Jaccard would grow if its voxel were got wrong after all worse ones. From 0 (perfect).

Both take logits `N H Z Y X` (float32 or float64), targets `N Z Y X` of internal class numbers and a
`LossContext`. As in the authors' code the mean is over the classes that a sample holds, background included
(softmax), or over all regions, of which an absent one counts its worst error. Class weights weigh this mean;
`batch_dice` makes one sample of the batch. Ignored voxels take no part.
"""

import torch
from torch import Tensor

from autoseg.losses.targets import LossContext, compared, head_weights


def lovasz(logits: Tensor, target: Tensor, context: LossContext) -> Tensor:
    """Errors are |truth - probability|: at most 1 (the paper's Lovasz-Softmax; with regions of sigmoids)."""
    probabilities, truth, valid = compared(logits, target, context)
    return _mean((truth.to(probabilities) - probabilities).abs(), truth, valid, context)


def lovasz_hinge(logits: Tensor, target: Tensor, context: LossContext) -> Tensor:
    """Errors are 1 - margin where that is above 0, so that certain mistakes cost without bound.

    The margin is the region's logit, its sign turned outside the truth (the paper's binary form). With softmax it is a
    class's log-odds against all others.
    """
    _, truth, valid = compared(logits, target, context)
    odds = logits if context.labels.has_regions else _log_odds(logits)
    return _mean(1 - torch.where(truth, odds, -odds), truth, valid, context)


def _log_odds(logits: Tensor) -> Tensor:
    # Cut and joined, since a list as index would be copied to a GPU, and the copy waited for.
    pairs = ((logits[:, :head], logits[:, head + 1 :]) for head in range(logits.shape[1]))
    others = [torch.cat(pair, 1).logsumexp(1) for pair in pairs]
    return logits - torch.stack(others, 1)


def _mean(errors: Tensor, truth: Tensor, valid: Tensor | None, context: LossContext) -> Tensor:
    if valid is not None:
        errors = torch.where(valid, errors, -1)  # sorted behind all that count, and worth nothing
    errors, truth = errors.flatten(2), truth.flatten(2)
    if context.batch_dice:
        errors, truth = (part.movedim(1, 0).flatten(1)[None] for part in (errors, truth))
    losses, weights = _extension(errors, truth), head_weights(context, errors)
    if not context.labels.has_regions:
        weights = weights * truth.any(-1)
    weights = weights.expand_as(losses)
    total = weights.sum(1)
    return ((losses * weights).sum(1) / torch.where(total > 0, total, 1)).mean()


def _extension(errors: Tensor, truth: Tensor) -> Tensor:
    """Lovasz extension of 1 - Jaccard at the errors: N H from N H V."""
    worst, order = errors.sort(dim=-1, descending=True)
    with torch.no_grad():
        inside = truth.gather(-1, order)
        size = inside.sum(-1, keepdim=True)
        # Counts as whole numbers: exact for any patch.
        kept, union = size - inside.cumsum(-1), size + (~inside).cumsum(-1)
        loss = 1 - kept.to(errors.dtype) / union
        growth = loss.diff(dim=-1, prepend=torch.zeros_like(loss[..., :1]))
    return (worst.relu() * growth).sum(-1)
