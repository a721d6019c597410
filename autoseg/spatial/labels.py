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

from autoseg.spatial.resampling import SplineOrder, axis_operator

_TIE = 1e-9  # scores closer than this are equal, weights below it are none
_CHUNK = 2**15  # voxels voted on together: eight weights each stay in the cache

Taps = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def resample_labels(labels: torch.Tensor, shape: Sequence[int], separate: int | None = None) -> torch.Tensor:
    """Resample `labels` (Z Y X, any integer type) to `shape`; `separate` is the axis taken from the nearest slice.

    Returns:
        The same type and device; `labels` itself when it has that shape.
    """
    if tuple(labels.shape) == tuple(shape):
        return labels
    taps = [
        _taps(n, m, 0 if axis == separate else 1, labels.device)
        for axis, (n, m) in enumerate(zip(labels.shape, shape, strict=True))
    ]
    result, differs = labels, _differs_from_next(labels, [not torch.equal(first, second) for first, second, _ in taps])
    for axis in (2, 1, 0):  # the last axis, the slowest to gather along, first: the volume is still small or shrinks
        lower: list[slice | torch.Tensor] = [slice(None)] * 3
        lower[axis] = taps[axis][0]
        result, differs = result[tuple(lower)], differs[tuple(lower)]
    mixed = differs.flatten().nonzero().squeeze(1)  # one host sync on a GPU
    flat = result.flatten()
    for start in range(0, len(mixed), _CHUNK):
        chunk = mixed[start : start + _CHUNK]
        flat[chunk] = _vote(labels, taps, chunk, shape)
    return flat.view(*shape)


def _taps(num_in: int, num_out: int, order: SplineOrder, device: torch.device) -> Taps:
    """For each target index the two source indices it lies between, and the weight of the second."""
    if num_in == num_out:
        index = torch.arange(num_in, device=device)
        return index, index, torch.zeros(num_in, dtype=torch.float64, device=device)
    operator = torch.tensor(axis_operator(num_in, num_out, order), device=device)
    used = (operator > _TIE).to(torch.uint8)
    lower = used.argmax(1)
    upper = num_in - 1 - used.flip(1).argmax(1)
    return lower, upper, operator.gather(1, upper[:, None]).squeeze(1)


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
        for (lower, upper, fraction), at, side in zip(taps, position, corner, strict=True):
            index.append((upper if side else lower)[at])
            weight = weight * (fraction[at] if side else 1 - fraction[at])
        corners.append(labels[index[0], index[1], index[2]])
        weights.append(weight)
    label, weight = torch.stack(corners), torch.stack(weights)
    best, winner = torch.full_like(weight[0], -1.0), label[0]
    for candidate in label:
        score = (weight * (label == candidate)).sum(0)
        wins = (score > best + _TIE) | ((score > best - _TIE) & (candidate > winner))
        best, winner = torch.where(wins, score, best), torch.where(wins, candidate, winner)
    return winner
