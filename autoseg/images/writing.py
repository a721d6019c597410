"""Arrays in, verified image files out: written beside the target, read back and compared, then renamed.

A NIfTI output that belongs to an input (`like`) gets that header's geometry field by field (dimensions of
space, pixdim, qform, sform, their codes, the unit of length) and nothing else of it: no description, no extension,
nothing that could name a patient. Gzip streams carry neither time nor name, so equal arrays give equal files.
"""

import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg.errors import AutosegError, DataError, ResourceError
from autoseg.images.formats import ITK, NIFTI, TIFF, file_ending, output_ending
from autoseg.images.itk import to_itk
from autoseg.images.nifti import Header, read_header, xyz_matrix
from autoseg.images.reading import read_image
from autoseg.records.geometry import Geometry
from autoseg.storage.atomic import write_atomically

# Segmentations shrink 100 times at any level; beyond 4 the time grows and the size does not.
_GZIP_LEVEL = 4
_GZIP = 31  # zlib's code for a gzip stream, its header without time and name
_LARGEST_PIXEL = np.iinfo(np.uint16).max
_COPIED = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")


def write_label(
    path: Path, classes: npt.NDArray[np.integer[Any]], geometry: Geometry, like: Path | None = None
) -> None:
    """Write a label map.

    Args:
        path: target; its ending chooses the format.
        classes: values as they shall stand in the file, Z Y X, in the integer type to be stored.
        geometry: grid of `classes`.
        like: image on the same grid; if both are NIfTI, its geometry fields are copied exactly.

    Raises:
        DataError: the format cannot hold the values or the shape.
        ResourceError: the disk is full, or the file reads back differently.
    """
    _write(path, classes[None], geometry, like)


def write_image(path: Path, array: npt.NDArray[Any], geometry: Geometry) -> None:
    """Write an image, C Z Y X (channels: NIfTI's fourth axis, vectors, RGB); raises as `write_label` does."""
    _write(path, array, geometry, None)


def _write(path: Path, array: npt.NDArray[Any], geometry: Geometry, like: Path | None) -> None:
    if array.shape[1:] != geometry.shape:
        raise DataError(f"{path}: the array's shape {array.shape[1:]} is not the grid's {geometry.shape}.")
    ending = file_ending(path)
    if output_ending(path) != ending:
        raise DataError(f"{path}: files of this kind are not written; use {output_ending(path)}.")
    if ending in NIFTI:
        header = _nifti_header(array, geometry, like)
        write_atomically(
            path, lambda temporary: _write_nifti(temporary, header, array), _verifier(path, array, geometry), ending
        )
        return
    write = _write_itk if ending in ITK else _write_tiff if ending in TIFF else _write_png
    kept = geometry if ending in ITK else None  # other formats have no place for the patient's axes
    write_atomically(
        path, lambda temporary: write(temporary, path, array, geometry), _verifier(path, array, kept), ending
    )


def _write_nifti(temporary: Path, header: bytes, array: npt.NDArray[Any]) -> None:
    """Write slice by slice: neither the bytes nor what they pack to exist as a whole."""
    engine = zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP) if temporary.name.endswith(".gz") else None
    with temporary.open("wb") as stream:
        for part in itertools.chain([header], _slice_bytes(array)):
            stream.write(part if engine is None else engine.compress(part))
        if engine is not None:
            stream.write(engine.flush())


def _slice_bytes(array: npt.NDArray[Any]) -> Iterator[bytes]:
    """The slices of `array` (C Z Y X) one after another, little endian."""
    for channel in array:
        for plane in channel:
            yield np.ascontiguousarray(plane, array.dtype.newbyteorder("<")).tobytes()


def _verifier(path: Path, array: npt.NDArray[Any], geometry: Geometry | None) -> Any:
    """A function that reads a written file and raises ResourceError unless it holds `array` on `geometry`."""

    def verify(temporary: Path) -> None:
        try:
            stored = read_image([temporary])
        except AutosegError as error:
            raise ResourceError(f"{path} could not be read back after writing ({error}); is the disk full?") from error
        pairs = zip(stored.array, array, strict=False)
        slices = itertools.chain.from_iterable(zip(*pair, strict=False) for pair in pairs)
        is_equal = stored.array.shape == array.shape and all(
            np.array_equal(found, wanted, equal_nan=array.dtype.kind == "f") for found, wanted in slices
        )
        if is_equal and geometry is not None:
            shift = np.abs(stored.geometry.matrix - geometry.matrix)[:3]
            scale = np.array([*geometry.shape, 1.0])  # a column's error grows with the index
            is_equal = bool((shift * scale).max() <= 0.02 * min(geometry.spacing_mm))
        if not is_equal:
            raise ResourceError(f"{path} reads back differently from what was written; is the disk faulty?")

    return verify


def _nifti_header(array: npt.NDArray[Any], geometry: Geometry, like: Path | None) -> bytes:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    original = read_header(like) if like is not None and file_ending(like) in NIFTI else None
    is_second = max(geometry.shape) > np.iinfo(np.int16).max
    if original is not None:
        is_second = int(original.fields["sizeof_hdr"]) == 540
    kind: Any = Nifti2Header if is_second else Nifti1Header
    header = kind()
    z, y, x = geometry.shape
    shape: tuple[int, ...] = (x, y) if geometry.planar else (x, y, z)
    header.set_data_shape((x, y, z, len(array)) if len(array) > 1 else shape)
    header.set_data_dtype(array.dtype)
    header["vox_offset"] = 544 if is_second else 352
    header["magic"] = b"n+2\x00\r\n\x1a\n" if is_second else b"n+1"
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    if original is None:
        _set_geometry(header, geometry)
    else:
        _copy_geometry(header, original)
    packed: bytes = header.binaryblock + bytes(4)
    return packed


def _set_geometry(header: Any, geometry: Geometry) -> None:
    matrix = xyz_matrix(geometry)
    if geometry.planar:
        matrix[:3, 2] /= geometry.spacing_mm[0]  # the huge spacing of the missing axis is not for the file
    header.set_sform(matrix, code=1)
    header.set_qform(matrix, code=1, strip_shears=True)
    lengths = [1.0 if geometry.planar else geometry.spacing_mm[0], *geometry.spacing_mm[1:]]
    header["pixdim"][1:4] = lengths[::-1]
    header.set_xyzt_units("mm")


def _copy_geometry(header: Any, original: Header) -> None:
    fields = original.fields
    for name in _COPIED:
        header[name] = fields[name]
    for name in ("srow_x", "srow_y", "srow_z"):
        header[name] = fields[name]
    header["pixdim"][:4] = fields["pixdim"][:4]
    header["xyzt_units"] = int(fields["xyzt_units"]) & 7


def _write_itk(temporary: Path, path: Path, array: npt.NDArray[Any], geometry: Geometry) -> None:
    import SimpleITK

    try:
        SimpleITK.WriteImage(to_itk(array, geometry), str(temporary), True)
    except (RuntimeError, TypeError) as error:
        raise DataError(f"{path} cannot be written: {str(error).strip().splitlines()[-1]}") from error


def _write_tiff(temporary: Path, path: Path, array: npt.NDArray[Any], geometry: Geometry) -> None:
    import tifffile

    if array.dtype.kind not in "uif" or array.dtype.itemsize > 8:
        raise DataError(f"{path}: TIFF holds no voxels of type {array.dtype}.")
    array = _unsigned(array)
    z, y, x = geometry.spacing_mm
    kept: dict[str, Any] = {}
    # ImageJ's metadata tells the spacing; it has these types, and tifffile does not read its stacks of single columns.
    if array.dtype in (np.uint8, np.uint16, np.float32) and array.shape[3] > 1:
        kept = {"imagej": True, "resolution": (1 / x, 1 / y)}
    voxels = array[0] if len(array) == 1 else np.moveaxis(array, 0, 1)
    axes = "ZYX" if len(array) == 1 else "ZCYX"
    metadata = {"axes": axes, **({"spacing": z, "unit": "mm"} if kept else {})}
    tifffile.imwrite(temporary, voxels, photometric="minisblack", metadata=metadata, **kept)


def _write_png(temporary: Path, path: Path, array: npt.NDArray[Any], geometry: Geometry) -> None:
    from PIL import Image

    array = _unsigned(array)
    is_grey = len(array) == 1 and array.dtype in (np.uint8, np.uint16)
    is_colour = len(array) == 3 and array.dtype == np.uint8
    if geometry.shape[0] != 1 or not (is_grey or is_colour):
        message = f"{path}: PNG holds one slice, grey of 8 or 16 bits or RGB of 8; this is {array.dtype} {array.shape}."
        raise DataError(f"{message} Use .tif or .nii.gz.")
    pixels = np.ascontiguousarray(array[0, 0] if is_grey else np.moveaxis(array[:, 0], 0, -1))
    Image.fromarray(pixels).save(temporary, format="PNG")


def _unsigned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """As uint16 where that holds the values: labels come in the smallest type of any format, which may be int16."""
    if array.dtype.kind in "iu" and array.dtype != np.uint8 and array.min() >= 0 and array.max() <= _LARGEST_PIXEL:
        return array.astype(np.uint16)
    return array
