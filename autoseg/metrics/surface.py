"""Two masks in, the distances between their surfaces in mm and all scores that follow from them out.

The surface of a mask is the set of its voxels with a face neighbour outside it (outside the image counts as
outside), each weighing the same and standing at its centre. Both directed distance sets are computed once a target,
and every score is read from them:

| score         | definition                                                            | both empty | one empty |
|---------------|-----------------------------------------------------------------------|------------|-----------|
| hausdorff     | largest distance of either direction (Huttenlocher et al. 1993)       | None       | None      |
| hd95          | the larger of the 95th percentiles of the two directions              | None       | None      |
| assd          | mean of all distances, both directions pooled (Heimann et al. 2009)   | None       | None      |
| nsd           | share of both surfaces near the other (Nikolov 2018, arXiv 1809.04430) | None      | 0         |
| boundary_dice | Dice of the rims of the masks (after Cheng 2021, arXiv 2103.16562)    | None       | 0         |

A distance to an empty mask has no value that is right for every image, so it is None; that the target was missed or
invented shows in Dice and nsd, which are 0. Percentiles interpolate between ranks (numpy's default).

Where libraries differ: MONAI has this surface, this hd95 and this pooled assd. `surface-distance` (the Decathlon's
tool) weighs surface elements by area and stands them on voxel corners, so that its hd95 and nsd differ by
fractions of a voxel. medpy pools both directions before it takes the percentile, which gives a smaller hd95, and
averages the two means for assd. SimpleITK's `HausdorffDistanceImageFilter` measures from all voxels of a mask,
not from its surface; on masks of the surfaces it gives the same hausdorff.

Distances come from k-d trees, not distance maps: measured on one core, a query takes 0.5 to 2 us, a distance map 0.1 to
0.15 us for each voxel of the box, and boxes hold some hundred voxels for each one of the surface.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from autoseg.records.geometry import Triple
from autoseg.spatial.cropping import crop, mask_box

Mask = npt.NDArray[np.bool_]
Distances = npt.NDArray[np.float64]

# Two voxels exactly `tolerance_mm` apart must count as within it whatever the rounding of index x spacing.
_SLACK = 1e-6


@dataclass(frozen=True)
class SurfaceDistances:
    """Distance in mm of each surface voxel of one mask to the nearest surface voxel of the other, in no order."""

    from_prediction: Distances
    """One a surface voxel of the prediction; infinite where the reference is empty."""
    from_reference: Distances
    """One a surface voxel of the reference; infinite where the prediction is empty."""

    @property
    def both_empty(self) -> bool:
        """Whether neither mask holds a voxel."""
        return not (self.from_prediction.size or self.from_reference.size)

    @property
    def any_empty(self) -> bool:
        """Whether at least one mask holds no voxel."""
        return not (self.from_prediction.size and self.from_reference.size)


def surface_distances(
    prediction: npt.NDArray[Any], reference: npt.NDArray[Any], spacing_mm: Triple, axes: tuple[int, ...] | None = None
) -> SurfaceDistances:
    """Both directed distance sets of two masks.

    Args:
        prediction: `Z Y X`, nonzero in the mask. Outside the array counts as outside the mask, so arrays may be
            cropped to any box that holds both masks.
        reference: likewise.
        spacing_mm: voxel edges along z, y, x.
        axes: those along which voxels have neighbours; None: those longer than one voxel. To be given where a crop may
            have shortened an axis to one voxel. A slice has an outline only.

    Raises:
        ValueError: the shapes differ.
    """
    axes = image_axes(prediction.shape) if axes is None else axes
    masks = _in_common_box(prediction, reference)
    if masks is None:
        return SurfaceDistances(np.zeros(0), np.zeros(0))
    first, second = (_surface(mask, axes) for mask in masks)
    shared = np.zeros(np.count_nonzero(first & second))
    spacing = np.array([spacing_mm[axis] for axis in axes], dtype=np.float64)

    def points(mask: Mask) -> Distances:
        standing: Distances = np.argwhere(mask)[:, axes] * spacing
        return standing

    def directed(own: Mask, other: Mask) -> Distances:
        alone = points(own & ~other)
        if len(alone) == 0:
            return shared
        if not other.any():
            return np.full(len(alone), np.inf)
        # Sliding midpoints instead of balanced nodes: built in half the time, as points on a grid need no balance.
        return np.concatenate(
            [shared, cKDTree(points(other), balanced_tree=False, compact_nodes=False).query(alone)[0]]
        )

    return SurfaceDistances(directed(first, second), directed(second, first))


def image_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes of an image along which voxels have neighbours."""
    return tuple(axis for axis, size in enumerate(shape) if size > 1)


def hausdorff(distances: SurfaceDistances) -> float | None:
    """Hausdorff distance in mm; None when a mask is empty."""
    return _percentile(distances, 100.0)


def hd95(distances: SurfaceDistances) -> float | None:
    """95th percentile Hausdorff distance in mm: the larger of the two directions; None when a mask is empty."""
    return _percentile(distances, 95.0)


def assd(distances: SurfaceDistances) -> float | None:
    """Average symmetric surface distance in mm; None when a mask is empty."""
    if distances.any_empty:
        return None
    total = distances.from_prediction.sum() + distances.from_reference.sum()
    return float(total / (distances.from_prediction.size + distances.from_reference.size))


def nsd(distances: SurfaceDistances, tolerance_mm: float) -> float | None:
    """Normalised surface Dice, 0 to 1; None when both masks are empty, 0 when one is.

    Args:
        distances: of two masks.
        tolerance_mm: largest distance that counts as agreement; 0 asks for equal surfaces.
    """
    if distances.both_empty:
        return None
    bound = tolerance_mm * (1 + _SLACK) + _SLACK
    both = (distances.from_prediction, distances.from_reference)
    return sum(int(np.count_nonzero(d <= bound)) for d in both) / sum(d.size for d in both)


def boundary_dice(
    prediction: npt.NDArray[Any],
    reference: npt.NDArray[Any],
    spacing_mm: Triple,
    width_mm: float,
    axes: tuple[int, ...] | None = None,
) -> float | None:
    """Dice of the two masks' rims.

    The rim of a mask is its voxels within `width_mm` of a voxel of its surface, so that a thick organ's inside, which
    everyone gets right, does not count. Cheng et al. 2021 (arXiv 2103.16562) take the IoU of such rims.

    Args:
        prediction: `Z Y X`, nonzero in the mask; outside the array counts as outside the mask.
        reference: likewise.
        spacing_mm: voxel edges along z, y, x.
        width_mm: 0 leaves the surface alone.
        axes: as in `surface_distances`.

    Returns:
        0 to 1; None when both masks are empty, 0 when one is.

    Raises:
        ValueError: the shapes differ.
    """
    axes = image_axes(prediction.shape) if axes is None else axes
    masks = _in_common_box(prediction, reference)
    if masks is None:
        return None
    first, second = (_rim(mask, spacing_mm, width_mm, axes) for mask in masks)
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return 2 * np.count_nonzero(first & second) / total


def _in_common_box(prediction: npt.NDArray[Any], reference: npt.NDArray[Any]) -> tuple[Mask, Mask] | None:
    """Both masks in the box around their union; None where both are empty."""
    if prediction.shape != reference.shape:
        raise ValueError(f"masks must have one shape, got {prediction.shape} and {reference.shape}")
    found, wanted = prediction.astype(bool, copy=False), reference.astype(bool, copy=False)
    union = found | wanted
    if not union.any():
        return None
    box = mask_box(union)
    return crop(found, box), crop(wanted, box)


def _surface(mask: Mask, axes: tuple[int, ...]) -> Mask:
    """Voxels of the mask with a face neighbour outside it, all of them where no axis has neighbours."""
    inside = mask.copy() if axes else np.zeros_like(mask)
    for axis in axes:
        along, before = inside.swapaxes(0, axis), mask.swapaxes(0, axis)
        along[1:] &= before[:-1]
        along[:-1] &= before[1:]
        along[0] = along[-1] = False
    surface: Mask = mask & ~inside
    return surface


def _rim(mask: Mask, spacing_mm: Triple, width_mm: float, axes: tuple[int, ...]) -> Mask:
    if not mask.any():
        return mask
    depth = ndimage.distance_transform_edt(~_surface(mask, axes), sampling=spacing_mm)
    rim: Mask = mask & (depth <= width_mm * (1 + _SLACK) + _SLACK)
    return rim


def _percentile(distances: SurfaceDistances, percent: float) -> float | None:
    if distances.any_empty:
        return None
    both = (distances.from_prediction, distances.from_reference)
    return max(float(np.percentile(d, percent)) for d in both)
