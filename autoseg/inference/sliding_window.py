"""Networks and an image on the network's grid in, averaged logits of the whole image and how far mirrorings differ out.

nnU-Net's rule: zero padding up to the patch, tiles half a patch apart, logits weighted by a Gaussian of sigma =
patch / 8 and averaged over all mirrorings of the axes trained with, and over the networks (folds).

A job is one tile in one mirroring. Jobs are batched whatever their tile, so that a small image (one tile, eight
mirrorings) and the slices of a 2-D configuration fill the device alike. Tiles come in the order of z, and rows leave as
soon as no later tile touches them. A tile in which every channel has one value (air, padding) is answered from the
last one with these values: the network gives it the same answer in every mirroring.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from autoseg.inference.blending import Blend
from autoseg.inference.memory import choose_layout
from autoseg.inference.mirroring import Flip, channel_permutation, head_permutation, mirror_flips, mirrored
from autoseg.inference.model import previous_channels
from autoseg.inference.padding import PaddedImage
from autoseg.records.geometry import IntTriple
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import Configuration, TileWeights
from autoseg.records.recipe import Mirroring, Recipe
from autoseg.spatial.tiles import TILE_WEIGHTS, tile_starts

_SUMS: dict[TileWeights, torch.dtype] = {"symmetric": torch.float32, "nnunet": torch.float16}
"""Type in which tiles are added up."""

Constant = tuple[float, ...]


class Job(NamedTuple):
    """One tile in one mirroring."""

    start: IntTriple
    flip: Flip
    constant: Constant | None
    """The one value of each channel; None: the tile is not constant, or mirroring would change it."""
    runs: bool
    """Whether the networks must be asked; else the last constant tile has the answer."""


@dataclass(frozen=True)
class SlidingWindow:
    """How an image is cut into tiles, and how the networks' answers about them are averaged."""

    patch_zyx: IntTriple
    """Tile; `(1, y, x)` for 2-D networks."""
    labels: LabelScheme
    """Of the networks' heads; tells which of them a left-right flip exchanges."""
    mirroring: Mirroring
    """Axes to mirror, and the classes a flip exchanges."""
    step: float = 0.5
    """Distance of tiles as a share of the patch."""
    tile_batch: int | None = None
    """Jobs a forward pass; None: by the patch's size and the free memory."""
    precision: str = "float32"
    """Arithmetic inside the networks: `float32` (labels then agree between devices but for ties), `bfloat16` or
    `float16`."""
    has_previous: bool = False
    """Whether the image's last channel holds the previous stage's class numbers; networks get one channel a foreground
    class instead, made tile by tile."""
    tile_weights: TileWeights = "symmetric"
    """Key of `TILE_WEIGHTS`, by which tiles are averaged."""


@dataclass(frozen=True)
class _Run:
    """A sliding window over one image: everything that stays the same for all its tiles."""

    window: SlidingWindow
    networks: Sequence[nn.Module]
    source: Tensor
    """`C Z Y X`, padded, where tiles are cut."""
    flips: Sequence[Flip]
    """Of every tile, in this order."""
    channels: Sequence[int]
    """Input channel that answers for each one after a left-right flip."""
    heads: Sequence[int]
    device: torch.device


def configured_window(
    configuration: Configuration, labels: LabelScheme, device: torch.device, *, has_previous: bool, step: float = 0.5
) -> SlidingWindow:
    """The sliding window in which a configuration predicts on `device`, held-out and new cases alike."""
    return SlidingWindow(
        patch_zyx=configuration.patch_zyx,
        labels=labels,
        mirroring=configuration.recipe.mirroring,
        step=step,
        precision=prediction_precision(configuration.recipe, device),
        has_previous=has_previous,
        tile_weights=configuration.tile_weights,
    )


def predict_rows(
    networks: Sequence[nn.Module], image: Tensor | PaddedImage, window: SlidingWindow, device: torch.device
) -> Iterator[Tensor]:
    """Logits of an image, averaged over tiles, mirrorings and networks, row by row along z; how far mirrorings differ.

    Args:
        networks: in eval mode, on `device`; each returns a tuple whose first entry is `N H Z Y X`.
        image: `C Z Y X` float32 on the network's grid, on any device; see `SlidingWindow.has_previous`. Padded to the
            patch beforehand, several calls share what is copied to a device.
        window: tiles, mirroring, arithmetic.
        device: where networks run.

    Yields:
        Consecutive rows `H n Y X` in float32 on `device`, or on the CPU where they would not fit; where something is
        mirrored, one channel more, the disagreement from 0 to 1: total variation distance between the probabilities of
        the image as it is and those of a mirroring of it, averaged over mirrorings and tiles (regions: the largest
        difference of one). It costs a softmax and shows where the answer hangs by a thread.

    Raises:
        ModelError: an output is not finite, or the regions do not follow the classes that `mirroring` exchanges.
        MemoryError: not even the rows being summed fit into the memory.
    """
    patch_zyx, labels, num_heads = window.patch_zyx, window.labels, window.labels.num_heads
    padded = image if isinstance(image, PaddedImage) else PaddedImage(image, patch_zyx)
    (inner_z, inner_y, inner_x), shape = padded.inner, padded.shape
    flips = mirror_flips(window.mirroring, patch_zyx)
    # nnU-Net rounds the sums of each network by itself, and then their mean.
    groups = [networks] if window.tile_weights == "symmetric" else [[network] for network in networks]
    channels = num_heads + (len(flips) > 1)
    to_be_copied = 0 if padded.lies_on(device) else padded.num_channels
    layout = choose_layout(to_be_copied, channels * len(groups), shape, patch_zyx, device)
    num_image_channels = padded.num_channels - window.has_previous
    run = _Run(
        window=window,
        networks=networks,
        source=padded.on(layout.blend_on),
        flips=flips,
        channels=channel_permutation(num_image_channels, window.has_previous, labels, window.mirroring),
        heads=head_permutation(labels, window.mirroring.swap_pairs),
        device=device,
    )
    starts = sorted(tile_starts(shape, patch_zyx, window.step), key=lambda start: start[0])
    weights = TILE_WEIGHTS[window.tile_weights](patch_zyx).to(layout.blend_on)
    size = window.tile_batch or layout.tile_batch
    streams = []
    for group in groups:
        counts = [len(group) * len(flips)] * num_heads + [len(flips) - 1] * (len(flips) > 1)
        blend = Blend(counts, starts, shape, weights, _SUMS[window.tile_weights])
        streams.append(_blended_rows(replace(run, networks=group), blend, starts, size))
    for together in zip(*streams, strict=True):
        first, rows = together[0]
        if len(together) > 1:
            rows = sum((other for _, other in together[1:]), start=rows) / len(together)
        inside = slice(max(inner_z.start - first, 0), min(inner_z.stop - first, rows.shape[1]))
        yield rows[:, inside, inner_y, inner_x].float()


def _blended_rows(run: _Run, blend: Blend, starts: Sequence[IntTriple], size: int) -> Iterator[tuple[int, Tensor]]:
    """Finished rows of the padded volume, in the type of the sums: their start and `C n Y X`."""
    known = unflipped = None
    precision = run.window.precision
    for batch in _batches(run, starts, size):
        # Entered anew for each batch: between two of them the caller's code runs.
        with torch.inference_mode(), _arithmetic(precision), autocast(run.device, precision):
            known, unflipped = _add_batch(run, batch, blend, known, unflipped)
            is_last = batch[-1].start == starts[-1] and batch[-1].flip == run.flips[-1]
            done = blend.take(blend.shape[0] if is_last else batch[-1].start[0])
        yield from done


def _batches(run: _Run, starts: Iterable[IntTriple], size: int) -> Iterator[list[Job]]:
    """All jobs in order, at a time so many that `size` of them are asked of the networks."""
    batch: list[Job] = []
    num_runs, last = 0, None
    for start in starts:
        constant = _constant(run, start)
        for flip in run.flips:
            runs = constant is None or constant != last
            batch.append(Job(start, flip, constant, runs))
            num_runs, last = num_runs + runs, last if constant is None else constant
            if num_runs == size or len(batch) == 8 * size:
                yield batch
                batch, num_runs = [], 0
    if batch:
        yield batch


def _constant(run: _Run, start: IntTriple) -> Constant | None:
    """The one value of each channel of a tile, if there is but one and no mirroring changes it."""
    tile = run.source[(slice(None), *_box(start, run.window.patch_zyx))].flatten(1)
    if (tile[:, 0] != tile[:, -1]).any():  # nearly always: spares a look at every voxel
        return None
    low, high = tile.aminmax(dim=1)
    if not torch.equal(low, high) or (run.window.has_previous and low[-1] != 0):  # a class may be exchanged for another
        return None
    return tuple(low.tolist())


def _add_batch(
    run: _Run, batch: Sequence[Job], blend: Blend, known: Tensor | None, unflipped: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Ask the networks and add their answers up; the last constant tile's and the last unflipped answer come back."""
    answers = iter(_ask(run, [job for job in batch if job.runs]))
    mirrors = len(blend.counts) > len(run.heads)
    for job in batch:
        values = known if not job.runs else next(answers)
        assert values is not None, "the first constant tile is asked of the networks"
        if job.runs and job.constant is not None:
            known = values.clone()  # a view would keep its whole batch
        turned = mirrored(values, job.flip, run.window.mirroring, run.heads)
        blend.add(turned)
        if mirrors:
            found = _probabilities(turned / len(run.networks), run.window.labels)
            if unflipped is None or not job.flip:  # the jobs of a tile follow one another, this one first
                unflipped = found
            else:
                blend.add(probability_distance(found, unflipped, run.window.labels)[None], len(run.heads))
        if job.flip == run.flips[-1]:
            blend.finish(job.start)
    return known, unflipped


def _ask(run: _Run, jobs: Sequence[Job]) -> Tensor | tuple[Tensor, ...]:
    """Sum of the networks' logits `N H Z Y X` for the tiles of some jobs, each in its mirroring."""
    if not jobs:
        return ()
    labels = run.window.labels if run.window.has_previous else None
    pieces = [_tile(run.source, job.start, run.window.patch_zyx, labels) for job in jobs]
    tiles = [mirrored(p, job.flip, run.window.mirroring, run.channels) for p, job in zip(pieces, jobs, strict=True)]
    return _sum_of_networks(run.networks, torch.stack(tiles).to(run.device))


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


def _box(start: IntTriple, patch_zyx: IntTriple) -> tuple[slice, ...]:
    return tuple(slice(a, a + p) for a, p in zip(start, patch_zyx, strict=True))


def _tile(image: Tensor, start: IntTriple, patch_zyx: IntTriple, labels: LabelScheme | None) -> Tensor:
    """One tile `C Z Y X`; with `labels` its last channel holds class numbers, which become one channel a class."""
    tile = image[(slice(None), *_box(start, patch_zyx))]
    return tile if labels is None else torch.cat([tile[:-1], previous_channels(tile[-1], labels)])


def _probabilities(logits: Tensor, labels: LabelScheme) -> Tensor:
    return logits.sigmoid() if labels.has_regions else logits.softmax(0)


def probability_distance(first: Tensor, second: Tensor, labels: LabelScheme) -> Tensor:
    """Distance `Z Y X` from 0 to 1 between probabilities `H Z Y X`: half the sum of differences, or the largest one."""
    difference = (first - second).abs_()
    return difference.amax(0) if labels.has_regions else difference.sum(0) / 2


def _sum_of_networks(networks: Sequence[nn.Module], tiles: Tensor) -> Tensor:
    """Sum over networks of their finest logits `N H Z Y X`, float32."""
    total: Tensor = networks[0](tiles)[0].float()
    for network in networks[1:]:
        total = total + network(tiles)[0].float()
    return total
