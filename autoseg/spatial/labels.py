"""A label volume and a target shape in, the labels on that grid out.

The rule is nnU-Net's: each label's mask is interpolated linearly and the largest wins (with one coarse
axis: in plane, and the nearest slice). nnU-Net asks for at least one half, so voxels where three labels meet may
fall to the background; here the largest always wins. A tie goes to the higher label, as there.

Only the eight corners around a target voxel have weight in it. Where all agree the label is that one; the
others, a thin layer along the borders, add up the corners' weights. Time and memory do not depend on
the number of labels.
"""

from collections.abc import Sequence
from itertools import product

import torch

from autoseg.spatial.linear import Taps, axis_taps

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
    result, differs = labels, _differs_from_next(labels, [along.paired for along in taps])
    for axis in (2, 1, 0):  # the last axis, the slowest to gather along, first: the volume is still small or shrinks
        lower: list[slice | torch.Tensor] = [slice(None)] * 3
        lower[axis] = taps[axis].lower
        result, differs = result[tuple(lower)], differs[tuple(lower)]
    mixed = differs.flatten().nonzero().squeeze(1)  # one host sync on a GPU
    flat = result.flatten()
    for start in range(0, len(mixed), _CHUNK):
        chunk = mixed[start : start + _CHUNK]
        flat[chunk] = _vote(labels, taps, chunk, shape)
    return flat.view(*shape)


def _differs_from_next(labels: torch.Tensor, axes: Sequence[bool]) -> torch.Tensor:
    """Where the block of a voxel and its next neighbours along the chosen `axes` holds more than one label."""
    differs = torch.zeros_like(labels, dtype=torch.bool)
    for axis in range(3):
        room = labels.shape[axis] - 1
        if axes[axis] and room:
            here, after = differs.narrow(axis, 0, room), differs.narrow(axis, 1, room)
            step = labels.narrow(axis, 0, room) != labels.narrow(axis, 1, room)
            here.copy_(here | after | step)
    return differs


def _vote(labels: torch.Tensor, taps: Sequence[Taps], where: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The winning label at the flat target indices `where`."""
    _, height, width = shape
    position = (where // (height * width), where // width % height, where % width)
    corners, weights = [], []
    for corner in product((0, 1), repeat=3):
        index, weight = [], torch.ones(len(where), dtype=torch.float64, device=labels.device)
        for along, at, side in zip(taps, position, corner, strict=True):
            index.append((along.upper if side else along.lower)[at])
            weight = weight * (along.weight[at] if side else 1 - along.weight[at])
        corners.append(labels[index[0], index[1], index[2]])
        weights.append(weight)
    label, weight = torch.stack(corners), torch.stack(weights)
    best, winner = torch.full_like(weight[0], -1.0), label[0]
    for candidate in label:
        score = (weight * (label == candidate)).sum(0)
        wins = (score > best + _TIE) | ((score > best - _TIE) & (candidate > winner))
        best, winner = torch.where(wins, score, best), torch.where(wins, candidate, winner)
    return winner
