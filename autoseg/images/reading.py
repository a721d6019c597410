"""Files in, volumes out: the one checked reader of images and label maps.

What is wrong with a file ends in an `ImageError` (a DataError) that names it; what could be decided or
repaired is a note on the volume. Values that are not finite are kept: that is a matter of the dataset's checks.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg.images.contents import GZIP_MAGIC, unpack_start
from autoseg.images.formats import ITK, NIFTI, TIFF, file_ending
from autoseg.images.itk import expected_itk_bytes, read_itk, read_itk_header
from autoseg.images.nifti import START_BYTES, is_nifti, read_header, read_nifti
from autoseg.images.pictures import read_picture, read_tiff
from autoseg.images.volume import ImageError, Note, Volume
from autoseg.records.geometry import Geometry
from autoseg.storage.large_arrays import large_array

# Labels that went through a resampling or a float format are off by rounding; anything further is a real fraction.
_ROUNDING = 1e-3
_FLOAT32_BYTES = 4  # of a voxel whose file scales its values
_PACKED = 8


def read_image(paths: Sequence[Path]) -> Volume:
    """Read an image: one file with all channels, or one file a channel.

    Args:
        paths: files; the channels of all are put together in this order and must lie on one grid.

    Returns:
        Voxels C Z Y X in the file's type (float32 where the file scales its values).

    Raises:
        ImageError: a file is missing, damaged, no image, or the channels' grids differ.
        ResourceError: an image does not fit into memory.
    """
    volumes = [_read(path) for path in paths]
    first = volumes[0]
    if len(volumes) == 1:
        return first
    for path, volume in zip(paths, volumes, strict=True):
        _check_same_grid(first.geometry, volume.geometry, paths[0], path)
    shape = (sum(len(volume.array) for volume in volumes), *first.geometry.shape)
    array = large_array(shape, np.result_type(*(volume.array.dtype for volume in volumes)))
    filled = 0
    for volume in volumes:
        array[filled : filled + len(volume.array)] = volume.array
        filled += len(volume.array)
    digests = tuple(digest for volume in volumes for digest in volume.sha256)
    notes = tuple(note for volume in volumes for note in volume.notes)
    return Volume(array, first.geometry, digests, notes)


def read_label(path: Path) -> Volume:
    """Read a label map: integers, 1 Z Y X. Values within 0.001 of an integer are rounded, with a note.

    Raises:
        ImageError: as `read_image`; or there are fractions, values that are not finite, several channels,
            or the format is lossy.
        ResourceError: it does not fit into memory.
    """
    if file_ending(path) in (".jpg", ".jpeg"):
        raise ImageError("lossy_label", f"{path}: JPEG changes label values; save label maps as PNG or NIfTI.")
    volume = _read(path, is_label=True)
    if len(volume.array) != 1:
        message = f"{path} has {len(volume.array)} channels; expected one value a voxel."
        raise ImageError("label_channels", message)
    array, notes = volume.array, volume.notes
    if array.dtype.kind == "f":
        array, found = _to_integers(array, path)
        notes = (*notes, *found)
    return replace(volume, array=array, notes=notes)


def read_geometry(path: Path) -> Geometry:
    """The grid of an image, from the header alone where there is one. Raises ImageError as `read_image` does."""
    if file_ending(path) in NIFTI or _looks_like_nifti(path):
        return read_header(path).geometry
    return read_itk_header(path)[0] if file_ending(path) in ITK else _read(path).geometry


def count_channels(path: Path) -> int:
    """Channels of an image, from the header alone where there is one. Raises ImageError as `read_image` does."""
    if file_ending(path) in NIFTI or _looks_like_nifti(path):
        return read_header(path).num_channels
    return read_itk_header(path)[1] if file_ending(path) in ITK else len(_read(path).array)


def expected_bytes(path: Path) -> int:
    """About the bytes that the voxels of a file take once they are read, without reading them; 0 if it is damaged.

    Headers tell it; pictures and TIFF are taken to be packed to an eighth, as label maps may be.
    """
    try:
        if file_ending(path) in NIFTI or _looks_like_nifti(path):
            header = read_header(path)
            return math.prod(header.geometry.shape) * header.num_channels * max(header.dtype.itemsize, _FLOAT32_BYTES)
        if file_ending(path) in ITK:
            return expected_itk_bytes(path)
        return _PACKED * path.stat().st_size
    except (ImageError, OSError):
        return 0


def _read(path: Path, is_label: bool = False) -> Volume:
    ending = file_ending(path)
    if ending in NIFTI or _looks_like_nifti(path):
        # Scaled labels are computed in double precision, so that large integers stay exact.
        return read_nifti(path, np.float64 if is_label else np.float32)
    if ending in ITK:
        return read_itk(path)
    if ending in TIFF:
        return read_tiff(path)
    return read_picture(path, keep_indices=is_label)


def _looks_like_nifti(path: Path) -> bool:
    """Whether the first bytes are NIfTI's, whatever the name: SimpleITK must not see it, some headers crash it."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        start = stream.read(1 << 12)
    if start.startswith(GZIP_MAGIC):
        start = unpack_start(start, START_BYTES, path)
    return (is_nifti(start) and start[344:347] in (b"n+1", b"ni1")) or start[4:7] in (b"n+2", b"ni2")


def _to_integers(array: npt.NDArray[Any], path: Path) -> tuple[npt.NDArray[np.integer[Any]], tuple[Note, ...]]:
    if not np.isfinite(array).all():
        raise ImageError("label_not_finite", f"{path}: label values are NaN or infinite.")
    rounded = np.rint(array)
    difference = np.abs(array - rounded)
    if difference.max() > _ROUNDING:
        fractions = np.unique(array[difference > _ROUNDING])
        examples = ", ".join(f"{value:g}" for value in fractions[:5])
        message = f"{path}: {len(fractions)} label values are no integers ({examples}); expected integers."
        raise ImageError("fractional_label", message)
    if np.abs(rounded).max() > np.iinfo(np.int32).max:
        raise ImageError(
            "label_range", f"{path}: label values up to {np.abs(rounded).max():g}; expected 32-bit integers."
        )
    low, high = rounded.min(), rounded.max()
    is_small = np.iinfo(np.int16).min <= low and high <= np.iinfo(np.int16).max
    integers = rounded.astype(np.int16 if is_small else np.int32)
    if not difference.any():
        return integers, ()
    message = f"{path}: label values differ from integers by up to {difference.max():.2g}; they were rounded."
    return integers, (Note("float_label", message),)


def _check_same_grid(expected: Geometry, found: Geometry, first: Path, path: Path) -> None:
    if expected.shape != found.shape:
        message = f"{path} has shape {found.shape} (z y x), {first.name} {expected.shape}; channels need one grid."
        raise ImageError("channel_grid", message)
    corners = np.array([[z, y, x, 1.0] for z in (0, 1) for y in (0, 1) for x in (0, 1)])
    corners[:, :3] *= np.array(expected.shape) - 1
    distance = np.linalg.norm(corners @ (expected.matrix - found.matrix)[:3].T, axis=1).max()
    if distance > 0.25 * min(expected.spacing_mm):
        message = f"{path} lies up to {distance:.3g} mm away from {first.name}; channels need one grid."
        raise ImageError("channel_grid", message)
