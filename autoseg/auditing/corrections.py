"""A case's evidence in; corrections of its reference, and what each adds to the agreement, out.

Whoever draws or stores labels makes few kinds of gross error: two sides exchanged, an array stored mirrored, a
label moved by some voxels, one that is too small or too large all around. Each has a correction, and one that raises
the agreement far more than it does in other cases gives the error away. All are measured in every case, since what is
usual must be known; a correction that would harm counts as 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from autoseg.auditing.evidence import Evidence, Mask, TargetEvidence
from autoseg.records.audit import SuspicionKind
from autoseg.records.geometry import IntTriple, Triple

_STEPS = (4, 2, 1)
"""Voxels of a step in the search for a shift: far first, so that a thin structure beside itself is still found."""
_MOST_VOXELS = 1 << 21
"""Of a box whose distances are computed; a larger one is thinned, finest axis first."""
FARTHEST_MM = 20.0
"""Shifts are searched within this distance."""
WIDEST_MM = 10.0
"""Labels are grown and shrunk by this much at most."""


@dataclass(frozen=True)
class Correction:
    """One way to correct a reference."""

    kind: SuspicionKind
    targets: tuple[int, ...]
    """Positions of the targets that it changes."""
    before: tuple[float, ...]
    """Soft Dice of the reference as it is, one a target."""
    after: tuple[float, ...]
    """Soft Dice of the corrected reference, one a target."""
    move_mm: Triple | None = None
    """Of a shift: the way in the patient (right, front, head) that the label should go."""
    distance_mm: float | None = None
    """Of growing or shrinking: by how much."""
    is_whole: bool = False
    """Whether it changes the whole label map at once."""
    axis: int | None = None
    """Of mirroring: the patient's axis (0 left to right, 1 back to front, 2 feet to head)."""

    @property
    def mean_before(self) -> float:
        """Mean soft Dice over the targets of the reference as it is."""
        return sum(self.before) / len(self.before)

    @property
    def mean_after(self) -> float:
        """Mean soft Dice over the targets of the corrected reference."""
        return sum(self.after) / len(self.after)


def measure_corrections(evidence: Evidence, pairs: Sequence[tuple[int, int]]) -> list[Correction]:
    """Measure all corrections of a case.

    Args:
        evidence: of the case.
        pairs: positions of targets that are a left and a right of the same thing.

    Returns:
        One for each pair of which a side is labelled, for mirroring and for shifting the whole label map, and for
        shifting, growing and shrinking each target that is labelled.
    """
    present = [number for number, target in enumerate(evidence.targets) if target.voxels]
    corrections = [_exchanged(evidence, pair) for pair in pairs if set(pair) & set(present)]
    if not present:
        return corrections
    corrections += [_mirrored(evidence, present), _shifted(evidence, present, is_whole=True)]
    if len(present) > 1:
        corrections += [_shifted(evidence, [number]) for number in present]
    return corrections + [correction for number in present for correction in _resized(evidence, number)]


def _exchanged(evidence: Evidence, pair: tuple[int, int]) -> Correction:
    left, right = (evidence.targets[number] for number in pair)
    before = (left.dice(), right.dice())
    after = (left.dice(right.points, right.voxels), right.dice(left.points, left.voxels))
    return Correction("swapped", pair, before, after)


def _mirrored(evidence: Evidence, present: list[int]) -> Correction:
    """The label map flipped along one whole axis of the image, the axis that adds most."""
    before = _dice(evidence, present)
    flipped = [_dice_flipped(evidence, present, axis) for axis in range(3)]
    axis = max(range(3), key=lambda number: sum(flipped[number]))
    world_axis = int(np.abs(evidence.steps_mm[:, axis]).argmax())
    return Correction("mirrored", tuple(present), before, flipped[axis], is_whole=True, axis=world_axis)


def _dice_flipped(evidence: Evidence, numbers: Sequence[int], axis: int) -> tuple[float, ...]:
    last = evidence.shape[axis] - 1 - 2 * evidence.start[axis]
    found = []
    for number in numbers:
        points = evidence.targets[number].points.copy()
        points[:, axis] = last - points[:, axis]
        found.append(evidence.targets[number].dice(points))
    return tuple(found)


def _shifted(evidence: Evidence, numbers: list[int], is_whole: bool = False) -> Correction:
    """The targets moved together, uphill from where they are."""
    seen: dict[IntTriple, float] = {}

    def agreement(offset: IntTriple) -> float:
        if offset not in seen:
            seen[offset] = sum(_dice(evidence, numbers, offset))
        return seen[offset]

    here: IntTriple = (0, 0, 0)
    for step in _STEPS:
        while True:
            near = [moved for moved in _neighbours(here, step) if _length_mm(evidence, moved) <= FARTHEST_MM]
            best = max(near, key=agreement, default=here)
            if agreement(best) <= agreement(here):
                break
            here = best
    x, y, z = (float(way) for way in evidence.steps_mm @ here)
    before, after = _dice(evidence, numbers), _dice(evidence, numbers, here)
    return Correction("shifted", tuple(numbers), before, after, move_mm=(x, y, z), is_whole=is_whole)


def _neighbours(offset: IntTriple, step: int) -> list[IntTriple]:
    z, y, x = offset
    return [(z + s, y, x) for s in (-step, step)] + [(z, y + s, x) for s in (-step, step)] + [
        (z, y, x + s) for s in (-step, step)
    ]  # fmt: skip


def _length_mm(evidence: Evidence, offset: IntTriple) -> float:
    return float(np.linalg.norm(evidence.steps_mm @ offset))


def _dice(evidence: Evidence, numbers: Sequence[int], offset: IntTriple = (0, 0, 0)) -> tuple[float, ...]:
    """Agreement of some targets, moved by `offset` voxels."""
    targets = [evidence.targets[number] for number in numbers]
    return tuple(target.dice(target.points + np.array(offset)) for target in targets)


def _resized(evidence: Evidence, number: int) -> list[Correction]:
    """The target grown and shrunk by the distances that add most."""
    target = evidence.targets[number]
    box, strides = _surroundings(target, evidence.spacing_mm)
    thinned = tuple(slice(side.start, side.stop, stride) for side, stride in zip(box, strides, strict=True))
    inside, probability = target.reference[thinned], target.probability[thinned]
    before = target.dice()
    if not inside.any():
        return []
    spacing = [edge * stride for edge, stride in zip(evidence.spacing_mm, strides, strict=True)]
    distance = _signed_distance(inside, spacing)
    mass = target.mass / float(np.prod(strides))
    grown = _best_size(distance, probability, mass, (distance > 0) & (distance <= WIDEST_MM), is_growing=True)
    shrunk = _best_size(distance, probability, mass, (distance < 0) & (distance >= -WIDEST_MM), is_growing=False)
    # Thinning moves all agreements alike, so the gain is taken on the thinned grid.
    base = 2 * float(probability[inside].sum(dtype=np.float64)) / (mass + int(inside.sum()))
    sizes: tuple[tuple[SuspicionKind, float, float], ...] = (("too_small", *grown), ("too_large", *shrunk))
    return [
        Correction(kind, (number,), (before,), (before + max(0.0, best - base),), distance_mm=size)
        for kind, best, size in sizes
    ]


def _signed_distance(inside: Mask, spacing_mm: Sequence[float]) -> npt.NDArray[np.float64]:
    """Distance in mm to the nearest voxel of the mask, or, negative, to the nearest one outside it.

    What lies beyond the image counts as outside, but not along an axis of one voxel: a slice has an outline only.
    """
    rim = [(0, 0) if size == 1 else (1, 1) for size in inside.shape]
    framed = np.pad(inside, rim)
    inner = tuple(slice(before, size - after) for (before, after), size in zip(rim, framed.shape, strict=True))
    to_mask: npt.NDArray[np.float64] = ndimage.distance_transform_edt(~inside, spacing_mm)
    to_outside: npt.NDArray[np.float64] = ndimage.distance_transform_edt(framed, spacing_mm)[inner]
    return to_mask - to_outside


def _best_size(
    distance: npt.NDArray[np.float64],
    probability: npt.NDArray[np.float32],
    mass: float,
    candidates: npt.NDArray[np.bool_],
    is_growing: bool,
) -> tuple[float, float]:
    """The largest Dice of {distance <= d} (growing) or {distance < d} (shrinking) over the candidates' distances d.

    Sorted by distance, the sums of all sizes are one cumulative sum.
    """
    wanted = np.unique(np.round(distance[candidates], 3))
    if not len(wanted):
        return 0.0, 0.0
    order = np.argsort(distance, axis=None)
    ordered = np.round(distance.ravel()[order], 3)
    found = np.concatenate([[0.0], np.cumsum(probability.ravel()[order], dtype=np.float64)])
    sizes = np.searchsorted(ordered, wanted, side="right" if is_growing else "left")
    dice = 2 * found[sizes] / np.maximum(mass + sizes, 1e-9)
    best = int(dice.argmax())
    return float(dice[best]), abs(float(wanted[best]))


def _surroundings(target: TargetEvidence, spacing_mm: Triple) -> tuple[list[slice], list[int]]:
    """The box of reference and prediction widened by `WIDEST_MM`, and the stride along each axis that thins it."""
    both = target.reference | (target.probability >= 0.5)
    if not both.any():
        return [slice(0, 1)] * 3, [1, 1, 1]
    box = []
    for axis, edge in enumerate(spacing_mm):
        others = tuple(other for other in range(3) if other != axis)
        used = np.flatnonzero(both.any(axis=others))
        room = int(np.ceil(WIDEST_MM / edge))
        box.append(slice(max(0, int(used[0]) - room), min(both.shape[axis], int(used[-1]) + 1 + room)))
    strides = [1, 1, 1]
    sizes = [side.stop - side.start for side in box]
    while np.prod([size / stride for size, stride in zip(sizes, strides, strict=True)]) > _MOST_VOXELS:
        finest = min(
            (axis for axis in range(3) if sizes[axis] > strides[axis]), key=lambda a: spacing_mm[a] * strides[a]
        )
        strides[finest] += 1
    return box, strides
