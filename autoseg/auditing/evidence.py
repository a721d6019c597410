"""One case's reference and held-out probabilities in, the form that every question to them needs out.

Agreement is the soft Dice of probabilities and reference, 2 sum(p r) / (sum(p) + sum(r)): it falls with doubt, so a
hesitant model accuses nobody loudly. Only the voxels of the reference enter sum(p r), so a reference is kept as a list
of points: the agreement after a move costs one look at the probabilities a point, whatever the size of the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg.records.geometry import Geometry, IntTriple, Triple
from autoseg.records.labels import LabelScheme
from autoseg.records.results import Box
from autoseg.spatial.cropping import crop
from autoseg.spatial.orientation import Turn, turn, turned

Mask = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]

FAINT = 0.1
"""Lower probabilities count as 0: the tails of a softmax over a whole image would outweigh a small organ."""
_MOST_POINTS = 50_000
"""Points of a reference that are looked at; more are thinned evenly, which moves a Dice by less than 0.01."""


@dataclass(frozen=True)
class TargetEvidence:
    """One target (class or region) of one case, on the crop box of the turned grid."""

    reference: Mask
    """`z y x` in the box."""
    probability: FloatArray
    """`z y x` in the box; 0 where it is faint or the reference is to be ignored."""
    mass: float
    """Sum of `probability`."""
    points: npt.NDArray[np.int64]
    """`N 3` voxels of the reference in coordinates of the box; those outside the box lie beyond its shape."""
    voxels: int
    """Of the reference, whether among the points or thinned away."""

    def dice(self, points: npt.NDArray[np.int64] | None = None, voxels: int | None = None) -> float:
        """Soft Dice with another reference given by its points and number of voxels; default: the own one.

        0 where both are empty: there is nothing that could be corrected.
        """
        where = self.points if points is None else points
        total = self.voxels if voxels is None else voxels
        if not len(where):
            return 0.0
        inside = ((where >= 0) & (where < self.probability.shape)).all(axis=1)
        found = self.probability[tuple(where[inside].T)].sum(dtype=np.float64) * (total / len(where))
        return float(2 * found / (self.mass + total))


@dataclass(frozen=True)
class Evidence:
    """One case on its turned grid."""

    case: str
    targets: tuple[TargetEvidence, ...]
    start: IntTriple
    """First voxel of the box on the turned grid."""
    shape: IntTriple
    """The turned grid."""
    spacing_mm: Triple
    """Of the turned grid."""
    voxel_mm3: float
    """Volume of a voxel (of a 2-D image its area in mm2)."""
    steps_mm: npt.NDArray[np.float64]
    """`3 3`: column k is the way in the patient (right, front, head in mm) of one step along axis k."""
    how: Turn
    """From the file's grid to the turned one."""

    def file_voxel(self, voxel: Sequence[float]) -> IntTriple:
        """A voxel of the box (z y x, fractions are rounded) in the voxel order of the file."""
        found = [0, 0, 0]
        for axis, (source, flip) in enumerate(zip(self.how.axes, self.how.flips, strict=True)):
            at = round(float(voxel[axis])) + self.start[axis]
            found[source] = self.shape[axis] - 1 - at if flip else at
        return (found[0], found[1], found[2])


def gather(
    case: str,
    reference: npt.NDArray[np.integer[Any]],
    probabilities: npt.NDArray[np.floating[Any]],
    labels: LabelScheme,
    geometry: Geometry,
    how: Turn,
    box: Box,
) -> Evidence:
    """Bring reference and probabilities of a case together.

    Args:
        case: its id.
        reference: `Z Y X` internal class numbers on the image file's grid.
        probabilities: `H z y x` on the crop box of the turned grid, one a class (background first) or a region.
        labels: scheme of both.
        geometry: grid of the image file.
        how: from the file's grid to the turned one.
        box: the crop box on the turned grid.
    """
    classes = turn(reference, how)
    steps = geometry.matrix[:3, :3][:, list(how.axes)] * np.where(how.flips, -1.0, 1.0)
    heads = probabilities if labels.has_regions else probabilities[1:]
    ignored = None if labels.ignore_index is None else crop(classes, box) == labels.ignore_index
    start = (box[0][0], box[1][0], box[2][0])
    z, y, x = classes.shape
    return Evidence(
        case=case,
        targets=tuple(
            _target(np.isin(classes, target.members), head, ignored, box)
            for target, head in zip(labels.targets, heads, strict=True)
        ),
        start=start,
        shape=(z, y, x),
        spacing_mm=turned(geometry.spacing_mm, how.axes),
        voxel_mm3=geometry.voxel_volume_mm3,
        steps_mm=steps,
        how=how,
    )


def _target(mask: Mask, head: npt.NDArray[np.floating[Any]], ignored: Mask | None, box: Box) -> TargetEvidence:
    probability = head.astype(np.float32)
    probability[probability < FAINT] = 0
    if ignored is not None:
        probability[ignored] = 0
    points = np.argwhere(mask)
    voxels = len(points)
    if voxels > _MOST_POINTS:
        points = points[np.linspace(0, voxels - 1, _MOST_POINTS).astype(np.int64)]
    return TargetEvidence(
        reference=np.ascontiguousarray(crop(mask, box)),
        probability=probability,
        mass=float(probability.sum(dtype=np.float64)),
        points=points - np.array([side[0] for side in box]),
        voxels=voxels,
    )
