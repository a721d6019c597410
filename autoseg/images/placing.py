"""An array and what is known of its place in the patient in, a volume as readers give it out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg.errors import UsageError
from autoseg.images.nifti import PLANAR_Z_FACTOR
from autoseg.images.volume import Volume
from autoseg.records.geometry import Geometry, IntTriple, affine_rows

Floats = npt.NDArray[np.float64]

ORIENTATION = "SPL"
"""Where z, y and x run if nothing else is said: superior, posterior, left, as the slices of an axial DICOM scan."""

_LETTERS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def volume_of_array(
    array: npt.NDArray[Any],
    spacing_mm: Sequence[float] | None,
    affine: npt.ArrayLike | None = None,
    orientation: str = ORIENTATION,
) -> tuple[Volume, bool]:
    """Place an array in the patient.

    Args:
        array: `C Z Y X` or, of one channel, `Z Y X`; with two spacings `C Y X` or `Y X`.
        spacing_mm: edges of a voxel along z, y, x in mm, or y, x of a 2-D image; None: the affine tells them.
        affine: 4 x 4, from array indices (z, y, x, 1) to the patient's x, y, z in mm (RAS+).
        orientation: without an affine, towards where in the patient z, y and x run: letters of R L A P S I.

    Returns:
        The image `C Z Y X`, and whether it is a 2-D one.

    Raises:
        UsageError: type, shape, spacing, affine or orientation make no sense.
    """
    if array.dtype.kind not in "uif":
        raise UsageError(f"image has values of type {array.dtype}; expected integers or real numbers.")
    spacing = None if spacing_mm is None else _numbers("spacing_mm", spacing_mm)
    is_flat = spacing is not None and spacing.shape == (2,)
    num_axes = 2 if is_flat else 3
    if array.ndim not in (num_axes, num_axes + 1) or not array.size:
        axes = "Y X or C Y X" if is_flat else "Z Y X or C Z Y X"
        raise UsageError(f"image has shape {array.shape}; expected {axes} with a spacing for each axis of space.")
    whole = array[None] if array.ndim == num_axes else array
    if is_flat:
        whole = whole[:, None]
    num_z, num_y, num_x = whole.shape[1:]
    return Volume(whole, _geometry((num_z, num_y, num_x), spacing, affine, orientation)), is_flat


def _geometry(shape: IntTriple, spacing: Floats | None, affine: npt.ArrayLike | None, orientation: str) -> Geometry:
    if spacing is None and affine is None:
        raise UsageError("spacing_mm or affine must be given: without them no length in the image is known.")
    planar = spacing is not None and spacing.shape == (2,)
    lengths = None if spacing is None else _lengths(spacing)
    if affine is None:
        assert lengths is not None, "one of the two is given"
        matrix = _directions(orientation) * [*lengths, 1.0]
    else:
        matrix = _matrix(affine)
        edges = np.linalg.norm(matrix[:, :3], axis=0)
        if lengths is None:
            lengths = edges
        elif not planar and not np.allclose(lengths, edges, rtol=1e-3):
            raise UsageError(
                f"affine has voxels of {edges.round(4).tolist()} mm (z y x), spacing_mm {lengths.tolist()}."
            )
    z, y, x = lengths.tolist()
    return Geometry(shape=shape, spacing_mm=(z, y, x), affine=affine_rows(matrix), planar=planar)


def _numbers(name: str, given: npt.ArrayLike) -> Floats:
    try:
        return np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} is {given!r}; expected numbers.") from error


def _lengths(spacing: Floats) -> Floats:
    """Voxel edges along z, y, x; raises UsageError where they make no sense."""
    if spacing.shape not in ((2,), (3,)) or not (np.isfinite(spacing) & (spacing > 0)).all():
        given = spacing.tolist()
        raise UsageError(f"spacing_mm is {given}; expected positive mm along z, y, x (y, x of a 2-D image).")
    return spacing if spacing.shape == (3,) else np.array([PLANAR_Z_FACTOR * spacing.max(), *spacing])


def _matrix(affine: npt.ArrayLike) -> Floats:
    """The upper 3 x 4 of an affine whose axes span space, whatever their lengths."""
    given = _numbers("affine", affine)
    fault = UsageError("affine must be an invertible 4 x 4 matrix of finite numbers.")
    if given.shape != (4, 4) or not np.isfinite(given).all():
        raise fault
    lengths = np.linalg.norm(given[:3, :3], axis=0)
    if lengths.min() == 0 or abs(np.linalg.det(given[:3, :3] / lengths)) < 1e-3:
        raise fault
    return given[:3]


def _directions(orientation: str) -> Floats:
    """Unit steps along z, y, x as the columns of 3 x 4, no translation."""
    letters = [_LETTERS.get(letter) for letter in orientation.upper()]
    if len(letters) != 3 or {letter and letter[0] for letter in letters} != {0, 1, 2}:
        raise UsageError(f"orientation is {orientation!r}; expected one letter of R/L, A/P and S/I each, as in SPL.")
    steps = np.zeros((3, 4))
    for axis, letter in enumerate(letters):
        if letter is not None:
            steps[letter[0], axis] = letter[1]
    return steps
