"""A fingerprint in; the cases' spacings and shapes on the network's axes, and the target spacing, out."""

from typing import NamedTuple

import numpy as np

from autoseg.errors import DataError
from autoseg.planning.presets import AxisRule, Orientation
from autoseg.planning.spacing import FloatArray, coarsest_first, median_shape, slices_first, target_spacing
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.geometry import IntTriple
from autoseg.spatial.orientation import canonical_axes, turned


class Grid(NamedTuple):
    """The training cases on the network's axes; rows are cases, columns z y x after orientation and `transpose`."""

    spacings_mm: FloatArray
    shapes: FloatArray
    """After the crop, before resampling."""
    target_mm: FloatArray
    transpose: IntTriple

    def median_shape(self, spacing_mm: FloatArray) -> FloatArray:
        """Median shape after resampling to `spacing_mm`, z y x or y x as that is long."""
        first = 3 - len(spacing_mm)
        return median_shape(self.spacings_mm[:, first:], self.shapes[:, first:], spacing_mm)


def build_grid(fingerprint: Fingerprint, orientation: Orientation, rule: AxisRule, reasons: dict[str, str]) -> Grid:
    """Bring the cases' spacings and shapes onto the network's axes and choose the target spacing.

    Args:
        fingerprint: of the dataset. Without orientations in it (nnU-Net's has none) stored axes are taken as canonical.
        orientation: `canonical` turns every case to the axes superior, anterior, right; `stored` keeps the file's.
        rule: which axis comes first: the coarsest (nnU-Net's), or that of single slices where the cases are such.
        reasons: gets an entry where the order of the axes is not nnU-Net's.

    Raises:
        DataError: the fingerprint measures no case, or lists of different length.
    """
    spacings, shapes = fingerprint.spacings, fingerprint.shapes_after_crop
    if not spacings or len(spacings) != len(shapes):
        raise DataError(
            f"The fingerprint has {len(spacings)} spacings and {len(shapes)} shapes; it needs one of each a case. "
            "Take it anew."
        )
    if orientation == "canonical" and knows_orientations(fingerprint):
        axes = [canonical_axes(fingerprint.cases[case].orientation) for case in sorted(fingerprint.cases)]
        spacings = tuple(turned(spacing, how) for spacing, how in zip(spacings, axes, strict=True))
        shapes = tuple(turned(shape, how) for shape, how in zip(shapes, axes, strict=True))
    all_spacings, all_shapes = np.array(spacings, dtype=np.float64), np.array(shapes, dtype=np.float64)
    target = target_spacing(all_spacings, all_shapes)
    transpose = nnunets = coarsest_first(target)
    if rule == "slices":
        transpose = slices_first(target, all_shapes)
    if transpose != nnunets:
        reasons["transpose"] = (
            f"the cases are single slices along axis {transpose[0]}, which comes first; nnU-Net's rule puts the "
            f"coarsest one first, {nnunets[0]}, and would cut the slices into lines"
        )
    columns = list(transpose)
    return Grid(all_spacings[:, columns], all_shapes[:, columns], target[columns], transpose)


def knows_orientations(fingerprint: Fingerprint) -> bool:
    """Whether every case's own measurements, and with them its orientation, are there."""
    return len(fingerprint.cases) == len(fingerprint.spacings)
