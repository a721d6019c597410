"""Networks and an image on the network's grid in, averaged logits of the whole image and how far mirrorings differ out.

nnU-Net's rule: zero padding up to the patch, tiles half a patch apart, logits weighted by a Gaussian of sigma =
patch / 8 and averaged over all mirrorings of the axes trained with, and over the networks (folds).

A job is one tile in one mirroring. Jobs are batched whatever their tile, so that a small image (one tile, eight
mirrorings) and the slices of a 2-D configuration fill the device alike. One accumulator in float32 is all that
grows with the image.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from autoseg.errors import ModelError
from autoseg.inference.model import previous_channels
from autoseg.records.geometry import IntTriple
from autoseg.records.labels import LabelScheme
from autoseg.records.recipe import Mirroring, Recipe
from autoseg.spatial.tiles import gaussian_weights, tile_starts

Flip = tuple[int, ...]
Job = tuple[IntTriple, Flip]

# Voxels in one batch: enough to fill a GPU; on a CPU larger batches only spill the caches.
_VOXELS_PER_BATCH = {"cuda": 1 << 22, "cpu": 1 << 18}
_MAX_TILES_PER_BATCH = 64
# Share of a GPU's free memory that the accumulator may take; activations need the rest.
_MAX_ACCUMULATOR_SHARE = 0.5


class Answer(NamedTuple):
    """What networks say about a whole image."""

    logits: Tensor
    """`H Z Y X` float32, averaged over tiles, mirrorings and networks."""
    disagreement: Tensor | None
    """`Z Y X` float32 from 0 to 1: total variation distance between the probabilities of the image as it is and those
    of a mirroring of it, averaged over mirrorings and tiles (regions: the largest difference of one). It costs a
    softmax and shows where the answer hangs by a thread. None: nothing is mirrored."""


def predict_logits(
    networks: Sequence[nn.Module],
    image: Tensor,
    patch_zyx: IntTriple,
    num_heads: int,
    mirroring: Mirroring,
    labels: LabelScheme,
    device: torch.device,
    step: float = 0.5,
    tile_batch: int | None = None,
    precision: str = "float32",
    has_previous: bool = False,
) -> Answer:
    """Logits of a whole image, averaged over tiles, mirrorings and networks; and how far the mirrorings differ.

    Args:
        networks: in eval mode, on `device`; each returns a tuple whose first entry is `N H Z Y X`.
        image: `C Z Y X` float32 on the network's grid, on any device; see `has_previous`.
        patch_zyx: tile; `(1, y, x)` for 2-D networks.
        num_heads: channels of the networks' output.
        mirroring: axes to mirror, and the classes a flip exchanges.
        labels: scheme, to know which heads a left-right flip exchanges.
        device: where networks run.
        step: distance of tiles as a share of the patch.
        tile_batch: jobs a forward pass; None: by the patch's size.
        precision: arithmetic inside the networks: `float32` (labels then agree between devices but for ties),
            `bfloat16` or `float16`.
        has_previous: whether the image's last channel holds the previous stage's class numbers; networks get one
            channel a foreground class instead, made tile by tile.

    Returns:
        Logits and disagreement on `device`, or on the CPU where they would not fit.

    Raises:
        ModelError: an output is not finite, or the regions do not follow the classes that `mirroring` exchanges.
    """
    padded, inner = _pad_to_patch(image, patch_zyx)
    shape = padded.shape[1:]
    starts, flips = tile_starts(shape, patch_zyx, step), mirror_flips(mirroring, patch_zyx)
    jobs: list[Job] = list(itertools.product(starts, flips))
    heads = head_permutation(labels, mirroring.swap_pairs)
    channels = _channel_permutation(len(image) - has_previous, has_previous, labels, mirroring)
    weights = gaussian_weights(patch_zyx).to(device)
    mirrors = len(flips) > 1
    keep_on = _accumulator_device(num_heads + len(padded) + mirrors, shape, device)
    total, source = torch.zeros((num_heads, *shape), device=keep_on), padded.to(keep_on)
    differing = torch.zeros(shape, device=keep_on) if mirrors else None
    unflipped = None
    with torch.inference_mode(), _arithmetic(precision), autocast(device, precision):
        for batch in _batches(jobs, tile_batch or _default_tile_batch(patch_zyx, device)):
            pieces = [_tile(source, start, patch_zyx, labels if has_previous else None) for start, _ in batch]
            flipped = zip(pieces, batch, strict=True)
            tiles = torch.stack([_mirrored(piece, flip, mirroring, channels) for piece, (_, flip) in flipped])
            logits = _sum_of_networks(networks, tiles.to(device))
            for (start, flip), values in zip(batch, logits, strict=True):
                where, turned = _box(start, patch_zyx), _mirrored(values, flip, mirroring, heads)
                total[(slice(None), *where)] += (turned * weights).to(keep_on)
                if differing is None:
                    continue
                found = _probabilities(turned / len(networks), labels)
                if unflipped is None or not flip:  # the jobs of a tile follow one another, this one first
                    unflipped = found
                else:
                    differing[where] += (_distance(found, unflipped, labels) * weights).to(keep_on)
        weight_sum = _weight_sum(starts, weights.to(keep_on), shape)
        total /= weight_sum * (len(networks) * len(flips))
        if differing is not None:
            differing /= weight_sum * (len(flips) - 1)
    # Head by head: the check of all at once would need another accumulator.
    if not torch.stack([torch.isfinite(head).all() for head in total]).all():
        raise ModelError("The network gives values that are not finite: its weights or the image are damaged.")
    return Answer(total[(slice(None), *inner)], None if differing is None else differing[inner])


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


def prediction_precision(recipe: Recipe, device: torch.device) -> str:
    """Arithmetic in which a model predicts held-out and new cases alike: what is selected is what will be used.

    Training may round for speed, but `auto` is exact here, so that segmentations do not depend on the device. On a
    CPU all is float32: float16 is slow there, bfloat16 on most.
    """
    return "float32" if recipe.precision == "auto" or device.type == "cpu" else recipe.precision


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Mixed precision of the given kind, or nothing for `float32`."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype={"bfloat16": torch.bfloat16, "float16": torch.float16}[precision])


def _arithmetic(precision: str) -> AbstractContextManager[object]:
    """For `float32` the full 24 bits: cuDNN would otherwise round to TF32's 11, and labels depend on the device."""
    if precision != "float32":
        return nullcontext()
    flags: AbstractContextManager[object] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return flags


def _pad_to_patch(image: Tensor, patch_zyx: IntTriple) -> tuple[Tensor, tuple[slice, ...]]:
    """The image with zeros around it where it is smaller than the patch, and where it lies in there."""
    missing = [max(0, p - s) for s, p in zip(image.shape[1:], patch_zyx, strict=True)]
    before = [m // 2 for m in missing]
    inner = tuple(slice(b, b + s) for b, s in zip(before, image.shape[1:], strict=True))
    sides = [side for b, m in zip(reversed(before), reversed(missing), strict=True) for side in (b, m - b)]
    return nn.functional.pad(image, sides) if any(missing) else image, inner


def _default_tile_batch(patch_zyx: IntTriple, device: torch.device) -> int:
    voxels = patch_zyx[0] * patch_zyx[1] * patch_zyx[2]
    limit = _VOXELS_PER_BATCH.get(device.type, _VOXELS_PER_BATCH["cpu"])
    return min(max(1, limit // voxels), _MAX_TILES_PER_BATCH)


def _accumulator_device(num_volumes: int, shape: Sequence[int], device: torch.device) -> torch.device:
    """`device` if accumulator and image (and the sum of weights) fit well into its free memory, else the CPU."""
    if device.type != "cuda":
        return device
    needed = 4 * (num_volumes + 1) * shape[0] * shape[1] * shape[2]
    free, _ = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own, to be used again
    return device if needed < _MAX_ACCUMULATOR_SHARE * (free + kept) else torch.device("cpu")


def _batches(jobs: Sequence[Job], size: int) -> Iterator[Sequence[Job]]:
    for start in range(0, len(jobs), size):
        yield jobs[start : start + size]


def _channel_permutation(num_image: int, has_previous: bool, labels: LabelScheme, mirroring: Mirroring) -> list[int]:
    """Input channel that answers for each one after a left-right flip: one-hot channels follow their classes."""
    partner = class_permutation(labels, mirroring.swap_pairs)[1:] if has_previous else []
    return [*range(num_image), *(num_image + other - 1 for other in partner)]


def _box(start: IntTriple, patch_zyx: IntTriple) -> tuple[slice, ...]:
    return tuple(slice(a, a + p) for a, p in zip(start, patch_zyx, strict=True))


def _tile(image: Tensor, start: IntTriple, patch_zyx: IntTriple, labels: LabelScheme | None) -> Tensor:
    """One tile `C Z Y X`; with `labels` its last channel holds class numbers, which become one channel a class."""
    tile = image[(slice(None), *_box(start, patch_zyx))]
    return tile if labels is None else torch.cat([tile[:-1], previous_channels(tile[-1], labels)])


def _mirrored(values: Tensor, flip: Flip, mirroring: Mirroring, exchange: Sequence[int]) -> Tensor:
    """`values` (`C Z Y X` or `H Z Y X`) flipped, its first axis exchanged across left and right; its own inverse."""
    if not flip:
        return values
    flipped = values.flip([axis + 1 for axis in flip])
    swaps = mirroring.swap_axis in flip and list(exchange) != list(range(len(exchange)))
    # Stacked, since a list as index would be copied to a GPU, and the copy waited for.
    return torch.stack([flipped[other] for other in exchange]) if swaps else flipped


def _probabilities(logits: Tensor, labels: LabelScheme) -> Tensor:
    return logits.sigmoid() if labels.has_regions else logits.softmax(0)


def _distance(first: Tensor, second: Tensor, labels: LabelScheme) -> Tensor:
    """Distance `Z Y X` from 0 to 1 between probabilities `H Z Y X`: half the sum of differences, or the largest one."""
    difference = (first - second).abs_()
    return difference.amax(0) if labels.has_regions else difference.sum(0) / 2


def _sum_of_networks(networks: Sequence[nn.Module], tiles: Tensor) -> Tensor:
    """Sum over networks of their finest logits `N H Z Y X`, float32."""
    total: Tensor = networks[0](tiles)[0].float()
    for network in networks[1:]:
        total = total + network(tiles)[0].float()
    return total


def _weight_sum(starts: Sequence[IntTriple], weights: Tensor, shape: Sequence[int]) -> Tensor:
    """Sum `Z Y X` of the tiles' weights."""
    total = torch.zeros(tuple(shape), device=weights.device)
    for start in starts:
        total[_box(start, tuple(weights.shape))] += weights  # type: ignore[arg-type]
    return total
