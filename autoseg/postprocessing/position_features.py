"""Components in, where they lie out: in the body, and from the largest component of their own and of other targets.

The body is the part of the image brighter than halfway between its 5th and 95th percentile: the box of the slices,
along each axis, that hold at least a twentieth of what the fullest one holds, so that neither noise nor a table's edge
moves it. Positions in it run from 0 to 1 along the axes of the turned grid (S, A, R with a canonical orientation).
Distances between surfaces are those of the nearest border voxels' centres, found with a k-d tree.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from autoseg.postprocessing.component_list import Classes, ComponentList
from autoseg.postprocessing.group_statistics import means, owners, smallest, spread
from autoseg.postprocessing.intensity_features import thinned
from autoseg.postprocessing.probability_features import border
from autoseg.postprocessing.shape_features import coordinates
from autoseg.records.results import PreprocessedCase

Column = npt.NDArray[np.float64]

_SAMPLE = 8192
_QUERIED, _STORED = 64, 20_000
"""Border voxels of a component that ask for their nearest neighbour, and of a largest component that are asked."""
_VOXELS_FOR_BODY = 1 << 21
_SHARE_OF_FULLEST = 0.05


def centres(found: ComponentList) -> Column:
    """Mean array index `n 3` of each row's voxels (of an even sample of a large one)."""
    taken, offsets = spread(found.offsets, _SAMPLE)
    at = coordinates(found, found.voxels[taken])
    return np.stack([means(a, offsets) for a in at.T], axis=1)


def centres_mm(found: ComponentList, meta: PreprocessedCase) -> Column:
    """World x, y, z (RAS+, mm) of each row's centre, `n 3`; `meta` tells how its case was turned and cropped."""
    if not len(found.targets):
        return np.zeros((0, 3))
    return world_mm(centres(found), meta)


def world_mm(centre: Column, meta: PreprocessedCase) -> Column:
    """World x, y, z (RAS+, mm) of array indices `n 3` on the crop box of the turned grid."""
    on_turned = centre + np.array([start for start, _ in meta.crop])
    stored = np.empty_like(on_turned)
    for axis, (source, flip) in enumerate(zip(meta.axes, meta.flips, strict=True)):
        last = meta.geometry.shape[source] - 1
        stored[:, source] = last - on_turned[:, axis] if flip else on_turned[:, axis]
    matrix = meta.geometry.matrix
    world: Column = stored @ matrix[:3, :3].T + matrix[:3, 3]
    return world


def body_box(channel: npt.NDArray[Any]) -> Column:
    """Lower and upper edges `2 3` of the body in an image `z y x`, in voxels from the outer edge of the first one."""
    sample = thinned(channel, _VOXELS_FOR_BODY)
    low, high = np.percentile(sample, [5, 95])
    bright = sample > (low + high) / 2
    edges = np.array([[0.0] * 3, channel.shape])
    for axis in range(3):
        filled = bright.sum(axis=tuple(a for a in range(3) if a != axis))
        slices = np.flatnonzero(filled >= max(1, _SHARE_OF_FULLEST * filled.max()))
        if slices.size:
            step = channel.shape[axis] / len(filled)
            edges[:, axis] = slices[0] * step, (slices[-1] + 1) * step
    return edges


def position_features(
    found: ComponentList, image: npt.NDArray[Any], classes: Classes, spacing_mm: Sequence[float], planar: bool
) -> dict[str, Column]:
    """Where each component lies.

    Args:
        found: `n` rows.
        image: `C z y x`; the first channel shows the body.
        classes: segmentation `z y x`.
        spacing_mm: z y x.
        planar: a 2-D image: the axis across the plane does not count.

    Returns:
        Name -> `n` values; NaN where there is no other target.
    """
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    centre = centres(found)
    edges = body_box(image[0])
    relative = (centre + 0.5 - edges[0]) / (edges[1] - edges[0])
    inwards = np.minimum(centre + 0.5 - edges[0], edges[1] - centre - 0.5) * spacing
    used = [1, 2] if planar else [0, 1, 2]
    if planar:
        relative[:, 0] = np.nan
    return {
        "body_z": relative[:, 0],
        "body_y": relative[:, 1],
        "body_x": relative[:, 2],
        "body_depth_mm": inwards[:, used].min(axis=1) if len(centre) else np.zeros(0),
        **_to_largest(found, centre, spacing),
        "touches_others": _touching(found, classes),
    }


def _to_largest(found: ComponentList, centre: Column, spacing_mm: Column) -> dict[str, Column]:
    """Distances in mm, centre to centre and surface to surface, to the largest component of each target."""
    num = len(found.targets)
    points, offsets = _border_points(found, spacing_mm, _QUERIED)
    own = np.full((num, 2), np.nan)
    other = np.full((num, 2), np.nan)
    for target in np.unique(found.targets[found.is_decided]):
        rows = np.flatnonzero((found.targets == target) & found.is_decided)
        biggest = rows[np.argmax(found.sizes[rows])]
        tree = cKDTree(_border_of_row(found, biggest, spacing_mm))
        apart = np.linalg.norm((centre - centre[biggest]) * spacing_mm, axis=1)
        gaps = smallest(tree.query(points)[0], offsets)
        gaps[biggest] = 0.0
        is_own = found.targets == target
        own[is_own] = np.stack([apart, gaps], axis=1)[is_own]
        closer = ~is_own & ~(other[:, 1] <= gaps)
        other[closer] = np.stack([apart, gaps], axis=1)[closer]
    return {
        "largest_centre_mm": own[:, 0],
        "largest_distance_mm": own[:, 1],
        "other_centre_mm": other[:, 0],
        "other_distance_mm": other[:, 1],
    }


def _border_points(found: ComponentList, spacing_mm: Column, limit: int) -> tuple[Column, npt.NDArray[np.int64]]:
    rim, offsets = border(found, limit)
    return coordinates(found, found.voxels[rim]) * spacing_mm, offsets


def _border_of_row(found: ComponentList, row: int, spacing_mm: Column) -> Column:
    where = slice(found.offsets[row], found.offsets[row + 1])
    voxels = found.voxels[where][found.faces[where] > 0]
    voxels = voxels[:: max(1, len(voxels) // _STORED)]
    return coordinates(found, voxels) * spacing_mm


def _touching(found: ComponentList, classes: Classes) -> Column:
    """Share of the surface faces behind which the segmentation has another foreground class than inside."""
    rim, offsets = border(found)
    rows, start, faces = owners(offsets), coordinates(found, found.voxels[rim]), found.faces[rim]
    touched, all_faces = np.zeros(len(found.targets)), np.zeros(len(found.targets))
    inner = classes[tuple(start.T)]
    for bit in range(6):
        chosen = np.flatnonzero((faces >> bit) & 1)
        point = start[chosen].copy()
        point[:, bit // 2] += 1 if bit % 2 else -1
        inside = ((point >= 0) & (point < found.shape)).all(axis=1)
        behind = classes[tuple(np.clip(point, 0, np.array(found.shape) - 1).T)]
        touched += np.bincount(
            rows[chosen], weights=inside & (behind > 0) & (behind != inner[chosen]), minlength=len(touched)
        )
        all_faces += np.bincount(rows[chosen], minlength=len(touched))
    return touched / all_faces
