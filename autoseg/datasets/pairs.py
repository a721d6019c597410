"""A case in, its image and its label on one grid out; and how two grids differ.

A label may be stored with other axis order or directions than its image and still lie at the same place
in the patient; it is then turned to the image's voxel order here, wherever a pair is read. A label in a format that
knows no patient (TIFF, PNG) has the grid of its image if it has its shape: only one of the two may tell a spacing.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from autoseg.errors import DataError
from autoseg.images.formats import PICTURES, TIFF, known_ending
from autoseg.images.reading import read_image, read_label
from autoseg.images.volume import ImageError, Volume
from autoseg.records.dataset import Case, Dataset
from autoseg.records.geometry import Geometry
from autoseg.spatial.orientation import Turn, turn

_FAULT_VOXELS = 0.25
"""Two grids whose corners are further apart, in the smallest voxel edge, are not the same: the next usual mistake,
half a voxel between corner and centre, must be seen."""
_NOTE_VOXELS = 0.02
"""Beyond this the difference is more than rounding in a header."""
_SAME_SPACING = 1e-3


class GridDifference(NamedTuple):
    """How a label's grid differs from its image's."""

    kind: str
    """`same`, `small_offset`, `flipped_orientation`, `shape_mismatch`, `spacing_mismatch` or `affine_mismatch`."""
    detail: str
    """For people; empty for `same`."""
    turn: Turn | None
    """What brings the label to the image's voxel order; None where nothing does."""


def read_case_image(root: Path, case: Case, num_channels: int | None) -> Volume:
    """Read all channels of a case; any number of them where `num_channels` is None.

    Raises:
        ImageError: a file is missing or faulty, or there are not `num_channels` channels.
        ResourceError: it does not fit into memory.
    """
    volume = read_image([root / name for name in case.images])
    found = len(volume.array)
    if num_channels is not None and found != num_channels:
        files = ", ".join(case.images)
        kind = "missing_channel" if found < num_channels else "unknown_channel"
        raise ImageError(kind, f"{files}: {found} channels, expected {num_channels} (the dataset's channel_names).")
    return volume


def read_pair(dataset: Dataset, case: Case) -> tuple[Volume, Volume]:
    """Read image and label of a training case, the label turned to the image's voxel order if need be.

    Raises:
        DataError: a file is faulty, the case has no label, or the two do not lie on one grid.
        ResourceError: an image does not fit into memory.
    """
    root = Path(dataset.root)
    if case.label is None:
        raise DataError(f"case {case.id} has no label.")
    image = read_case_image(root, case, len(dataset.channel_names))
    label = read_label(root / case.label)
    return image, on_grid_of(image.geometry, label, case)


def on_grid_of(geometry: Geometry, label: Volume, case: Case) -> Volume:
    """The label in the voxel order of `geometry`; raises DataError where the two are different grids."""
    difference = compare_grids(geometry, grid_of_label(geometry, label, str(case.label)))
    if difference.turn is None:
        raise DataError(f"case {case.id}: {case.label} does not lie on its image's grid: {difference.detail}")
    if difference.kind != "flipped_orientation":
        return label
    array = np.ascontiguousarray(turn(label.array, difference.turn))
    return Volume(array, geometry, label.sha256, label.notes)


def grid_of_label(image: Geometry, label: Volume, file: Path | str) -> Geometry:
    """The label's own grid, or its image's where the format of `file` knows no patient and the shapes agree."""
    has_no_grid = known_ending(file) in (*TIFF, *PICTURES)
    return image if has_no_grid and label.geometry.shape == image.shape else label.geometry


def compare_grids(image: Geometry, label: Geometry) -> GridDifference:
    """Whether two grids are the same, the same but for the order of voxels, or different and in what."""
    how = _turn_onto(image, label)
    if how is not None:
        voxels = _corner_distance(image, label, how) / min(image.spacing_mm)
        if voxels <= _FAULT_VOXELS:
            if how != Turn((0, 1, 2), (False, False, False)):
                detail = f"same place, axes stored in another order (taken {how.axes}, reversed {how.flips})"
                return GridDifference("flipped_orientation", detail, how)
            if voxels <= _NOTE_VOXELS:
                return GridDifference("same", "", how)
            return GridDifference("small_offset", f"corners are up to {voxels:.2g} voxels apart", how)
    if image.shape != label.shape:
        detail = f"image {_size(image.shape)}, label {_size(label.shape)} voxels (x y z)"
        return GridDifference("shape_mismatch", detail, None)
    ratio = np.array(label.spacing_mm) / np.array(image.spacing_mm)
    if np.abs(ratio - 1).max() > _SAME_SPACING:
        detail = f"image {_size(image.spacing_mm)}, label {_size(label.spacing_mm)} mm (x y z)"
        return GridDifference("spacing_mismatch", detail, None)
    distance = _corner_distance(image, label, Turn((0, 1, 2), (False, False, False)))
    return GridDifference("affine_mismatch", f"image and label lie up to {distance:.4g} mm apart in the patient", None)


def _turn_onto(image: Geometry, label: Geometry) -> Turn | None:
    """The turn after which the label's array has the image's shape and axis directions, if there is one."""
    relative = np.linalg.solve(image.matrix[:3, :3], label.matrix[:3, :3])  # column: label axis in image axes
    closest = np.abs(relative).argmax(axis=0)
    if sorted(closest.tolist()) != [0, 1, 2]:
        return None
    axes = [int(np.flatnonzero(closest == axis)[0]) for axis in range(3)]
    flips = [bool(relative[axis, axes[axis]] < 0) for axis in range(3)]
    if tuple(label.shape[axis] for axis in axes) != image.shape:
        return None
    return Turn((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]))


def _corner_distance(image: Geometry, label: Geometry, how: Turn) -> float:
    """Largest distance in mm between the places of corresponding corner voxels, the label turned by `how`."""
    worst = 0.0
    for corner in np.ndindex(2, 2, 2):
        at = [c * (n - 1) for c, n in zip(corner, image.shape, strict=True)]
        there = [0, 0, 0]
        for axis in range(3):
            there[how.axes[axis]] = image.shape[axis] - 1 - at[axis] if how.flips[axis] else at[axis]
        step = image.matrix @ [*at, 1.0] - label.matrix @ [*there, 1.0]
        worst = max(worst, float(np.linalg.norm(step[:3])))
    return worst


def _size(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:g}" for value in values[::-1])
