"""A segmentation and its image in, what a report would state out: volume, diameters, place and intensities."""

from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg.metrics.diameters import axial_axis, measure_diameters
from autoseg.records.geometry import Geometry
from autoseg.records.labels import IntArray, LabelScheme, Target
from autoseg.records.measurements import Intensities, Measurement
from autoseg.spatial.components import components
from autoseg.spatial.cropping import box_slices, mask_box

Floats = npt.NDArray[np.float64]

_NOTHING = Intensities(mean=None, std=None, minimum=None, median=None, maximum=None)


def measure_case(
    classes: IntArray, image: npt.NDArray[Any], labels: LabelScheme, geometry: Geometry
) -> tuple[Measurement, ...]:
    """Measure every target and each of its components.

    Args:
        classes: `Z Y X` internal class numbers.
        image: `C Z Y X` on the same grid, as read.
        labels: scheme with the targets; regions may overlap.
        geometry: of the grid.

    Returns:
        Of each target first the whole, then its components, the largest first.
    """
    return tuple(one for target in labels.targets for one in _measure_target(target, classes, image, geometry))


def _measure_target(
    target: Target, classes: IntArray, image: npt.NDArray[Any], geometry: Geometry
) -> list[Measurement]:
    mask = np.isin(classes, target.members)
    if not mask.any():
        return [_row(target, None, np.zeros((0, 3), np.int64), [np.zeros(0)] * len(image), 0, geometry)]
    box = mask_box(mask)
    inside = box_slices(box)
    numbers, count = components(mask[inside])
    flat = np.flatnonzero(numbers)
    owner = numbers.reshape(-1)[flat].astype(np.int64)
    sizes = np.bincount(owner, minlength=count + 1)[1:]
    rank = np.empty(count + 1, np.int64)
    rank[np.argsort(-sizes, kind="stable") + 1] = np.arange(count)
    flat, sizes = flat[np.argsort(rank[owner], kind="stable")], np.sort(sizes)[::-1]
    voxels = np.stack(np.unravel_index(flat, numbers.shape), axis=1) + np.array([part.start for part in inside])
    channels = [channel[inside].reshape(-1)[flat].astype(np.float64) for channel in image]
    starts = np.cumsum(sizes) - sizes
    rows = [_row(target, None, voxels, channels, count, geometry)]
    for component, (start, size) in enumerate(zip(starts, sizes, strict=True), 1):
        own = slice(int(start), int(start + size))
        rows.append(_row(target, component, voxels[own], [values[own] for values in channels], count, geometry))
    return rows


def _row(
    target: Target,
    component: int | None,
    voxels: npt.NDArray[np.int64],
    channels: list[Floats],
    count: int,
    geometry: Geometry,
) -> Measurement:
    diameters, centroid_mm = None, None
    if component is not None:
        diameters = measure_diameters(voxels, geometry.spacing_mm, axial_axis(geometry), geometry.planar)
    if len(voxels):
        x, y, z = (float(value) for value in (geometry.matrix @ [*voxels.mean(axis=0), 1.0])[:3])
        centroid_mm = (x, y, z)
    return Measurement(
        target=target.name,
        component=component,
        num_components=count,
        num_voxels=len(voxels),
        volume_mm3=len(voxels) * geometry.voxel_volume_mm3,
        centroid_mm=centroid_mm,
        diameters=diameters,
        intensities=tuple(_statistics(values) for values in channels),
    )


def _statistics(values: Floats) -> Intensities:
    if not len(values) or not np.isfinite(values).all():
        return _NOTHING
    return Intensities(
        mean=float(values.mean()),
        std=float(values.std()),
        minimum=float(values.min()),
        median=float(np.median(values)),
        maximum=float(values.max()),
    )
