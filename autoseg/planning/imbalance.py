"""Class statistics of a fingerprint in; sampling and loss that are adapted to rare and tiny classes out.

nnU-Net draws the class of a foreground patch uniformly and weighs all classes alike, whatever the fingerprint. Here
three things are decided by it: how often a patch is centred on foreground, which class it is centred on, and how much
an error costs in the cross-entropy. (Soft Dice is already a mean over classes.) All factors are roots and bounded:
inverse frequencies themselves would give a class of ten voxels every patch.
"""

import math
from statistics import median
from typing import NamedTuple

from autoseg.records.fingerprint import Fingerprint
from autoseg.records.labels import LabelScheme
from autoseg.records.recipe import Recipe

IMBALANCED_FROM = 10.0
"""Voxels per case of the commonest over those of the rarest target, from which on classes are weighed."""

SAMPLING_BOUNDS = (0.5, 4.0)
"""Least and largest weight for drawing a target."""

LOSS_BOUNDS = (1.0, 2.0)
"""Least and largest factor of a class in the cross-entropy; none is below 1, so nothing common is unlearned."""

FOREGROUND_FRACTIONS = ((0.001, 0.67), (0.01, 0.5))
"""(Median share of foreground voxels in an image, share of patches centred on foreground below it), rarest first."""


class Adapted(NamedTuple):
    """A recipe, and why it differs from the preset's."""

    recipe: Recipe
    reasons: dict[str, str]
    """Field of the recipe -> the rule that set it, with its numbers."""


def adapt_to_imbalance(recipe: Recipe, labels: LabelScheme, fingerprint: Fingerprint) -> Adapted:
    """Set foreground fraction, sampling weights and cross-entropy weights by how rare and small the classes are.

    Args:
        recipe: the preset's.
        labels: scheme with the targets.
        fingerprint: its class statistics decide; without any (nnU-Net's has none) the recipe stays as it is.
    """
    reasons: dict[str, str] = {}
    sampling, loss = recipe.sampling, recipe.loss
    share = _median_foreground_share(fingerprint)
    for below, fraction in FOREGROUND_FRACTIONS:
        if share is not None and share < below:
            # nnU-Net's rounding makes one of two samples out of 0.33, 0.5 and 0.67 alike.
            sampling = sampling.model_copy(update={"foreground_fraction": fraction, "rounding": "probabilistic"})
            reasons["sampling.foreground_fraction"] = (
                f"{fraction} instead of 0.33: the median image has {share:.2g} foreground, less than {below:g}"
            )
            break
    voxels = _voxels_per_case(labels, fingerprint)
    present = [v for v in voxels if v > 0]
    if len(present) > 1 and max(present) / min(present) >= IMBALANCED_FROM:
        weights = tuple(_weight(v, median(present)) for v in voxels)
        sampling = sampling.model_copy(update={"class_weights": weights})
        ratio = f"the commonest target has {max(present) / min(present):.0f} times the voxels of the rarest"
        reasons["sampling.class_weights"] = (
            f"sqrt(median / own voxels per case), bounded to {SAMPLING_BOUNDS}: {ratio} (from {IMBALANCED_FROM:g})"
        )
        background = () if labels.has_regions else (1.0,)
        factors = background + tuple(round(_bounded(math.sqrt(w), LOSS_BOUNDS), 2) for w in weights)
        loss = tuple(
            term.model_copy(update={"class_weights": factors}) if term.name == "cross_entropy" else term
            for term in loss
        )
        reasons["loss"] = f"cross-entropy: sqrt of the sampling weights, bounded to {LOSS_BOUNDS}: {ratio}"
    return Adapted(recipe.model_copy(update={"sampling": sampling, "loss": loss}), reasons)


def _median_foreground_share(fingerprint: Fingerprint) -> float | None:
    """Median over cases of foreground voxels over all voxels of the image; None where nothing was counted."""
    shares = [sum(case.voxels_per_class[1:]) / math.prod(case.shape) for case in fingerprint.cases.values()]
    return median(shares) if shares else None


def _voxels_per_case(labels: LabelScheme, fingerprint: Fingerprint) -> list[float]:
    """Mean voxels of each target over all cases, those without it included, in units of the whole foreground.

    Rare is a target that is small or seldom there: both show in this number.
    """
    statistics = fingerprint.class_imbalance
    if len(statistics) != labels.num_classes - 1:
        return []
    return [sum(statistics[m - 1].fraction_of_foreground for m in target.members) for target in labels.targets]


def _weight(voxels: float, middle: float) -> float:
    return round(_bounded(math.sqrt(middle / voxels), SAMPLING_BOUNDS), 2) if voxels > 0 else 1.0


def _bounded(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])
