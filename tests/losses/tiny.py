"""Tiny schemes, logits and targets, for which losses can be computed by hand."""

import torch
from torch import Tensor

from autoseg.losses.targets import LossContext
from autoseg.records.labels import LabelScheme, Target


def make_labels(num_classes: int = 3, ignore: bool = False, regions: tuple[tuple[int, ...], ...] = ()) -> LabelScheme:
    return LabelScheme(
        class_names=tuple(f"c{i}" for i in range(num_classes)),
        class_values=tuple(range(num_classes)),
        ignore_value=num_classes if ignore else None,
        regions=tuple(Target(name=f"r{i}", members=m) for i, m in enumerate(regions)),
        region_order=tuple(m[0] for m in regions),
        num_entries=num_classes + ignore,
    )


REGIONS = ((1, 2), (2,))


def logits_of(probabilities: list[list[float]]) -> Tensor:
    """One sample of voxels in a row, from the probabilities of each class at each voxel: 1 H 1 1 V."""
    return torch.tensor(probabilities, dtype=torch.float64).log().T[None, :, None, None]


def row(*classes: int) -> Tensor:
    return torch.tensor(classes)[None, None, None]


def region_logits_of(probabilities: list[list[float]]) -> Tensor:
    """One sample of voxels in a row, from the probabilities of each region at each voxel: 1 H 1 1 V."""
    return torch.tensor(probabilities, dtype=torch.float64).logit().T[None, :, None, None]


def context_of(
    num_classes: int = 2,
    ignore: bool = False,
    regions: tuple[tuple[int, ...], ...] = (),
    batch_dice: bool = False,
    class_weights: tuple[float, ...] | None = None,
) -> LossContext:
    return LossContext(make_labels(num_classes, ignore, regions), batch_dice, class_weights)
