"""The axes that a model may be mirrored in, the flips to ask it in and what each of them exchanges out.

Across the left-right axis a left organ becomes a right one. So a flip exchanges the classes of the pairs that the plan
names, the heads that answer for them, and the channels that show them to the second stage of a cascade.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from autoseg.errors import ModelError
from autoseg.records.geometry import IntTriple
from autoseg.records.labels import LabelScheme
from autoseg.records.recipe import Mirroring

Flip = tuple[int, ...]
"""Axes of `Z Y X` that are turned around."""


def mirror_flips(mirroring: Mirroring, patch_zyx: IntTriple) -> list[Flip]:
    """All combinations of the axes to mirror, the unflipped one first; axes of one voxel cannot be mirrored."""
    axes = [a for a in sorted(mirroring.axes) if patch_zyx[a] > 1] if mirroring.in_prediction else []
    return [flip for count in range(len(axes) + 1) for flip in itertools.combinations(axes, count)]


def head_permutation(labels: LabelScheme, swap_pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Head that answers for each head after a flip across the left-right axis.

    Raises:
        ModelError: a class of the pairs is not in the scheme, or regions are predicted and the mirror image of one
            is not among them.
    """
    partner = class_permutation(labels, swap_pairs)
    if not labels.has_regions:
        return partner
    members = [frozenset(region.members) for region in labels.regions]
    heads = []
    for region in labels.regions:
        mirrored = frozenset(partner[m] for m in region.members)
        if mirrored not in members:
            raise ModelError(
                f"mirroring.swap_pairs {list(swap_pairs)} turn region {region.name!r} into classes {sorted(mirrored)}, "
                "which are no region: remove the pairs or the left-right axis from the plan's mirroring."
            )
        heads.append(members.index(mirrored))
    return heads


def class_permutation(labels: LabelScheme, swap_pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Internal class that each class becomes across the left-right axis; errors as `head_permutation`."""
    partner = list(range(labels.num_classes))
    if any(number >= labels.num_classes for pair in swap_pairs for number in pair):
        raise ModelError(
            f"mirroring.swap_pairs {list(swap_pairs)} name classes beyond {labels.num_classes - 1}, the last one: "
            "correct them in the plan."
        )
    for left, right in swap_pairs:
        partner[left], partner[right] = right, left
    return partner


def channel_permutation(num_image: int, has_previous: bool, labels: LabelScheme, mirroring: Mirroring) -> list[int]:
    """Input channel that answers for each one after a left-right flip: one-hot channels follow their classes."""
    partner = class_permutation(labels, mirroring.swap_pairs)[1:] if has_previous else []
    return [*range(num_image), *(num_image + other - 1 for other in partner)]


def mirrored(values: Tensor, flip: Flip, mirroring: Mirroring, exchange: Sequence[int]) -> Tensor:
    """`values` (`C Z Y X` or `H Z Y X`) flipped, its first axis exchanged across left and right; its own inverse."""
    if not flip:
        return values
    flipped = values.flip([axis + 1 for axis in flip])
    swaps = mirroring.swap_axis in flip and list(exchange) != list(range(len(exchange)))
    # Stacked, since a list as index would be copied to a GPU, and the copy waited for.
    return torch.stack([flipped[other] for other in exchange]) if swaps else flipped
