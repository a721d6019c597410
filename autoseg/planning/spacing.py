"""Spacings and shapes of the training cases in; target spacing, axis order and median shape out.

These are nnU-Net's rules, to the last bit where a rounding decides: medians of the spacings are taken as
50th percentiles and those of the shapes as medians, because the two differ in the last place for an even
number of cases, and a patch size can hang on that.
"""

import numpy as np
import numpy.typing as npt

from autoseg.records.geometry import IntTriple, Triple

FloatArray = npt.NDArray[np.float64]

ANISOTROPY_THRESHOLD = 3.0
"""nnU-Net: an axis is coarse when its spacing is more than three times that of both others."""

_COARSE_AXIS_PERCENTILE = 10
"""nnU-Net: the target on a coarse axis; its median would leave thin-slice cases with too few slices."""

_ABOVE_OTHERS_MM = 1e-5
"""nnU-Net: keeps the coarse axis the coarsest where it had to be raised to the others' spacing."""

COARSENING_STEP = 1.03
"""nnU-Net: factor by which the spacing grows in each step of the search for a coarser resolution."""

SIMILAR_FACTOR = 2.0
"""nnU-Net: axes whose spacings differ by less than this are treated alike."""


def target_spacing(spacings_mm: FloatArray, shapes: FloatArray) -> FloatArray:
    """The spacing all cases are resampled to at full resolution.

    Args:
        spacings_mm: one row a case, z y x.
        shapes: voxels of the cropped cases before resampling, one row a case, z y x.

    Returns:
        z y x in mm: the median; on one coarse axis with few slices the 10th percentile, not below the others.
    """
    target = np.percentile(spacings_mm, 50, axis=0)
    size = np.percentile(shapes, 50, axis=0)
    worst = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != worst]
    largest_other = max(target[others])
    coarse = target[worst] > ANISOTROPY_THRESHOLD * largest_other
    few_slices = size[worst] * ANISOTROPY_THRESHOLD < min(size[others])
    if coarse and few_slices:
        fine = np.percentile(spacings_mm[:, worst], _COARSE_AXIS_PERCENTILE)
        target[worst] = fine if fine >= largest_other else largest_other + _ABOVE_OTHERS_MM
    return np.asarray(target, dtype=np.float64)


def coarsest_first(spacing_mm: FloatArray) -> IntTriple:
    """The order of the axes in which the coarsest comes first and the others keep theirs; ties: the first axis."""
    return _first(int(np.argmax(spacing_mm)))


def slices_first(spacing_mm: FloatArray, shapes: FloatArray) -> IntTriple:
    """As `coarsest_first`, but of the axes along which the median case has one voxel, where there are any.

    A single slice in a 3-D file often has a slice spacing below that of its pixels (or 1, which says nothing). By
    nnU-Net's rule a 2-D network would then be shown the lines of the image one by one.
    """
    lone = np.median(shapes, axis=0) == 1
    return _first(int(np.argmax(np.where(lone, spacing_mm, 0)))) if lone.any() else coarsest_first(spacing_mm)


def _first(axis: int) -> IntTriple:
    second, third = (other for other in range(3) if other != axis)
    return (axis, second, third)


def median_shape(spacings_mm: FloatArray, shapes: FloatArray, target_mm: FloatArray) -> FloatArray:
    """Per-axis median of the cases' shapes after resampling to `target_mm`.

    Args:
        spacings_mm: one row a case, one column an axis.
        shapes: voxels before resampling, likewise.
        target_mm: one spacing an axis.

    Returns:
        Voxels an axis. The shape of each case is rounded (half to even) first; the median of an even number of cases
        may end in .5 and stays so.
    """
    resampled = np.rint(spacings_mm / target_mm * shapes)
    return np.asarray(np.median(resampled, axis=0), dtype=np.float64)


def coarsen(spacing_mm: FloatArray) -> FloatArray:
    """One step coarser (3 %), as nnU-Net takes it for its low resolution.

    Axes more than two times finer than the coarsest are coarsened first, alone; once there are none, all axes are.
    """
    fine = spacing_mm.max() / spacing_mm > SIMILAR_FACTOR
    if not fine.any():
        return spacing_mm * COARSENING_STEP
    return np.where(fine, spacing_mm * COARSENING_STEP, spacing_mm)


def as_triple(values: FloatArray) -> Triple:
    """Three plain numbers for a record."""
    z, y, x = (float(value) for value in values)
    return (z, y, x)
