"""A NRRD or MetaImage file in, voxels C Z Y X and geometry out, read by SimpleITK after the header was checked.

ITK's world is LPS, ours RAS: the first two world coordinates change sign. Before SimpleITK sees a file its text
header is looked at: a detached data file must lie in the same folder, the voxels announced must fit the
bytes at hand, and a compressed block is unpacked once to compare its checksum, since MetaIO prints "Uncompress
failed" and goes on (5 and 30 of 30 flipped bits passed silently when measured). Uncompressed blocks have no checksum.
"""

import mmap
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg.images.contents import Contents, check_memory, inflate, inside, read_contents
from autoseg.images.nifti import PLANAR_Z_FACTOR, plane_normal, xyz_matrix, zyx_affine
from autoseg.images.volume import ImageError, Volume
from autoseg.records.geometry import Geometry
from autoseg.storage.hashing import sha256_bytes

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_BYTES = {"char": 1, "int8": 1, "short": 2, "shortint": 2, "int16": 2, "int": 4, "int32": 4, "float": 4, "double": 8}
_LARGEST_HEADER = 1 << 20
_LARGEST_RATIO = 1032
_MOST_BYTES = 8  # of a voxel whose type is not known


def read_itk(path: Path) -> Volume:
    """Read a `.nrrd`, `.nhdr`, `.mha` or `.mhd` file.

    Raises:
        ImageError: the file is damaged or of a kind that is not an image of 2 or 3 axes and channels.
        ResourceError: it does not fit into memory.
    """
    import SimpleITK

    try:
        digest = _check(path)
    except ValueError as error:
        raise ImageError("bad_header", f"{path}: its header is not valid ({error}).") from error
    try:
        image: Any = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ImageError("not_an_image", f"{path} cannot be read: {reason}") from error
    if "complex" in image.GetPixelIDTypeAsString():
        raise ImageError("voxel_type", f"{path}: voxels of complex type; convert them to a real number type.")
    array = SimpleITK.GetArrayFromImage(image)
    num_axes = image.GetDimension()
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
    elif num_axes == 4:
        num_axes = 3
    else:
        array = array[None]
    if num_axes not in (2, 3) or array.ndim != num_axes + 1:
        raise ImageError("num_axes", f"{path} has axes of lengths {list(image.GetSize())}; expected x, y, z, channels.")
    array = array.reshape(array.shape[0], *((1,) if num_axes == 2 else ()), *array.shape[1:])
    return Volume(np.ascontiguousarray(array), itk_geometry(image, num_axes, path), (digest,))


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


def _check(path: Path) -> str:
    """Check what can be checked before SimpleITK reads; return the digest of the file with its data file."""
    contents = read_contents(path)
    is_nrrd = path.name.lower().endswith((".nrrd", ".nhdr"))
    if is_nrrd != (contents.raw[:4] == b"NRRD"):
        expected = "NRRD" if is_nrrd else "MetaImage"
        raise ImageError("not_an_image", f"{path} is no {expected} file (it begins with {contents.raw[:8]!r}).")
    end, fields = _nrrd_fields(contents.raw) if is_nrrd else _meta_fields(contents.raw)
    named = fields.get("data file", fields.get("datafile")) if is_nrrd else fields.get("elementdatafile")
    if not is_nrrd and named is None:
        raise ImageError("not_an_image", f"{path} is no MetaImage file (ElementDataFile is missing).")
    if named is None or named.upper() == "LOCAL":
        _check_block(fields, memoryview(contents.raw)[end:], path)
        return contents.sha256
    data = _detached(path, named)
    _check_block(fields, memoryview(data.raw), path)
    return sha256_bytes(f"{contents.sha256} {data.sha256}".encode())


def _detached(path: Path, named: str) -> Contents:
    target = path.parent / named
    if named.upper().startswith("LIST") or "%" in named or not inside(path.parent, target):
        raise ImageError(
            "path_escape", f"{path} takes its voxels from {named!r}; expected one file in the same folder."
        )
    return read_contents(target)


def _check_block(fields: dict[str, str], block: memoryview, path: Path) -> None:
    """Compare the announced voxels with the bytes at hand; compare the checksum of a compressed block."""
    sizes = [int(n) for n in re.findall(r"-?\d+", fields.get("sizes", fields.get("dimsize", "")))]
    if not sizes or min(sizes) < 1 or len(sizes) > 4:
        raise ImageError(
            "num_axes", f"{path}: its header gives the axes the lengths {sizes}; expected 2 to 4, above 0."
        )
    announced = int(np.prod(sizes, dtype=object)) * _voxel_bytes(fields)
    encoding = fields.get("encoding", "gzip" if fields.get("compresseddata", "").lower() == "true" else "raw").lower()
    packed = encoding in ("gz", "gzip")
    if announced > len(block) * (_LARGEST_RATIO if packed else 1) and encoding not in ("bz2", "bzip2", "hex"):
        found = f"its header announces {announced} bytes of voxels, there are {len(block)}"
        raise ImageError("truncated", f"{path}: {found}{' (compressed)' if packed else ''}; copy it again.")
    check_memory(announced, path)
    if packed:
        for _ in range(int(fields.get("line skip", fields.get("lineskip", "0")))):
            block = block[bytes(block[:_LARGEST_HEADER]).find(b"\n") + 1 :]
        num_unpacked = sum(len(piece) for piece in inflate(block, announced * _MOST_BYTES + _LARGEST_HEADER, path))
        skips = int(fields.get("byte skip", fields.get("byteskip", "0"))) != 0
        if _type(fields) in _BYTES and num_unpacked != announced and not skips:
            message = f"{path}: its header announces {announced} bytes of voxels, unpacked there are {num_unpacked}."
            raise ImageError("size_mismatch", message)


def _voxel_bytes(fields: dict[str, str]) -> int:
    """Smallest size that the header's voxel type can have; a type that is not known counts as one byte."""
    channels = int(fields.get("elementnumberofchannels", "1"))
    return _BYTES.get(_type(fields), 1) * max(channels, 1)


def _type(fields: dict[str, str]) -> str:
    """The voxel type without its sign and spelling: `short` for `unsigned short` and `MET_USHORT`."""
    name = fields.get("type", fields.get("elementtype", "")).lower()
    return re.sub(r"met_|unsigned|signed|_t$|[\s_]", "", name).removeprefix("u")


def _nrrd_fields(raw: bytes | mmap.mmap) -> tuple[int, dict[str, str]]:
    """Where the voxels begin, and the header's fields with their names in lower case."""
    blank = re.search(rb"\r?\n\r?\n", raw[:_LARGEST_HEADER])
    text = raw[: blank.start() if blank else _LARGEST_HEADER].decode("latin-1")
    rows = [line.split(":", 1) for line in text.splitlines() if ":" in line and ":=" not in line and line[0] != "#"]
    return (blank.end() if blank else len(raw)), {name.strip().lower(): value.strip() for name, value in rows}


def _meta_fields(raw: bytes | mmap.mmap) -> tuple[int, dict[str, str]]:
    """As `_nrrd_fields`; a MetaImage header ends with the line ElementDataFile."""
    last = re.search(rb"(?im)^\s*ElementDataFile\s*=[^\n]*\n?", raw[:_LARGEST_HEADER])
    text = raw[: last.end() if last else 0].decode("latin-1")
    rows = [line.split("=", 1) for line in text.splitlines() if "=" in line]
    return (last.end() if last else len(raw)), {name.strip().lower(): value.strip() for name, value in rows}
