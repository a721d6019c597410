"""Components in, how large they are and how they are shaped out: in mm, and the same whatever the grid's axes.

Lengths of the principal axes are those of the ellipsoid with the same second moments, 4 sqrt(eigenvalue); a voxel is
a box of mass and not a point, so that one voxel alone has a size (its own moments, spacing^2 / 12, are added). The
surface is that of the voxel faces, which for a smooth body of any orientation is 3/2 (in a plane: 4/pi) times its
true one (Cauchy's formula, mean over orientations); the sphericity (in a plane: circularity) takes that into account.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autoseg.postprocessing.component_list import ComponentList
from autoseg.postprocessing.group_statistics import largest, means, owners, smallest, spread, sums

Column = npt.NDArray[np.float64]

_SAMPLE = 8192
"""Voxels of a component that its moments are taken from, evenly spread: lengths are then within 1 % or so."""
_FACE_EXCESS, _EDGE_EXCESS = 1.5, 4 / np.pi


def shape_features(
    found: ComponentList, spacing_mm: Sequence[float], planar: bool, num_targets: int
) -> dict[str, Column]:
    """Size and form of each component.

    Args:
        found: `n` rows.
        spacing_mm: z y x.
        planar: a 2-D image: volumes are areas, surfaces are perimeters, the axis across the plane does not count.
        num_targets: of the scheme.

    Returns:
        Name -> `n` values.
    """
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    used = [1, 2] if planar else [0, 1, 2]
    volume = found.sizes.astype(np.float64) * float(np.prod(spacing[used]))
    surface = _surface(found, spacing, used)
    boxes = _box_sides(found, spacing)[:, used]
    boxes = -np.sort(-boxes, axis=1)
    axes = _principal_axes(found, spacing, used)
    if planar:
        boxes, axes = (np.pad(lengths, ((0, 0), (0, 1)), constant_values=np.nan) for lengths in (boxes, axes))
        round_ = 2 * np.sqrt(np.pi * volume) * _EDGE_EXCESS / surface
    else:
        round_ = np.cbrt(np.pi) * np.cbrt(6 * volume) ** 2 * _FACE_EXCESS / surface
    return {
        "volume_mm3": volume,
        **_standing(found, volume, num_targets),
        "surface_mm2": surface,
        "sphericity": round_,
        "box_longest_mm": boxes[:, 0],
        "box_middle_mm": boxes[:, 1],
        "box_shortest_mm": boxes[:, 2],
        "axis_longest_mm": axes[:, 0],
        "axis_middle_mm": axes[:, 1],
        "axis_shortest_mm": axes[:, 2],
        "elongation": axes[:, 1] / axes[:, 0],
        "flatness": axes[:, 2] / axes[:, 1],
    }


def coordinates(found: ComponentList, voxels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Array indices `v 3` of flat ones."""
    return np.stack(np.unravel_index(voxels, found.shape), axis=1)


def _standing(found: ComponentList, volume: Column, num_targets: int) -> dict[str, Column]:
    """How a row stands among the components of its target; candidates are compared with them, but not counted."""
    rank, share = np.empty(len(volume)), np.empty(len(volume))
    decided = found.is_decided
    num = np.bincount(found.targets[decided], minlength=num_targets).astype(np.float64)
    for target in np.unique(found.targets):
        rows = found.targets == target
        others = np.sort(volume[rows & decided])
        rank[rows] = len(others) - np.searchsorted(others, volume[rows], side="right") + 1
        share[rows] = volume[rows] / np.where(decided[rows], others.sum(), others.sum() + volume[rows])
    return {"is_decided": decided.astype(np.float64), "volume_rank": rank, "volume_share": share,
            "num_components": num[found.targets]}  # fmt: skip


def _surface(found: ComponentList, spacing_mm: Column, used: Sequence[int]) -> Column:
    """Area of the surface faces of each row (in a plane: length of its edges)."""
    total = np.zeros(len(found.targets))
    for axis in used:
        area = float(np.prod([spacing_mm[a] for a in used if a != axis]))
        sides = ((found.faces >> (2 * axis)) & 1) + ((found.faces >> (2 * axis + 1)) & 1)
        total += area * sums(sides, found.offsets)
    return total


def _box_sides(found: ComponentList, spacing_mm: Column) -> Column:
    """Sides `n 3` of the smallest box around each row."""
    rim = np.flatnonzero(found.faces)  # a box is spanned by voxels of the surface; for a single slice by all
    offsets = np.searchsorted(rim, found.offsets)
    at = coordinates(found, found.voxels[rim])
    columns = [largest(at[:, a], offsets) - smallest(at[:, a], offsets) + 1 for a in range(3)]
    return np.stack(columns, axis=1) * spacing_mm


def _principal_axes(found: ComponentList, spacing_mm: Column, used: Sequence[int]) -> Column:
    """Lengths of the principal axes of each row, falling."""
    taken, offsets = spread(found.offsets, _SAMPLE)
    points = coordinates(found, found.voxels[taken])[:, used] * spacing_mm[used]
    centres = np.stack([means(p, offsets) for p in points.T], axis=1)
    points = points - centres[owners(offsets)]
    moments = np.empty((len(centres), len(used), len(used)))
    for i in range(len(used)):
        for j in range(i, len(used)):
            moments[:, i, j] = moments[:, j, i] = means(points[:, i] * points[:, j], offsets)
        moments[:, i, i] += spacing_mm[used[i]] ** 2 / 12
    lengths: Column = 4 * np.sqrt(np.maximum(np.linalg.eigvalsh(moments), 0))[:, ::-1]
    return lengths
