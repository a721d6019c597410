"""Logits or probabilities of all heads in, the class of each voxel out.

One head after another is resampled and compared with the best so far: memory does not grow with the classes, and it is
faster than an argmax over the class axis. Heads that cannot win are not even resampled: what lies between voxels has
a value between theirs, so in one column of a strip (a few rows z and y, one x) a head whose largest value is below
another's smallest is never the answer. Mostly one head is far above all others and nothing is resampled; where
structures meet, only those that meet are. Labels are the same with and without that. Strips are decided by several
threads (`spatial.workers`), and labels are the same whoever decides them.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoseg.records.geometry import IntTriple
from autoseg.records.labels import LabelScheme
from autoseg.spatial.linear import Scratch, Window, largest_strip
from autoseg.spatial.workers import Workers, num_workers

_ROUNDING = 1e-5
"""More than float32 can be off in a value between voxels, relative to the largest of these: a difference of two heads
and three axes of at most four roundings each make 26 of 6e-8, 1.6e-6. Heads closer than that are compared."""


def logits_to_labels(values: Tensor, labels: LabelScheme, threshold: float) -> Tensor:
    """The class of each voxel.

    Args:
        values: logits or probabilities `H z y x`.
        labels: scheme; without regions the head with the largest value wins, the first of equals; with regions the
            heads above `threshold` are painted in `region_order`, later over earlier.
        threshold: 0 for logits, 0.5 for probabilities.

    Returns:
        `z y x` int16 internal class numbers.
    """
    depth, height = values.shape[1:3]
    whole = Window(slice(0, depth), slice(0, height), (values,), (None, None, None))
    found = torch.empty(whole.shape, dtype=torch.int16, device=values.device)

    def decide(strip: Window) -> None:
        found[:, strip.down] = _decided(strip, labels, threshold, workers.scratch)

    with Workers() as workers:
        workers.each(decide, whole.strips(), whole.device)
    return found


def logits_to_labels_into(
    target: npt.NDArray[np.int16], window: Window, labels: LabelScheme, threshold: float, workers: Workers
) -> None:
    """Write what `logits_to_labels` says of a window to its place in the whole `Z Y X`.

    Args:
        target: the whole volume.
        window: some of it, from which one head at a time is resampled; channels after the heads are not looked at.
        labels: as in `logits_to_labels`.
        threshold: as in `logits_to_labels`.
        workers: the same for all windows of a volume.
    """

    def decide(strip: Window) -> None:
        target[strip.where, strip.down] = _decided(strip, labels, threshold, workers.scratch).cpu().numpy()

    workers.each(decide, window.strips(), window.device)


def deciding_bytes(num_heads: int, before: IntTriple, shape: IntTriple) -> int:
    """Bytes that deciding takes beside a window's rows and the labels, of all threads together.

    Args:
        num_heads: of the scheme.
        before: voxels z, y, x of the source.
        shape: voxels z, y, x of the target.
    """
    source, target = largest_strip(before, shape)
    found, best, winner, values = 2, 4, 4, 3 * 4
    a_voxel = (found + best + winner) * math.prod(target) + values * max(math.prod(source), math.prod(target))
    return num_workers() * (a_voxel + 4 * num_heads * source[1] * source[2])  # bounds, before they are of columns


def _decided(strip: Window, labels: LabelScheme, threshold: float, scratch: Scratch) -> Tensor:
    """The classes `z y x` int16 of a strip, which last until `scratch` is used again."""
    found = scratch.take("found", strip.shape, strip.device, torch.int16)
    if labels.has_regions:
        _paint_strip(found, strip, labels, threshold, scratch)
    else:
        _decide_strip(found, strip, labels.num_heads, scratch)
    return found


def _decide_strip(found: Tensor, strip: Window, num_heads: int, scratch: Scratch) -> None:
    """Fill `found` with the number of the largest head, the first of equals."""
    low, high = strip.bounds(num_heads)
    error = _ROUNDING * torch.maximum(low.abs(), high.abs()).amax(0)
    can_win = ~(high < low.amax(0) - 2 * error)  # so that what is not finite is not left out
    contested = can_win.sum(0) > 1
    sure = can_win.to(torch.uint8).argmax(0).to(torch.int16)
    # All are measured by head 0, whose own values are then zero: one head less, and the same whatever is left out.
    needed = can_win & contested
    needed[0] = False
    spans = _spans(needed)
    every = _together(spans) if spans else slice(0, 0)
    if every.stop - every.start < strip.shape[2]:
        found.copy_(sure)
    if not spans:
        return
    shape = (*strip.shape[:2], every.stop - every.start)
    bar = torch.where(contested, 0, torch.inf)[every]  # nothing comes above a head that is sure
    best = scratch.take("best", shape, strip.device).copy_(bar)
    winner = scratch.take("winner", shape, strip.device).copy_(sure.masked_fill(contested, 0)[every])
    for number, span in spans:
        values = strip.values(slice(number, number + 1), span, minus=0, scratch=scratch)[0]
        here = slice(span.start - every.start, span.stop - every.start)
        wins = torch.gt(values, best[..., here], out=scratch.take("spare", values.shape, strip.device))
        torch.maximum(best[..., here], values, out=best[..., here])
        # Numbers rise, so the largest found is the last: several times faster than filling where a mask is set.
        torch.maximum(winner[..., here], wins.mul_(number), out=winner[..., here])
    found[..., every] = winner


def _paint_strip(found: Tensor, strip: Window, labels: LabelScheme, threshold: float, scratch: Scratch) -> None:
    """Fill `found` with the class that is painted last, background where no head is above `threshold`."""
    low, high = strip.bounds(labels.num_heads)
    error = _ROUNDING * torch.maximum(low.abs(), high.abs())
    found.zero_()
    spans = _spans(~(high < threshold - error))
    if not spans:
        return
    every = _together(spans)
    last = scratch.take("winner", (*strip.shape[:2], every.stop - every.start), strip.device).zero_()
    for number, span in spans:
        values = strip.values(slice(number, number + 1), span, scratch=scratch)[0]
        here = slice(span.start - every.start, span.stop - every.start)
        above = torch.gt(values, threshold, out=scratch.take("spare", values.shape, strip.device))
        torch.maximum(last[..., here], above.mul_(number + 1), out=last[..., here])
    painted = torch.tensor([0, *labels.region_order], dtype=torch.int16, device=found.device)
    found[..., every] = painted.index_select(0, last.flatten().int()).view(last.shape)


def _spans(needed: Tensor) -> list[tuple[int, slice]]:
    """Heads that are needed anywhere, from a mask `H x`, each with the columns from its first to its last."""
    width = needed.shape[1]
    mask = needed.to(torch.uint8)
    edges = torch.stack([mask.amax(1), mask.argmax(1), width - mask.flip(1).argmax(1)], 1)
    return [(number, slice(start, stop)) for number, (some, start, stop) in enumerate(edges.tolist()) if some]


def _together(spans: Sequence[tuple[int, slice]]) -> slice:
    """The columns from the first to the last of all."""
    return slice(min(span.start for _, span in spans), max(span.stop for _, span in spans))
