"""A recipe and a label scheme in, the training loss out: a function of a network's outputs and the labels.

The one table of losses. Installed packages add some through Python entry points of group `autoseg.losses`,
each a function `(logits N H Z Y X, target N Z Y X, context: LossContext, *, parameters) -> scalar` of float32 logits;
a name in the table cannot be replaced. Compound losses are sums of terms, in the recipe.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from autoseg.errors import UsageError
from autoseg.extensions import find_function
from autoseg.losses.distance import boundary, distance_penalised_cross_entropy, hausdorff
from autoseg.losses.exponential import exponential_logarithmic
from autoseg.losses.lovasz import lovasz, lovasz_hinge
from autoseg.losses.overlap import (
    asymmetric_similarity,
    focal_tversky,
    generalised_dice,
    jaccard,
    penalty_generalised_dice,
    sensitivity_specificity,
    soft_dice,
    tversky,
)
from autoseg.losses.parameters import with_parameters
from autoseg.losses.pixel import cross_entropy, focal, top_k_cross_entropy
from autoseg.losses.skeleton import cl_dice
from autoseg.losses.targets import LossContext, downsample
from autoseg.records.labels import LabelScheme
from autoseg.records.recipe import LossTerm, Recipe

Loss = Callable[..., Tensor]
TrainingLoss = Callable[[Sequence[Tensor], Tensor], Tensor]

ENTRY_POINTS = "autoseg.losses"

LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "focal": focal,
    "top_k_cross_entropy": top_k_cross_entropy,
    "distance_penalised_cross_entropy": distance_penalised_cross_entropy,
    "soft_dice": soft_dice,
    "generalised_dice": generalised_dice,
    "penalty_generalised_dice": penalty_generalised_dice,
    "jaccard": jaccard,
    "tversky": tversky,
    "focal_tversky": focal_tversky,
    "asymmetric_similarity": asymmetric_similarity,
    "sensitivity_specificity": sensitivity_specificity,
    "exponential_logarithmic": exponential_logarithmic,
    "lovasz": lovasz,
    "lovasz_hinge": lovasz_hinge,
    "boundary": boundary,
    "hausdorff": hausdorff,
    "cl_dice": cl_dice,
}


def build_loss(recipe: Recipe, labels: LabelScheme, batch_dice: bool) -> TrainingLoss:
    """Build the weighted sum of the recipe's terms, over all outputs of a network if it has deep supervision.

    The outputs, finest first, weigh 1, 1/2, 1/4, ... normalised to sum 1 (nnU-Net's; its coarsest output, of
    weight 0, is not among them: see `networks`). Without deep supervision the finest counts alone.

    Args:
        recipe: gives the terms, their weights and `deep_supervision`.
        labels: softmax or sigmoid, ignore label.
        batch_dice: whether overlap terms sum over the batch first.

    Returns:
        Function of logits (a sequence of N H Z Y X of any floating type, finest first) and labels (N Z Y X of
        internal class numbers, any integer type); its scalar is float32 (float64 of such logits).

    Raises:
        UsageError: no such term (the known ones are named), none at all, or class weights or parameters that do not
            fit.
    """
    if not recipe.loss:
        raise UsageError("The recipe's loss has no term: name at least one in `recipe.loss`.")
    terms = [(term.weight, _function(term), _context(term, labels, batch_dice)) for term in recipe.loss]

    def loss(outputs: Sequence[Tensor], target: Tensor) -> Tensor:
        used = outputs if recipe.deep_supervision else outputs[:1]
        norm = sum(0.5**i for i in range(len(used)))
        parts = []
        for i, output in enumerate(used):
            logits = output.to(torch.promote_types(output.dtype, torch.float32)).contiguous()
            coarse = downsample(target, tuple(output.shape[2:]))
            shared: dict[str, Any] = {}
            parts += [
                0.5**i / norm * weight * term(logits, coarse, replace(context, shared=shared))
                for weight, term, context in terms
            ]
        return torch.stack(parts).sum()

    return loss


def _function(term: LossTerm) -> Loss:
    found = find_function(term.name, LOSSES, ENTRY_POINTS, "recipe.loss")
    return with_parameters(term.name, found, term.parameters)


def _context(term: LossTerm, labels: LabelScheme, batch_dice: bool) -> LossContext:
    weights = term.class_weights
    if weights is not None:
        if len(weights) != labels.num_heads or min(weights) < 0:
            raise UsageError(
                f"class_weights of the loss {term.name!r} must be {labels.num_heads} numbers from 0 up, one a "
                f"{'region' if labels.has_regions else 'class, background first'}; got {list(weights)}."
            )
        if sum(weights[0 if labels.has_regions else 1 :]) <= 0:
            raise UsageError(f"class_weights of the loss {term.name!r} must be above 0 for some foreground class.")
    return LossContext(labels=labels, batch_dice=batch_dice, class_weights=weights)
