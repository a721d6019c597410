"""Small image files for tests."""

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np

NRRD_TYPES = {"i1": "int8", "u1": "uchar", "i2": "short", "u2": "unsigned short", "i4": "int", "u4": "uint32_t"}
NRRD_TYPES |= {"i8": "long long", "u8": "uint64", "f4": "float", "f8": "double"}
META_TYPES = {"i1": "CHAR", "u1": "UCHAR", "i2": "SHORT", "u2": "USHORT", "i4": "INT", "u4": "UINT"}
META_TYPES |= {"i8": "LONG_LONG", "u8": "ULONG_LONG", "f4": "FLOAT", "f8": "DOUBLE"}


def ramp(shape: tuple[int, ...] = (3, 4, 5), dtype: Any = np.int16) -> np.ndarray:
    """An array Z Y X in which every voxel differs."""
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def write_nifti(path: Path, array_zyx: np.ndarray, affine: np.ndarray | None = None, **fields: Any) -> Path:
    """Write a NIfTI file with nibabel; `fields` of the header are set last, as they are."""
    import nibabel

    image = nibabel.Nifti1Image(
        np.transpose(array_zyx), np.diag([2.0, 3.0, 4.0, 1.0]) if affine is None else affine, dtype=array_zyx.dtype
    )
    nibabel.save(image, path)
    if fields:
        change_header(path, **fields)
    return path


def change_header(path: Path, **fields: Any) -> None:
    """Set fields of a NIfTI-1 header in place (`pixdim=(index, value)` for one entry)."""
    import nibabel

    packed = path.name.endswith(".gz")
    raw = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    header = nibabel.Nifti1Header(raw[:348], check=False)
    for name, value in fields.items():
        if isinstance(value, tuple):
            header[name][value[0]] = value[1]
        else:
            header[name] = value
    raw = header.binaryblock + raw[348:]
    path.write_bytes(gzip.compress(raw) if packed else raw)


def write_nrrd(
    path: Path, values: np.ndarray, kinds: str = "", packed: bool = False, detached: bool = False, more: str = ""
) -> Path:
    """A NRRD of `values` (slowest axis first) in their own byte order."""
    dtype = values.dtype
    lines = ["NRRD0005", f"type: {NRRD_TYPES[dtype.str[1:]]}", f"dimension: {values.ndim}"]
    lines += [f"sizes: {' '.join(map(str, values.shape[::-1]))}"]
    lines += [f"endian: {'big' if dtype.str[0] == '>' else 'little'}", f"encoding: {'gzip' if packed else 'raw'}"]
    lines += [f"kinds: {kinds}"] * bool(kinds) + [more] * bool(more)
    block = gzip.compress(values.tobytes(), 1) if packed else values.tobytes()
    if detached:
        (path.parent / "voxels.bin").write_bytes(block)
        path.write_text("\n".join([*lines, "data file: voxels.bin", ""]))
    else:
        path.write_bytes("\n".join([*lines, "", ""]).encode() + block)
    return path


def write_meta(
    path: Path, values: np.ndarray, channels: int = 1, packed: bool = False, detached: bool = False, more: str = ""
) -> Path:
    """A MetaImage of `values` (slowest axis first, channels last where there are several)."""
    dtype = values.dtype
    sizes = values.shape[::-1][channels > 1 :]
    block = zlib.compress(values.tobytes(), 1) if packed else values.tobytes()
    lines = ["ObjectType = Image", f"NDims = {len(sizes)}", "BinaryData = True"]
    lines += [f"BinaryDataByteOrderMSB = {dtype.str[0] == '>'}", f"CompressedData = {packed}"]
    lines += [f"CompressedDataSize = {len(block)}"] * packed
    lines += [f"DimSize = {' '.join(map(str, sizes))}", f"ElementNumberOfChannels = {channels}"]
    lines += [more] * bool(more) + [f"ElementType = MET_{META_TYPES[dtype.str[1:]]}"]
    lines += [f"ElementDataFile = {'voxels.bin' if detached else 'LOCAL'}", ""]
    path.write_bytes("\n".join(lines).encode() + (b"" if detached else block))
    if detached:
        (path.parent / "voxels.bin").write_bytes(block)
    return path
