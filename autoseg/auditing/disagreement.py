"""A case's evidence in, the parts of its reference that the held-out prediction confidently contradicts out.

Confident is relative to the model (Northcutt et al. 2021, Confident Learning, arXiv 1911.00068): a
statement about a target counts where its probability is at least the mean probability that the model gives to that
target inside its references, so a hesitant model can still accuse and an overconfident one must try harder.

No two people draw a border alike, so a voxel counts only if it is further than the tolerance from what could excuse it:
a contradiction is border fuzz where both the reference's and the prediction's border are near. A thin layer
between two borders is fuzz whatever its area; a thin structure that one side does not have at all is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from autoseg.auditing.evidence import Evidence, Mask, TargetEvidence
from autoseg.records.audit import SuspicionKind
from autoseg.records.geometry import Triple
from autoseg.records.results import Box
from autoseg.spatial.components import components
from autoseg.spatial.cropping import crop, mask_box

LEAST_CONFIDENT = 0.6
"""Lower thresholds of a very hesitant model are raised to this, so that a coin's toss is no confidence."""
_MOST_PARTS = 5
"""Parts kept of each target and kind in a case, the heaviest."""


@dataclass(frozen=True)
class Part:
    """A connected part of a case in which reference and prediction confidently differ about one target."""

    kind: SuspicionKind
    """`missed_part`: the prediction has the target there; `extra_part`: the reference has it; `missing_class`: the
    prediction has it, the reference nowhere."""
    target: int
    """Position of the target."""
    other: int | None
    """Target that the reference has in most of a missed part; None: background, or an extra part."""
    volume_mm3: float
    confidence: float
    """Mean probability of the predicted answer, 0.5 to 1."""
    gain: float
    """Soft Dice that following the prediction in this part would add."""
    weight_mm3: float
    """Volume weighed by 2 x confidence - 1, so that a coin's toss weighs nothing."""
    centre: Triple
    """Voxel z y x of the box, that of the part which is nearest to its mean."""


def confidence_sums(evidence: Evidence) -> list[tuple[float, int]]:
    """Sum of the probabilities of each target inside its reference, and the voxels there."""
    return [(float(t.probability[t.reference].sum(dtype=np.float64)), int(t.reference.sum())) for t in evidence.targets]


def confidence_thresholds(sums: Sequence[Sequence[tuple[float, int]]]) -> list[float]:
    """Probability from which the model counts as confident about each target.

    Args:
        sums: `confidence_sums` of each case.

    Returns:
        One a target: the mean probability inside its references over all cases, at least `LEAST_CONFIDENT`; 1 for a
        target that no reference has.
    """
    thresholds = []
    for of_cases in zip(*sums, strict=True):
        voxels = sum(count for _, count in of_cases)
        mean = sum(total for total, _ in of_cases) / voxels if voxels else 1.0
        thresholds.append(max(LEAST_CONFIDENT, mean))
    return thresholds


def find_parts(evidence: Evidence, thresholds: Sequence[float], tolerance_mm: float) -> list[Part]:
    """Find the parts of a case, the heaviest of each target and kind.

    Args:
        evidence: of the case.
        thresholds: one a target, from `confidence_thresholds`.
        tolerance_mm: distance within which a border excuses a contradiction; never less than a voxel's diagonal
            (over the axes with more than one voxel), since a border that differs by one voxel everywhere is fuzz.
    """
    edges = [edge for edge, size in zip(evidence.spacing_mm, evidence.shape, strict=True) if size > 1]
    tolerance = max(tolerance_mm, float(np.linalg.norm(edges)))
    missed, extra = [], []
    for target, threshold in zip(evidence.targets, thresholds, strict=True):
        missed.append(_core(evidence, target, ~target.reference & (target.probability >= threshold), tolerance))
        extra.append(_core(evidence, target, target.reference & (target.probability <= 1 - threshold), tolerance))
    parts = []
    for number, target in enumerate(evidence.targets):
        others = _others(evidence, number)
        kind: SuspicionKind = "missed_part" if target.voxels else "missing_class"
        parts += _parts(evidence, kind, number, missed[number], others)
        # Where the reference has another target instead, that target's missed part says the same and more.
        explained = np.zeros_like(target.reference)
        for other in range(len(evidence.targets)):
            explained |= missed[other] if other != number else False
        parts += _parts(evidence, "extra_part", number, extra[number] & ~explained, others)
    return parts


def _core(evidence: Evidence, target: TargetEvidence, contradicted: Mask, tolerance_mm: float) -> Mask:
    """The contradicted voxels that are no border fuzz."""
    if not contradicted.any():
        return contradicted
    box = _widened(mask_box(contradicted), contradicted.shape, evidence.spacing_mm, tolerance_mm)
    inner, reference = crop(contradicted, box), crop(target.reference, box)
    predicted = crop(target.probability, box) >= 0.5
    fuzz = np.zeros_like(inner)
    for has, lacks in ((reference, predicted), (predicted, reference)):
        # `has` holds the target where `lacks` does not: near what lacks can grow from, and near where has can shrink.
        near_growth = _within(lacks, evidence.spacing_mm, tolerance_mm)
        near_retreat = _within(~has, evidence.spacing_mm, tolerance_mm)
        fuzz |= has & ~lacks & near_growth & near_retreat
    core = np.zeros_like(contradicted)
    crop(core, box)[...] = inner & ~fuzz
    return core


def _within(mask: Mask, spacing_mm: Triple, distance_mm: float) -> Mask:
    """Voxels at most `distance_mm` from the mask; none where it is empty."""
    if not mask.any():
        return np.zeros_like(mask)
    near: Mask = ndimage.distance_transform_edt(~mask, spacing_mm) <= distance_mm * (1 + 1e-6)
    return near


def _widened(box: Box, shape: Sequence[int], spacing_mm: Triple, distance_mm: float) -> Box:
    sides = []
    for (start, stop), size, edge in zip(box, shape, spacing_mm, strict=True):
        room = int(np.ceil(distance_mm / edge)) + 1
        sides.append((max(0, start - room), min(size, stop + room)))
    z, y, x = sides
    return z, y, x


def _others(evidence: Evidence, number: int) -> npt.NDArray[np.int16]:
    """Which other target a voxel has in the reference, -1: none; `z y x`."""
    named = np.full(evidence.targets[number].reference.shape, -1, dtype=np.int16)
    for other, target in enumerate(evidence.targets):
        if other != number:
            named[target.reference] = other
    return named


def _parts(
    evidence: Evidence, kind: SuspicionKind, number: int, mask: Mask, others: npt.NDArray[np.int16]
) -> list[Part]:
    """The components of `mask` (`z y x`), the heaviest."""
    if not mask.any():
        return []
    box = mask_box(mask)
    corner = np.array([side[0] for side in box])
    target = evidence.targets[number]
    mask, probability, others = crop(mask, box), crop(target.probability, box), crop(others, box)
    numbers, count = components(mask)
    where = numbers[mask]
    sizes = np.bincount(where, minlength=count + 1)
    sums = np.bincount(where, weights=probability[mask], minlength=count + 1)
    confident = sizes - sums if kind == "extra_part" else sums
    weights = 2 * confident - sizes
    found = []
    for component in np.argsort(-weights[1:], kind="stable")[:_MOST_PARTS] + 1:
        points = np.argwhere(numbers == component)
        centre = points[np.square(points - points.mean(axis=0)).sum(axis=1).argmin()] + corner
        names, votes = np.unique(others[tuple(points.T)], return_counts=True)
        most = int(names[votes.argmax()])
        size, inside = int(sizes[component]), float(sums[component])
        change = -1 if kind == "extra_part" else 1
        found.append(
            Part(
                kind=kind,
                target=number,
                other=None if most < 0 or kind == "extra_part" else most,
                volume_mm3=size * evidence.voxel_mm3,
                confidence=float(confident[component]) / size,
                gain=max(0.0, _dice_after(target, change * inside, change * size) - target.dice()),
                weight_mm3=float(weights[component]) * evidence.voxel_mm3,
                centre=(float(centre[0]), float(centre[1]), float(centre[2])),
            )
        )
    return found


def _dice_after(target: TargetEvidence, found: float, voxels: int) -> float:
    """Soft Dice after `voxels` came to (or, negative, left) the reference, whose probabilities sum to `found`."""
    total = target.mass + target.voxels
    return (target.dice() * total + 2 * found) / (total + voxels)
