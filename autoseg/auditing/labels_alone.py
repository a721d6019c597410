"""References of all cases in, what is unusual about one without asking any model out.

Two things are told by the labels alone: the volume of each target, given the size of the case, and on which side of
each other the left and the right of a pair lie.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg.records.geometry import Geometry, IntTriple, Triple
from autoseg.records.labels import LabelScheme

LEAST_CASES = 5
"""With fewer values nothing can be called unusual."""
_LEAST_FOR_SLOPE = 10
_MOST_FOR_SLOPE = 1000
_SAME_SIZE = 1e-9
_LEAST_OTHERS = 2


@dataclass(frozen=True)
class LabelFacts:
    """What one reference says about itself; entries run over the targets."""

    volumes_mm3: tuple[float, ...]
    centres_mm: tuple[Triple | None, ...]
    """Mean place in the patient (right, front, head); None: not labelled."""
    voxels: tuple[IntTriple | None, ...]
    """The voxel z y x of the file nearest to it."""
    voxel_mm3: float
    size_mm3: float
    """Of the image, or of what is not zero in it where that is known."""
    is_area: bool = False
    """Whether the image is 2-D, so that all volumes are areas in mm2."""


def label_facts(
    reference: npt.NDArray[np.integer[Any]], geometry: Geometry, labels: LabelScheme, relative_size: float = 1.0
) -> LabelFacts:
    """Measure one reference.

    Args:
        reference: `Z Y X` internal class numbers on the file's grid.
        geometry: that grid.
        labels: scheme with the targets.
        relative_size: of the box around everything that is not zero in the image, over the image; 1 if not known.
    """
    volumes: list[float] = []
    centres: list[Triple | None] = []
    voxels: list[IntTriple | None] = []
    for target in labels.targets:
        points = np.argwhere(np.isin(reference, target.members))
        volumes.append(len(points) * geometry.voxel_volume_mm3)
        if len(points):
            mean = points.mean(axis=0)
            x, y, z = (float(v) for v in (geometry.matrix @ [*mean, 1.0])[:3])
            a, b, c = (round(float(v)) for v in mean)
            centres.append((x, y, z))
            voxels.append((a, b, c))
        else:
            centres.append(None)
            voxels.append(None)
    size_mm3 = float(np.prod(geometry.shape)) * geometry.voxel_volume_mm3 * relative_size
    return LabelFacts(
        tuple(volumes), tuple(centres), tuple(voxels), geometry.voxel_volume_mm3, size_mm3, geometry.planar
    )


def log_volumes(facts: Mapping[str, LabelFacts], target: int) -> dict[str, float]:
    """Case -> logarithm of the target's volume without what the size of the case explains.

    The size of a case is the median over its other targets of how much larger than usual they are; with fewer than
    two others it is the image's extent. How a volume goes with it is a Theil-Sen line, which a fifth of wrong labels
    does not bend. Cases in which the target is not labelled are left out.
    """
    cases = [case for case in facts if facts[case].volumes_mm3[target] > 0]
    if not cases:
        return {}
    own = np.log([facts[case].volumes_mm3[target] for case in cases])
    sizes = np.array(_sizes(facts, cases, target))
    if len(cases) >= _LEAST_FOR_SLOPE:
        own = own - _theil_sen(sizes, own) * (sizes - np.median(sizes))
    return dict(zip(cases, own.tolist(), strict=True))


def side_distances(facts: Mapping[str, LabelFacts], pair: tuple[int, int]) -> dict[str, float]:
    """Case -> how far in mm the right of a pair lies to the patient's right of the left one; where both are."""
    distances = {}
    for case, of_case in facts.items():
        left, right = (of_case.centres_mm[number] for number in pair)
        if left is not None and right is not None:
            distances[case] = right[0] - left[0]
    return distances


def presence(facts: Mapping[str, LabelFacts], target: int) -> float:
    """Share of the cases in which the target is labelled."""
    return sum(of_case.volumes_mm3[target] > 0 for of_case in facts.values()) / max(1, len(facts))


def median_volume(facts: Mapping[str, LabelFacts], target: int) -> float | None:
    """Median volume of a target in mm3 over the cases that have it; None where none has."""
    volumes = [v for of_case in facts.values() if (v := of_case.volumes_mm3[target]) > 0]
    return float(np.median(volumes)) if volumes else None


def _theil_sen(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    """Median slope over all pairs of points with different x; 0 where there is none. Many points are thinned evenly."""
    step = -(-len(x) // _MOST_FOR_SLOPE)
    first, second = np.triu_indices(len(x[::step]), k=1)
    run = x[::step][second] - x[::step][first]
    differs = np.abs(run) > _SAME_SIZE
    if not differs.any():
        return 0.0
    return float(np.median((y[::step][second] - y[::step][first])[differs] / run[differs]))


def _sizes(facts: Mapping[str, LabelFacts], cases: Sequence[str], target: int) -> list[float]:
    num_targets = len(facts[cases[0]].volumes_mm3)
    if num_targets - 1 < _LEAST_OTHERS:
        return [float(np.log(facts[case].size_mm3)) for case in cases]
    medians = [median_volume(facts, other) for other in range(num_targets)]
    sizes = []
    for case in cases:
        larger = [
            np.log(volume / median)
            for other, (volume, median) in enumerate(zip(facts[case].volumes_mm3, medians, strict=True))
            if other != target and volume > 0 and median is not None
        ]
        sizes.append(float(np.median(larger)) if larger else 0.0)
    return sizes
