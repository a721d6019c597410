"""A NRRD or MetaImage file in, voxels C Z Y X and geometry out; SimpleITK decodes the header, we read the voxels.

ITK's world is LPS, ours RAS: the first two world coordinates change sign. Before SimpleITK sees a file its text
header is looked at: a detached data file must lie in the same folder, and the voxels announced must fit the bytes at
hand. A block of plain values is mapped, or unpacked piece by piece with its checksum compared, so that no more than a
slab of it need be in memory. SimpleITK reads NRRD and TIFF whole, whatever part is asked for (measured: 1.1 and 2.1
times the voxels for slabs of a sixteenth; MetaImage 0.1), then copies it, and its MetaIO prints "Uncompress failed"
and goes on (5 and 30 of 30 flipped bits passed silently when measured). It still reads what is rare: numbers as text,
bytes to be skipped, channels between the axes of space. Uncompressed blocks have no checksum.
"""

import math
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg.images.contents import LARGEST_RATIO, check_memory, inflate, inflated, read_contents
from autoseg.images.nifti import PLANAR_Z_FACTOR, plane_normal, xyz_matrix, zyx_affine
from autoseg.images.text_headers import LARGEST_HEADER, TextHeader, read_text_header
from autoseg.images.volume import ImageError, Volume
from autoseg.records.geometry import Geometry
from autoseg.storage.hashing import sha256_bytes
from autoseg.storage.large_arrays import laid_out

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_LONGEST_LINE = 1 << 12
_MOST_BYTES = 8  # of a voxel whose type is not known
_LEAST_BYTES = 4  # of a value once it is normalised
_TYPES = {
    "8-bit signed integer": "i1",
    "16-bit signed integer": "i2",
    "32-bit signed integer": "i4",
    "64-bit signed integer": "i8",
    "8-bit unsigned integer": "u1",
    "16-bit unsigned integer": "u2",
    "32-bit unsigned integer": "u4",
    "64-bit unsigned integer": "u8",
    "32-bit float": "f4",
    "64-bit float": "f8",
}
"""SimpleITK's names of voxel types."""


def read_itk(path: Path) -> Volume:
    """Read a `.nrrd`, `.nhdr`, `.mha` or `.mhd` file.

    Raises:
        ImageError: the file is damaged or of a kind that is not an image of 2 or 3 axes and channels.
        ResourceError: it fits neither into memory nor on the disk for temporary files.
    """
    contents = read_contents(path)
    header = _header(contents.raw, path)
    block, digest = memoryview(contents.raw)[header.end :], contents.sha256
    if header.data_file is not None:
        data = read_contents(header.data_file)
        block, digest = memoryview(data.raw), sha256_bytes(f"{contents.sha256} {data.sha256}".encode())
    _check_length(header, len(block), path)
    _check_first_byte(header, len(block) + (header.end if header.data_file is None else 0), path)
    block = _after_lines(block, header.skipped_lines, path)
    image = _information(path)
    voxels = _values(header, image, block, path)
    if voxels is None:
        image, voxels = _read_whole(header, block, path)
    num_axes = _num_axes(image)
    if num_axes not in (2, 3) or voxels.ndim != num_axes + 1:
        raise ImageError("num_axes", f"{path} has axes of lengths {list(image.GetSize())}; expected x, y, z, channels.")
    voxels = voxels.reshape(voxels.shape[0], *((1,) if num_axes == 2 else ()), *voxels.shape[1:])
    return Volume(laid_out(voxels), itk_geometry(image, num_axes, path), (digest,))


def read_itk_header(path: Path) -> tuple[Geometry, int]:
    """The grid and the number of channels, from the header alone but for axes that run backwards; errors as above."""
    if not path.is_file():
        raise ImageError("missing_file", f"{path}: there is no such file.")
    with path.open("rb") as stream:
        _header(stream.read(LARGEST_HEADER), path)
    image = _information(path)
    num_axes = _num_axes(image)
    if num_axes not in (2, 3) or _runs_backwards(image):
        volume = read_itk(path)
        return volume.geometry, len(volume.array)
    components = image.GetNumberOfComponents()
    channels = image.GetSize()[3] if image.GetDimension() == 4 else components
    return itk_geometry(image, num_axes, path), channels


def expected_itk_bytes(path: Path) -> int:
    """Bytes that the voxels take as float32, or in the file's type if that is wider, from the header alone."""
    with path.open("rb") as stream:
        header = _header(stream.read(LARGEST_HEADER), path)
    return max(header.announced_bytes, _LEAST_BYTES * header.num_values)


def itk_geometry(image: Any, num_axes: int, path: Path) -> Geometry:
    """Geometry of a SimpleITK image of which the first `num_axes` (2 or 3) axes are space; raises ImageError."""
    size, n = image.GetDimension(), num_axes
    spacing = np.array(image.GetSpacing()[:n])
    direction = np.array(image.GetDirection()).reshape(size, size)[:n, :n]
    matrix = np.eye(4)
    matrix[:n, :n] = direction * spacing
    matrix[:n, 3] = image.GetOrigin()[:n]
    matrix = LPS_TO_RAS @ matrix
    if n == 2:
        spacing = np.append(spacing, PLANAR_Z_FACTOR * spacing.max())
        matrix[:3, 2] = plane_normal(matrix) * spacing[2]
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3] / spacing)) < 1e-3:
        raise ImageError("bad_affine", f"{path}: its axes do not span space: {matrix[:3].tolist()}.")
    x, y, z = (float(s) for s in spacing)
    lengths = (list(image.GetSize()[:n]) + [1])[:3]
    shape = (lengths[2], lengths[1], lengths[0])
    try:
        return Geometry(shape=shape, spacing_mm=(z, y, x), affine=zyx_affine(matrix), planar=n == 2)
    except ValueError as error:
        raise ImageError(
            "bad_spacing", f"{path}: its spacing is {spacing.tolist()}; expected numbers above 0."
        ) from error


def to_itk(array: npt.NDArray[Any], geometry: Geometry) -> Any:
    """A SimpleITK image of `array` (C Z Y X; C > 1 gives vectors) on `geometry`; 2-D if that is planar."""
    import SimpleITK

    n = 2 if geometry.planar else 3
    image: Any
    voxels = array[:, 0] if geometry.planar else array
    if len(array) > 1:
        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(np.moveaxis(voxels, 0, -1)), isVector=True)
    else:
        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels[0]))
    matrix = LPS_TO_RAS @ xyz_matrix(geometry)
    spacing = np.array(geometry.spacing_mm[::-1])
    image.SetSpacing([float(s) for s in spacing[:n]])
    image.SetOrigin([float(v) for v in matrix[:n, 3]])
    image.SetDirection([float(v) for v in (matrix[:3, :3] / spacing)[:n, :n].ravel()])
    return image


def _header(start: bytes | mmap.mmap, path: Path) -> TextHeader:
    """The checked header; raises ImageError."""
    try:
        header = read_text_header(start, path)
        _ = header.announced_bytes, header.skipped_lines, header.skips_bytes  # they are numbers
    except ValueError as error:
        raise ImageError("bad_header", f"{path}: its header is not valid ({error}).") from error
    return header


def _check_length(header: TextHeader, num_bytes: int, path: Path) -> None:
    """Compare the announced voxels with the `num_bytes` at hand."""
    ratio = {"raw": 1, "gzip": LARGEST_RATIO}.get(header.encoding)
    if ratio is not None and header.announced_bytes > num_bytes * ratio:
        found = f"its header announces {header.announced_bytes} bytes of voxels, there are {num_bytes}"
        raise ImageError("truncated", f"{path}: {found}{' (compressed)' if ratio > 1 else ''}; copy it again.")


def _check_first_byte(header: TextHeader, num_bytes: int, path: Path) -> None:
    """Compare with the file's `num_bytes`: SimpleITK hands out what is in its memory for voxels behind the end."""
    if header.first_byte < -1 or (header.first_byte > 0 and header.first_byte + header.announced_bytes > num_bytes):
        found = f"HeaderSize {header.first_byte} and {header.announced_bytes} bytes of voxels"
        raise ImageError("truncated", f"{path}: its header announces {found}, there are {num_bytes} bytes in all.")


def _after_lines(block: memoryview, num_lines: int, path: Path) -> memoryview:
    """The block without its first lines, which NRRD's `line skip` counts; raises ImageError where it has fewer."""
    for _ in range(num_lines):
        found = bytes(block[:_LONGEST_LINE]).find(b"\n")
        if found < 0:
            raise ImageError(
                "truncated", f"{path}: its header skips {num_lines} lines, there are fewer; copy it again."
            )
        block = block[found + 1 :]
    return block


def _information(path: Path) -> Any:
    """What SimpleITK reads of a header: type, size, components and geometry."""
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(error, path) from error
    if "complex" in SimpleITK.GetPixelIDValueAsString(reader.GetPixelID()):
        raise ImageError("voxel_type", f"{path}: voxels of complex type; convert them to a real number type.")
    return reader


def _unreadable(error: RuntimeError, path: Path) -> ImageError:
    return ImageError("not_an_image", f"{path} cannot be read: {str(error).strip().splitlines()[-1]}")


def _values(header: TextHeader, image: Any, block: memoryview, path: Path) -> npt.NDArray[Any] | None:
    """The voxels `C Y X` or `C Z Y X` straight from the block; None: SimpleITK has to read them."""
    import SimpleITK

    name = SimpleITK.GetPixelIDValueAsString(image.GetPixelID()).removeprefix("vector of ")
    if name not in _TYPES or not header.is_plain or _runs_backwards(image):
        return None
    dtype, size, channels = np.dtype(_TYPES[name]), image.GetSize(), image.GetNumberOfComponents()
    axis = header.channel_axis()
    if axis not in (None, 0, len(size)):
        return None
    planar = axis == len(size)
    sizes = size if axis is None else (*size, channels) if planar else (channels, *size)
    if header.sizes != sizes or header.num_values != math.prod(size) * channels:
        return None
    if header.byte_order is None and dtype.itemsize > 1:
        return None
    num_bytes = header.num_values * dtype.itemsize
    if header.encoding == "gzip":
        values = np.frombuffer(inflated(block, num_bytes, path), dtype.newbyteorder(header.byte_order or "="))
    elif len(block) < num_bytes:
        found = f"its header announces {num_bytes} bytes of voxels, there are {len(block)}"
        raise ImageError("truncated", f"{path}: {found}; copy it again.")
    else:
        values = np.frombuffer(block[:num_bytes], dtype.newbyteorder(header.byte_order or "="))
    if planar or (len(size) == 4 and channels == 1):
        return values.reshape(sizes[::-1])
    return np.moveaxis(values.reshape(*size[::-1], channels), -1, 0)


def _read_whole(header: TextHeader, block: memoryview, path: Path) -> tuple[Any, npt.NDArray[Any]]:
    """SimpleITK's image, and its voxels `C Y X` or `C Z Y X`, which are a copy."""
    import SimpleITK

    check_memory(header.announced_bytes, path)
    if header.encoding == "gzip":  # nobody else compares the checksum
        most = header.announced_bytes * _MOST_BYTES + LARGEST_HEADER
        num_unpacked = sum(len(piece) for piece in inflate(block, most, path))
        if header.knows_type and num_unpacked != header.announced_bytes and not header.skips_bytes:
            found = f"{header.announced_bytes} bytes of voxels, unpacked there are {num_unpacked}"
            raise ImageError("size_mismatch", f"{path}: its header announces {found}.")
    try:
        image: Any = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        raise _unreadable(error, path) from error
    voxels = SimpleITK.GetArrayViewFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        voxels = np.moveaxis(voxels, -1, 0)
    elif image.GetDimension() != 4:
        voxels = voxels[None]
    return image, np.array(voxels, order="C")


def _runs_backwards(image: Any) -> bool:
    """Whether a spacing is negative: ITK turns that axis around when it reads the voxels, not before."""
    return min(image.GetSpacing(), default=0) <= 0


def _num_axes(image: Any) -> int:
    """Axes of space; of four the last one counts channels, of which a voxel then has no others."""
    components = getattr(image, "GetNumberOfComponentsPerPixel", None) or image.GetNumberOfComponents
    return 3 if image.GetDimension() == 4 and components() == 1 else int(image.GetDimension())
