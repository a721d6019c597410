"""A reference in, the same with one known gross error out: what an audit of labels is measured on.

The four errors are those that people who label make and that no check of a file can see: two sides exchanged, a label
moved by some voxels, a class forgotten, a label that is too small all around.
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from autoseg.errors import UsageError
from autoseg.planning.symmetry import left_right_pairs
from autoseg.records.geometry import Triple
from autoseg.records.labels import LabelScheme

Classes = npt.NDArray[np.integer[Any]]
PlantedError = Literal["swapped", "shifted", "missing", "eroded"]

ERRORS: tuple[PlantedError, ...] = ("swapped", "shifted", "missing", "eroded")
SHIFT_MM = 8.0
"""Along the first and the last axis each, rounded to voxels, at least one."""
EROSION_MM = 3.0
"""Off every side of the label, and at least the largest voxel edge."""


def plant(error: PlantedError, classes: Classes, labels: LabelScheme, spacing_mm: Triple) -> Classes:
    """Plant one error.

    Args:
        error: `swapped`: the first left and right of the dataset exchanged; `shifted`: everything moved by `SHIFT_MM`
            along the first and the last axis, what leaves the image is lost; `missing`: the second labelled class of
            dataset.json forgotten (the only one, where there is one); `eroded`: the first labelled class without its
            outer `EROSION_MM`.
        classes: `Z Y X` internal class numbers.
        labels: scheme of them.
        spacing_mm: of the grid.

    Raises:
        UsageError: nothing is labelled, or no two classes are a left and a right.
    """
    labelled = [number for number in range(1, labels.num_classes) if (classes == number).any()]
    if not labelled:
        raise UsageError("A label without foreground has nothing that could be wrong in these ways.")
    match error:
        case "swapped":
            return _exchange(classes, labels)
        case "shifted":
            return _move(classes, spacing_mm)
        case "missing":
            return np.where(classes == labelled[:2][-1], 0, classes).astype(classes.dtype)
        case "eroded":
            return _erode(classes, labelled[0], spacing_mm)


def _exchange(classes: Classes, labels: LabelScheme) -> Classes:
    pairs = left_right_pairs(labels.class_names)
    if not pairs:
        raise UsageError("No two classes are a left and a right of the same thing, so no sides can be swapped.")
    left, right = pairs[0]
    wrong = classes.copy()
    wrong[classes == left], wrong[classes == right] = right, left
    return wrong


def _move(classes: Classes, spacing_mm: Triple) -> Classes:
    z, _, x = (
        max(1, round(SHIFT_MM / edge)) if size > 1 else 0 for edge, size in zip(spacing_mm, classes.shape, strict=True)
    )
    wrong = np.zeros_like(classes)
    wrong[z:, :, x:] = classes[: classes.shape[0] - z, :, : classes.shape[2] - x]
    return wrong


def _erode(classes: Classes, number: int, spacing_mm: Triple) -> Classes:
    mask = classes == number
    depth = ndimage.distance_transform_edt(mask, spacing_mm)
    edges = [edge for edge, size in zip(spacing_mm, classes.shape, strict=True) if size > 1]
    return np.where(mask & (depth <= max(EROSION_MM, *edges)), 0, classes).astype(classes.dtype)
