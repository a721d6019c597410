"""A segmentation with its probabilities in, its components and candidates at lower thresholds out, as lists of voxels.

Components are 26-connected, of each target (class or region) on its own. A candidate is a component of the voxels that
reach a lower threshold, that holds no voxel decided for the target and no candidate of a higher threshold: a peak
that the decision missed. Of a candidate only those voxels count that restoring it would change (background, or a
region around the target's own). So the rows of a target never touch one another, and what happens to one changes
nothing about the others.

Each target is labelled once, at the lowest threshold, and only inside the boxes of what that found again: the cost
does not grow with thresholds times volume. Probabilities are read once, slab by slab, and of each head only what
reaches the lowest threshold is kept (in sum over the heads at most a few values a voxel, since they add up to 1),
so that memory does not grow with classes times volume either.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from autoseg.inference.probability_reader import ProbabilityReader
from autoseg.postprocessing.component_list import DECIDED, Bools, Classes, ComponentList
from autoseg.postprocessing.group_statistics import Offsets
from autoseg.postprocessing.target_classes import head_of, restorable_classes
from autoseg.records.labels import LabelScheme
from autoseg.records.postprocessing import ComponentSettings
from autoseg.spatial.components import components
from autoseg.spatial.cropping import box_slices, mask_box
from autoseg.spatial.slabs import slab_boxes

Head = npt.NDArray[np.float16]
Piece = tuple[float, npt.NDArray[np.int64]]
Sparse = tuple[npt.NDArray[np.int64], Head]
"""Flat indices of voxels, rising, and their probabilities."""

_COUNTED_VOXELS = 1 << 22


def find_components(
    classes: Classes,
    probabilities: ProbabilityReader | None,
    labels: LabelScheme,
    settings: ComponentSettings,
    planar: bool = False,
) -> ComponentList:
    """List the components of a segmentation and the candidates of lower thresholds.

    Args:
        classes: `z y x` internal class numbers.
        probabilities: `H z y x` on the same grid; None: no candidates.
        labels: scheme of both.
        settings: thresholds and limits.
        planar: a 2-D image: the faces above and below it are no surface.
    """
    parts, thresholds = [], settings.restore_thresholds
    reached = _reaching(probabilities, labels, min(thresholds)) if probabilities is not None and thresholds else {}
    for number, target in enumerate(labels.targets):
        member = _is_in(classes, target.members)
        head = _filled(classes.shape, *reached.pop(number)) if reached else None
        pieces = list(_pieces(member, head, thresholds))
        if head is not None:
            pieces = _restorable(pieces, classes, head, labels, number, settings.max_candidates)
        if pieces:
            parts.append((number, pieces, _faces(pieces, classes.shape, planar)))
    return _joined(parts, classes)


def _reaching(probabilities: ProbabilityReader, labels: LabelScheme, threshold: float) -> dict[int, Sparse]:
    """Of each target the voxels whose probability reaches a threshold."""
    parts: list[list[Sparse]] = [[] for _ in labels.targets]
    for rows, slab in probabilities.slabs():
        first = rows.start * slab[0, 0].size
        for number, found in enumerate(parts):
            head = slab[head_of(labels, number)].reshape(-1)
            voxels = np.flatnonzero(_at_least(head, threshold))
            found.append((voxels + first, head[voxels]))
    reached = {}
    for number, found in enumerate(parts):
        reached[number] = (np.concatenate([v for v, _ in found]), np.concatenate([values for _, values in found]))
        found.clear()
    return reached


def _filled(shape: Sequence[int], voxels: npt.NDArray[np.int64], values: Head) -> Head:
    """A volume with some values, 0 elsewhere."""
    head = np.zeros(tuple(shape), dtype=np.float16)
    head.reshape(-1)[voxels] = values
    return head


def _is_in(classes: Classes, members: Sequence[int]) -> Bools:
    mask: Bools = classes == members[0]
    for member in members[1:]:
        mask |= classes == member
    return mask


def _at_least(head: Head, threshold: float) -> Bools:
    """`head >= threshold`, compared as integers: their order is that of positive halves, at which numpy is slow."""
    lowest = np.asarray(threshold, dtype=np.float16)
    reached: Bools = head.view(np.uint16) >= lowest.view(np.uint16)
    return reached


def _pieces(member: Bools, head: Head | None, thresholds: Sequence[float]) -> Iterator[Piece]:
    """Level and flat indices of every component and candidate of one target."""
    levels = sorted(thresholds, reverse=True) if head is not None else []
    widest = member | _at_least(head, levels[-1]) if head is not None and levels else member
    if not widest.any():
        return
    box = mask_box(widest)
    numbers, count = components(widest[box_slices(box)])
    low = np.array([start for start, _ in box])
    signed = numbers.view(np.int32) if numbers.dtype.itemsize == 4 else numbers.astype(np.int32)  # for find_objects
    for number, where in enumerate(ndimage.find_objects(signed, count), start=1):
        start = low + [w.start for w in where]
        whole = tuple(slice(s, s + w.stop - w.start) for s, w in zip(start, where, strict=True))
        inside = numbers[where] == number
        parts = _split(member[whole] & inside, inside, None if head is None else head[whole], levels)
        for level, voxels in parts:
            at = np.unravel_index(voxels, inside.shape)
            yield level, np.ravel_multi_index(tuple(a + s for a, s in zip(at, start, strict=True)), member.shape)


def _split(decided: Bools, inside: Bools, head: Head | None, levels: Sequence[float]) -> Iterator[Piece]:
    """Components and candidates inside one component of the lowest threshold (`inside`), flat indices into its box."""
    any_decided = bool(decided.any())
    if any_decided and np.array_equal(decided, inside):
        yield DECIDED, np.flatnonzero(inside)
        return
    if any_decided:
        for voxels in _groups(*components(decided)):
            yield DECIDED, voxels
    taken = decided
    for level in levels:
        assert head is not None
        if level == levels[-1]:  # connected already: a candidate only when nothing of higher levels lies in it
            if not taken.any():
                yield level, np.flatnonzero(inside)
            return
        numbers, count = components((_at_least(head, level) & inside) | decided)
        is_free = np.ones(count + 1, dtype=bool)
        is_free[numbers[taken]] = False
        is_free[0] = False
        free = is_free[numbers]
        if free.any():
            for voxels in _groups(np.where(free, numbers, 0), count):
                yield level, voxels
            taken = taken | free


def _groups(numbers: npt.NDArray[np.integer[Any]], count: int) -> list[npt.NDArray[np.int64]]:
    """Flat indices of each number that occurs from 1 to `count`."""
    flat = np.flatnonzero(numbers)
    found = numbers.reshape(-1)[flat]
    order = np.argsort(found, kind="stable")
    sizes = np.bincount(found, minlength=count + 1)
    return [part for part in np.split(flat[order], np.cumsum(sizes[1:])[:-1]) if part.size]


def _restorable(
    pieces: list[Piece],
    classes: Classes,
    head: Head,
    labels: LabelScheme,
    target: int,
    limit: int,
) -> list[Piece]:
    """Components as they are; candidates with the voxels they may change, the `limit` with most probability."""
    allowed = np.isin(np.arange(labels.num_classes), restorable_classes(labels, target))
    decided, candidates = [], []
    flat_classes, flat_head = classes.reshape(-1), head.reshape(-1)
    for level, voxels in pieces:
        if level == DECIDED:
            decided.append((level, voxels))
        elif (kept := voxels[allowed[flat_classes[voxels]]]).size:
            candidates.append((level, kept))
    if len(candidates) > limit:
        mass = [float(flat_head[voxels].sum(dtype=np.float64)) for _, voxels in candidates]
        order = np.argsort(-np.array(mass), kind="stable")[:limit]
        candidates = [candidates[i] for i in sorted(order)]
    return decided + candidates


def _faces(pieces: Sequence[Piece], shape: Sequence[int], planar: bool) -> npt.NDArray[np.uint8]:
    """Surface faces of all voxels of a target's rows, which never touch one another."""
    voxels = np.concatenate([v for _, v in pieces])
    z, y, x = np.unravel_index(voxels, tuple(shape))
    low = np.array([z.min(), y.min(), x.min()])
    sides = np.array([z.max(), y.max(), x.max()]) - low + 3  # one voxel of nothing around the box
    filled = np.zeros(int(np.prod(sides)), dtype=bool)
    steps = (int(sides[1] * sides[2]), int(sides[2]), 1)
    at = (z - low[0] + 1) * steps[0] + (y - low[1] + 1) * steps[1] + (x - low[2] + 1)
    filled[at] = True
    faces = np.zeros(len(voxels), dtype=np.uint8)
    for axis in range(1 if planar else 0, 3):
        faces |= (~filled[at - steps[axis]]).astype(np.uint8) << (2 * axis)
        faces |= (~filled[at + steps[axis]]).astype(np.uint8) << (2 * axis + 1)
    return faces


def _joined(parts: Sequence[tuple[int, list[Piece], npt.NDArray[np.uint8]]], classes: Classes) -> ComponentList:
    z, y, x = classes.shape
    lists = [voxels for _, pieces, _ in parts for _, voxels in pieces]
    offsets = np.concatenate([[0], np.cumsum([len(v) for v in lists])]).astype(np.int64)
    voxels = np.concatenate(lists) if lists else np.zeros(0, np.int64)
    levels = np.array([level for _, pieces, _ in parts for level, _ in pieces], dtype=np.float64)
    return ComponentList(
        shape=(z, y, x),
        targets=np.array([n for n, pieces, _ in parts for _ in pieces], dtype=np.int64),
        levels=levels,
        offsets=offsets,
        voxels=voxels,
        faces=np.concatenate([faces for _, _, faces in parts]) if parts else np.zeros(0, np.uint8),
        in_largest=_in_largest(classes, voxels, offsets, levels == DECIDED),
    )


def _in_largest(classes: Classes, voxels: npt.NDArray[np.int64], offsets: Offsets, is_decided: Bools) -> Bools:
    """Which rows lie in the largest component of all foreground; of equally large ones all count."""
    inside = np.zeros(len(is_decided), dtype=bool)
    if not is_decided.any():
        return inside
    foreground = classes > 0
    box = mask_box(foreground)
    numbers, count = components(foreground[box_slices(box)])
    sizes = np.zeros(count + 1, np.int64)
    for region in slab_boxes(numbers, _COUNTED_VOXELS):  # numpy counts with 8 bytes a voxel
        sizes += np.bincount(numbers[region].reshape(-1), minlength=count + 1)
    sizes[0] = 0
    first = np.stack(np.unravel_index(voxels[offsets[:-1][is_decided]], classes.shape))
    at_first = numbers[tuple(first - np.array([[start] for start, _ in box]))]
    inside[is_decided] = sizes[at_first] == sizes.max()
    return inside
