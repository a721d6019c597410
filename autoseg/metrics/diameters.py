"""The voxels of one component in, its diameters in mm out.

A voxel counts as a box, so a component of one voxel has the diagonal of a box and nothing has no length. The two points
furthest apart are corners of the convex hull, and those of a row of voxels lie at its ends: all else is left out before
anything is compared.
"""

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull
from scipy.spatial.distance import cdist, pdist

from autoseg.records.geometry import Geometry, Triple
from autoseg.records.measurements import Diameters

Indices = npt.NDArray[np.integer[Any]]
Points = npt.NDArray[np.float64]

_SAME = 1 - 1e-9
_FEW = 128


def axial_axis(geometry: Geometry) -> int:
    """The array axis that is nearest to head-foot; of a 2-D image the one it lacks."""
    if geometry.planar:
        return 0
    along_z = np.abs(geometry.matrix[2, :3]) / np.linalg.norm(geometry.matrix[:3, :3], axis=0)
    return int(along_z.argmax())


def measure_diameters(voxels: Indices, spacing_mm: Triple, axial: int, planar: bool) -> Diameters:
    """Diameters of a component.

    Args:
        voxels: `n 3` array indices z, y, x, at least one.
        spacing_mm: along them.
        axial: array axis along which axial slices follow one another.
        planar: whether the image is 2-D, so that there is no length in space.
    """
    axes = [axial, *(axis for axis in range(3) if axis != axial)]
    turned = _row_by_row(voxels[:, axes])
    lengths = np.array(spacing_mm)[axes]
    longest, across, where = _widest_slice(turned, lengths[1:])
    return Diameters(
        longest_mm=None if planar else float(pdist(_hull(_box_corners(turned) * lengths)).max()),
        longest_axial_mm=longest,
        perpendicular_mm=across,
        axial_slice=where,
    )


def _row_by_row(voxels: Indices) -> Indices:
    """The voxels sorted by slice, row, column; those that are so already, as most are, cost no sorting."""
    keys = np.ravel_multi_index(tuple(voxels.T), tuple(voxels.max(axis=0) + 1))
    return voxels if (np.diff(keys) > 0).all() else voxels[np.argsort(keys)]


def _widest_slice(voxels: Indices, spacing_mm: Points) -> tuple[float, float, int]:
    """Longest diameter in a slice, the extent across it, and the slice; `voxels` sorted by slice, row, column.

    Slices are looked at in the order of their boxes' diagonals, until no box could hold a longer diameter.
    """
    starts = np.flatnonzero(np.diff(voxels[:, 0], prepend=-1))
    low = np.minimum.reduceat(voxels[:, 1:], starts)
    high = np.maximum.reduceat(voxels[:, 1:], starts) + 1
    bounds = np.linalg.norm((high - low) * spacing_mm, axis=1)
    parts = np.split(voxels, starts[1:])
    best = (0.0, 0.0, 0)
    for number in np.argsort(-bounds, kind="stable"):
        if bounds[number] < best[0] * _SAME:
            break
        longest, across = _longest_and_across(_hull(_box_corners(parts[number])[:, 1:] * spacing_mm))
        if longest > best[0] / _SAME or (longest > best[0] * _SAME and across > best[1] / _SAME):
            best = (longest, across, int(parts[number][0, 0]))
    return best


def _longest_and_across(corners: Points) -> tuple[float, float]:
    """Longest distance of points `n 2` and their extent across it; of several longest ones the largest extent."""
    distances = cdist(corners, corners)
    longest = float(distances.max())
    pairs = np.argwhere(np.triu(distances) >= longest * _SAME)
    along = (corners[pairs[:, 1]] - corners[pairs[:, 0]]) / longest
    offsets = corners @ np.stack([-along[:, 1], along[:, 0]])
    return longest, float(np.ptp(offsets, axis=0).max())


def _box_corners(voxels: Indices) -> Points:
    """Corners `m 3` of the boxes at the ends of each row, in voxels; `voxels` sorted by slice, row, column."""
    rows = voxels[:, :2]
    changes = (rows[1:] != rows[:-1]).any(axis=1)
    first, last = voxels[np.append(True, changes)], voxels[np.append(changes, True)]
    corners = [
        np.column_stack([first[:, 0] + z, first[:, 1] + y, (last if x else first)[:, 2] + x])
        for z, y, x in product((0, 1), repeat=3)
    ]
    return np.concatenate(corners).astype(np.float64)


def _hull(points: Points) -> Points:
    """The corners of the convex hull of points that span all their dimensions, as corners of boxes do.

    A few points are compared sooner than their hull is found: they all stay.
    """
    if len(points) <= _FEW:
        return points
    distinct = np.unique(points, axis=0)
    corners: Points = distinct[ConvexHull(distinct).vertices]
    return corners
