"""Small image files for tests."""

from pathlib import Path
from typing import Any

import numpy as np


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
    import gzip

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
