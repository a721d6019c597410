"""Two masks and a tolerance in mm in, the normalised surface Dice out.

Nikolov et al. 2018 (arXiv 1809.04430): the share of both surfaces that lies within the tolerance of the other
one. A surface here is the set of the mask's voxels with a face neighbour outside it (outside the image counts
as outside), each weighing the same, with its position at the voxel's centre. That is MONAI's default
definition; the Decathlon's own tool weighs surface elements by their area, so the two values differ.

Distances come from a k-d tree over surface voxels, bounded by the tolerance: its cost follows the surface, not
the volume of a distance map.
"""

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from autoseg.records.geometry import Triple
from autoseg.spatial.cropping import box_slices, mask_box

Mask = npt.NDArray[np.bool_]

# Two voxels exactly `tolerance_mm` apart must count as within it whatever the rounding of index x spacing.
_SLACK = 1e-6


def nsd(prediction: Mask, reference: Mask, spacing_mm: Triple, tolerance_mm: float) -> float | None:
    """Normalised surface Dice.

    Args:
        prediction: `Z Y X`.
        reference: `Z Y X`.
        spacing_mm: voxel edges along z, y, x. An axis of one voxel is left out: a slice has an outline only.
        tolerance_mm: largest distance that counts as agreement; 0 asks for equal surfaces.

    Returns:
        0 to 1; None when both masks are empty, 0 when one of them is.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"masks must have one shape, got {prediction.shape} and {reference.shape}")
    union = prediction | reference
    if not union.any():
        return None
    box = box_slices(mask_box(union))
    axes = [axis for axis, size in enumerate(prediction.shape) if size > 1]
    spacing = np.array([spacing_mm[axis] for axis in axes])
    first = _surface_points(prediction[box], spacing, axes)
    second = _surface_points(reference[box], spacing, axes)
    if len(first) == 0 or len(second) == 0:
        return 0.0
    agreeing = _num_within(first, second, tolerance_mm) + _num_within(second, first, tolerance_mm)
    return agreeing / (len(first) + len(second))


def _surface_points(mask: Mask, spacing: npt.NDArray[np.float64], axes: list[int]) -> npt.NDArray[np.float64]:
    """Centres of the surface voxels in mm, `n x len(axes)`; outside the box counts as outside the mask."""
    cross = np.zeros((3,) * mask.ndim, dtype=bool)
    cross[(1,) * mask.ndim] = True
    for axis in axes:
        cross[tuple(slice(None) if a == axis else 1 for a in range(mask.ndim))] = True
    surface = mask & ~ndimage.binary_erosion(mask, structure=cross, border_value=0)
    points: npt.NDArray[np.float64] = np.argwhere(surface)[:, axes] * spacing
    return points


def _num_within(points: npt.NDArray[np.float64], others: npt.NDArray[np.float64], tolerance_mm: float) -> int:
    """How many of `points` have one of `others` within the tolerance."""
    if points.shape[1] == 0:  # an image of one voxel: both masks are that voxel
        return len(points)
    bound = tolerance_mm * (1 + _SLACK) + _SLACK
    distances, _ = cKDTree(others).query(points, distance_upper_bound=bound)
    return int(np.isfinite(distances).sum())
