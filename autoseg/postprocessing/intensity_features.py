"""Components and the image in, how bright they are and how they stand out from their surrounding out.

The surrounding is read where one leaves the component: from every surface face outwards along its normal, at a
distance in mm, interpolated between voxels, and only where the target ends. That weighs by surface, needs no distance
map, and means the same on any grid. The gradient at the edge is the fall from a border voxel to the neighbour outside.

Intensities are given on the scale on which the plan normalises them: CT by the dataset's foreground, others by the
case's own mean and deviation over everything nonzero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg.postprocessing.component_list import Bools, Classes, ComponentList
from autoseg.postprocessing.group_statistics import Index, deviations, means, owners, quantiles, spread
from autoseg.postprocessing.probability_features import border
from autoseg.postprocessing.shape_features import coordinates
from autoseg.records.fingerprint import IntensityStatistics
from autoseg.records.labels import LabelScheme

Column = npt.NDArray[np.float64]
Scale = tuple[float, float]

_SAMPLE = 4096
_VOXELS_FOR_SCALE = 1 << 20


def intensity_scales(
    image: npt.NDArray[Any], schemes: Sequence[str], known: Sequence[IntensityStatistics | None]
) -> tuple[Scale, ...]:
    """Mean and deviation of each channel of `image` (C z y x); see the module.

    Args:
        image: the cropped case.
        schemes: of the plan, one a channel.
        known: the dataset's foreground intensities, one a channel, where there are some.
    """
    scales = []
    for channel, scheme, statistics in zip(image, schemes, known, strict=True):
        if scheme == "ct" and statistics is not None:
            scales.append((statistics.mean, max(statistics.std, 1e-8)))
            continue
        sample = thinned(channel, _VOXELS_FOR_SCALE)
        sample = sample[sample != 0] if sample.any() else sample
        scales.append((float(sample.mean(dtype=np.float64)), max(float(sample.std(dtype=np.float64)), 1e-8)))
    return tuple(scales)


def thinned(channel: npt.NDArray[Any], limit: int) -> npt.NDArray[Any]:
    """A view of `channel` with every k-th voxel along each axis, about `limit` in all."""
    steps = [1, 1, 1]
    while np.prod([-(-n // s) for n, s in zip(channel.shape, steps, strict=True)]) > limit:
        longest = int(np.argmax([n / s for n, s in zip(channel.shape, steps, strict=True)]))
        steps[longest] *= 2
    return channel[tuple(slice(None, None, s) for s in steps)]


def intensity_features(
    found: ComponentList,
    image: npt.NDArray[Any],
    classes: Classes,
    labels: LabelScheme,
    spacing_mm: Sequence[float],
    scales: Sequence[Scale],
    ring_mm: float,
) -> dict[str, Column]:
    """Intensities of each component and of what surrounds it.

    Args:
        found: `n` rows.
        image: `C z y x` as in the file.
        classes: segmentation `z y x`, to know where a target ends.
        labels: its scheme.
        spacing_mm: z y x.
        scales: mean and deviation of each channel.
        ring_mm: distance of the surrounding from the surface.

    Returns:
        Name -> `n` values, NaN where nothing outside the target is inside the image.
    """
    taken, offsets = spread(found.offsets, _SAMPLE)
    at = tuple(coordinates(found, found.voxels[taken]).T)
    rays = _rays(found, classes, labels, np.asarray(spacing_mm, dtype=np.float64), ring_mm)
    columns: dict[str, Column] = {}
    for number, (channel, (mean, deviation)) in enumerate(zip(image, scales, strict=True)):
        inside = (channel[at].astype(np.float64) - mean) / deviation
        low_high = quantiles(inside, offsets, (0.1, 0.9))
        centre = means(inside, offsets)
        ring, gradient = _surrounding(channel, rays, len(found.targets))
        columns |= {
            f"intensity{number}_mean": centre,
            f"intensity{number}_std": deviations(inside, offsets),
            f"intensity{number}_p10": low_high[:, 0],
            f"intensity{number}_p90": low_high[:, 1],
            f"intensity{number}_contrast": centre - (ring - mean) / deviation,
            f"intensity{number}_edge_per_mm": gradient / deviation,
        }
    return columns


@dataclass(frozen=True)
class _Rays:
    """The `f` surface faces of one direction, and the voxels (array indices `f 3`) met on the way out of each."""

    rows: Index
    """Row of each face."""
    border: Index
    """Voxel inside the face."""
    beyond: Index
    """Voxel outside it."""
    near: Index
    """Last voxel centre before the distance of the ring."""
    far: Index
    """First voxel centre after it."""
    weight: float
    """Share of `far` in the value at the ring."""
    beyond_is_outside: Bools
    """Whether `beyond` lies in the image and outside the target."""
    ring_is_outside: Bools
    """The same for `near` and `far`."""
    area: float
    """Of a face in mm2."""
    step_mm: float
    """From voxel to voxel."""


def _rays(
    found: ComponentList, classes: Classes, labels: LabelScheme, spacing_mm: Column, ring_mm: float
) -> list[_Rays]:
    """Where to read along each of the six directions."""
    rim, offsets = border(found)
    rows, start, faces = owners(offsets), coordinates(found, found.voxels[rim]), found.faces[rim]
    member = np.zeros((len(labels.targets), labels.num_classes + 1), dtype=bool)
    for number, target in enumerate(labels.targets):
        member[number, list(target.members)] = True
    rays = []
    for axis in range(3):
        reach = 0.5 + ring_mm / spacing_mm[axis]  # voxels from the centre: half a voxel to the face
        whole, weight = int(np.floor(reach)), float(reach - np.floor(reach))
        for side, sign in ((0, -1), (1, 1)):
            chosen = np.flatnonzero((faces >> (2 * axis + side)) & 1)
            points = [start[chosen].copy() for _ in range(3)]
            for point, distance in zip(points, (1, whole, whole + (weight > 0)), strict=True):
                point[:, axis] += sign * distance
            beyond, near, far = (_outside(point, found, rows[chosen], classes, member) for point in points)
            rays.append(
                _Rays(
                    rows=rows[chosen],
                    border=start[chosen],
                    beyond=points[0],
                    near=points[1],
                    far=points[2],
                    weight=weight,
                    beyond_is_outside=beyond,
                    ring_is_outside=near & far,
                    area=float(np.prod(np.delete(spacing_mm, axis))),
                    step_mm=float(spacing_mm[axis]),
                )
            )
    return rays


def _outside(point: Index, found: ComponentList, rows: Index, classes: Classes, member: Bools) -> Bools:
    """Which points lie in the image and, in the segmentation, outside the row's target."""
    inside = ((point >= 0) & (point < found.shape)).all(axis=1)
    where = np.clip(point, 0, np.array(found.shape) - 1)
    result: Bools = inside & ~member[found.targets[rows], classes[tuple(where.T)]]
    return result


def _surrounding(channel: npt.NDArray[Any], rays: Sequence[_Rays], num_rows: int) -> tuple[Column, Column]:
    """Mean at the ring and mean fall per mm at the edge, weighted by the area of the faces; NaN without any."""
    totals = np.zeros((4, num_rows))  # ring: sum, weight; gradient: sum, weight

    def add(line: int, rows: Index, values: Column, area: float) -> None:
        totals[line] += np.bincount(rows, weights=values * area, minlength=num_rows)
        totals[line + 1] += np.bincount(rows, minlength=num_rows) * area

    def read(points: Index) -> Column:
        values: Column = channel[tuple(points.T)].astype(np.float64)
        return values

    for ray in rays:
        good = ray.ring_is_outside
        near, far = read(ray.near[good]), read(ray.far[good])
        add(0, ray.rows[good], near + (far - near) * ray.weight, ray.area)
        good = ray.beyond_is_outside
        add(2, ray.rows[good], (read(ray.border[good]) - read(ray.beyond[good])) / ray.step_mm, ray.area)
    with np.errstate(invalid="ignore"):
        return totals[0] / totals[1], totals[2] / totals[3]
