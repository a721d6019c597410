"""A label volume and a target shape in, the labels on that grid out.

The rule is nnU-Net's: each label's mask is interpolated linearly and the largest wins (with one coarse
axis: in plane, and the nearest slice). nnU-Net asks for at least one half, so voxels where three labels meet may
fall to the background; here the largest always wins. A tie goes to the higher label, as there.

Only the eight corners around a target voxel have weight in it. Where all agree the label is that one; the
others, a thin layer along the borders, add up the corners' weights, in chunks that several threads share. Time and
memory do not depend on the number of labels.
"""

from collections.abc import Sequence
from itertools import product

import torch

from autoseg.spatial.linear import Taps, axis_taps
from autoseg.spatial.workers import Workers

_TIE = 1e-9  # scores closer than this are equal
_CHUNK = 2**15  # voxels voted on together: eight weights each stay in the cache


def resample_labels(labels: torch.Tensor, shape: Sequence[int], separate: int | None = None) -> torch.Tensor:
    """Resample `labels` (Z Y X, any integer type) to `shape`; `separate` is the axis taken from the nearest slice.

    Returns:
        The same type and device; `labels` itself when it has that shape.
    """
    if tuple(labels.shape) == tuple(shape):
        return labels
    taps = [
        axis_taps(n, m, 0 if axis == separate else 1).to(labels.device)
        for axis, (n, m) in enumerate(zip(labels.shape, shape, strict=True))
    ]
    labels = labels.contiguous()
    result, differs = labels, _differs_from_next(labels, [along.paired for along in taps])
    for axis in (2, 1, 0):  # the last axis, the slowest to pick along, first: the volume is still small or shrinks
        result, differs = (_pick(volume, axis, taps[axis].lower) for volume in (result, differs))
    mixed = differs.view(-1).nonzero().squeeze(1)  # one host sync on a GPU
    flat = result.view(-1)

    def decide(chunk: torch.Tensor) -> None:
        flat[chunk] = _vote(labels, taps, chunk, shape)

    with Workers() as workers:
        workers.each(decide, torch.split(mixed, _CHUNK), labels.device)
    return result


def _pick(volume: torch.Tensor, axis: int, index: torch.Tensor) -> torch.Tensor:
    """Planes of a contiguous volume; along the last axis picking is fast in two dimensions only."""
    if axis < 2:
        return volume.index_select(axis, index)
    return volume.view(-1, volume.shape[2]).index_select(1, index).view(*volume.shape[:2], -1)


def _differs_from_next(labels: torch.Tensor, axes: Sequence[bool]) -> torch.Tensor:
    """Not zero where the block of a voxel and its next neighbours along the chosen `axes` holds more than one label.

    In the labels' own type: bits that differ are collected several times faster than truth values.
    """
    differs = torch.zeros_like(labels)
    for axis in range(3):
        room = labels.shape[axis] - 1
        if axes[axis] and room:
            here, after = differs.narrow(axis, 0, room), differs.narrow(axis, 1, room)
            step = torch.bitwise_xor(labels.narrow(axis, 0, room), labels.narrow(axis, 1, room))
            here.copy_(step.bitwise_or_(here).bitwise_or_(after))
    return differs


def _vote(labels: torch.Tensor, taps: Sequence[Taps], where: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The winning label at the flat target indices `where`."""
    (_, height, width), (_, rows, columns) = shape, labels.shape
    position = (where // (height * width), where // width % height, where % width)
    sides = []
    for along, at, stride in zip(taps, position, (rows * columns, columns, 1), strict=True):
        fraction = along.weight[at]
        sides.append(((along.lower[at] * stride, 1 - fraction), (along.upper[at] * stride, fraction)))
    corners, weights, flat = [], [], labels.view(-1)
    for (z, in_z), (y, in_y), (x, in_x) in product(*sides):
        corners.append(flat[z + y + x])
        weights.append(in_z * in_y * in_x)
    label, weight = torch.stack(corners), torch.stack(weights)
    best, winner = torch.full_like(weight[0], -1.0), label[0]
    for candidate in label:
        score = (weight * (label == candidate)).sum(0)
        wins = (score > best + _TIE) | ((score > best - _TIE) & (candidate > winner))
        best, winner = torch.where(wins, score, best), torch.where(wins, candidate, winner)
    return winner
