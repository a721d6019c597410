"""A preset, a patch and a dataset's labels in, the recipe of one configuration out."""

from collections.abc import Sequence
from typing import NamedTuple

from autoseg.augmentation.policies import POLICIES
from autoseg.planning.imbalance import adapt_to_imbalance
from autoseg.planning.presets import Orientation, Preset
from autoseg.planning.symmetry import left_right_pairs
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.geometry import IntTriple
from autoseg.records.labels import LabelScheme
from autoseg.records.recipe import Mirroring, Recipe

_STORED_X = 2
"""Position of the left-right axis in canonical arrays (S A R), before `transpose`."""


class Planned(NamedTuple):
    """A recipe and why it is so."""

    recipe: Recipe
    reasons: dict[str, str]
    """Field of the recipe -> rule."""


def plan_recipe(
    preset: Preset,
    patch_size: Sequence[int],
    labels: LabelScheme,
    fingerprint: Fingerprint,
    orientation: Orientation,
    transpose: IntTriple,
) -> Planned:
    """The preset's recipe with augmentation for this patch, mirroring for these labels, and imbalance answered."""
    is_2d = len(patch_size) == 2
    reasons: dict[str, str] = {}
    mirroring = Mirroring(axes=(), in_prediction=False)
    if preset.mirrors:
        mirroring = Mirroring(axes=(1, 2) if is_2d else (0, 1, 2))
        if preset.plans_imbalance and orientation == "canonical":
            mirroring, reason = _with_sides(mirroring, labels, transpose.index(_STORED_X))
            reasons.update({"mirroring": reason} if reason else {})
    augmentation = POLICIES[preset.augmentation](is_2d, patch_size)
    recipe = preset.recipe.model_copy(update={"augmentation": augmentation, "mirroring": mirroring})
    if preset.plans_imbalance:
        recipe, found = adapt_to_imbalance(recipe, labels, fingerprint)
        reasons.update(found)
    return Planned(recipe, reasons)


def _with_sides(mirroring: Mirroring, labels: LabelScheme, axis: int) -> tuple[Mirroring, str]:
    """`mirroring` that exchanges left and right classes when it flips `axis`, and the reason (empty: no change)."""
    pairs = left_right_pairs(labels.class_names)
    if not pairs or axis not in mirroring.axes:
        return mirroring, ""
    names = ", ".join(f"{labels.class_names[a]}/{labels.class_names[b]}" for a, b in pairs)
    if not _regions_closed(labels, pairs):
        axes = tuple(a for a in mirroring.axes if a != axis)
        return mirroring.model_copy(
            update={"axes": axes}
        ), f"no flip across left and right: a region holds one of {names}"
    swapped = mirroring.model_copy(update={"swap_axis": axis, "swap_pairs": pairs})
    return swapped, f"flips across left and right exchange {names}"


def _regions_closed(labels: LabelScheme, pairs: Sequence[tuple[int, int]]) -> bool:
    """Whether every region stays a region of the scheme when the pairs are exchanged (true without regions)."""
    other = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
    known = {frozenset(region.members) for region in labels.regions}
    return all(frozenset(other.get(m, m) for m in region.members) in known for region in labels.regions)
