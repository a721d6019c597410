"""The bytes of a NIfTI-1 or NIfTI-2 file in, voxels C Z Y X and geometry out; headers for outputs besides.

The header is looked at field by field before nibabel decodes its geometry, since other readers crash on
five axes, guess at a pixdim of 0, and read complex or colour voxels as something else. Choices:

- Affine: the sform if its code is above 0, else the qform if its code is, else pixdim alone (nibabel's order).
- An sform that is the identity while pixdim is not is the default of a careless writer: the qform (or pixdim) is
  used and a note says so. An sform or qform that is singular or not finite is refused.
- Spacing is pixdim; where a valid sform's column lengths differ from it by more than 0.1 %, the lengths, with a note.
- Lengths in metres or micrometres (xyzt_units) become mm.
- dim[0] decides what is planar: 2 axes are a 2-D image, a third axis of length 1 is a volume of one slice.
- A fourth axis is the channels; a fifth is refused unless its length is 1.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from autoseg.images.contents import read_contents, unpack, unpack_start
from autoseg.images.volume import ImageError, Note, Volume
from autoseg.records.geometry import Geometry, affine_rows
from autoseg.storage.large_arrays import large_array

Matrix = npt.NDArray[np.float64]

PLANAR_Z_FACTOR = 999.0
"""Spacing of a 2-D image along z over the largest of y and x (nnU-Net's rule)."""

START_BYTES = 544
"""Enough of the (unpacked) file to hold either header."""

_CODES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_REFUSED = {1: "1-bit", 32: "complex", 1792: "complex", 2048: "complex", 128: "RGB colour", 2304: "RGBA colour"}
_UNIT_IN_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
_LARGEST_OFFSET = 64 << 20  # bytes of header extensions before the voxels
_SAME_LENGTH = 1e-3  # relative difference of two spacings that is rounding


class Header(NamedTuple):
    """What is used of a header."""

    fields: Any
    """nibabel's header, in the file's byte order."""
    dtype: np.dtype[Any]
    """Type of the stored voxels, in the file's byte order."""
    geometry: Geometry
    num_channels: int
    offset: int
    """First byte of the voxels."""
    slope: float
    inter: float
    notes: tuple[Note, ...]

    @property
    def is_scaled(self) -> bool:
        """Whether stored values have to be multiplied and shifted."""
        return (self.slope, self.inter) != (1.0, 0.0)


def is_nifti(start: bytes) -> bool:
    """Whether an unpacked file beginning with `start` is (or should be) NIfTI: the size of its header says so."""
    return len(start) >= 4 and _header_size(start) is not None


def read_nifti(path: Path, scaled_type: type[np.floating] = np.float32) -> Volume:
    """Read an image; scaled voxels (scl_slope, scl_inter) become `scaled_type`, others keep their type.

    Raises:
        ImageError: the file is damaged, no NIfTI, or of a kind that is not an image (see the module).
        ResourceError: it does not fit into memory.
    """
    contents = read_contents(path)
    header = parse_header(unpack_start(contents.raw, START_BYTES, path), path)
    count = header.num_channels * int(np.prod(header.geometry.shape, dtype=np.int64))
    content = unpack(contents.raw, header.offset + count * header.dtype.itemsize, path)
    voxels = np.frombuffer(content, header.dtype, count, header.offset)
    voxels = voxels.reshape(header.num_channels, *header.geometry.shape)
    wanted = np.dtype(scaled_type) if header.is_scaled else header.dtype.newbyteorder("=")
    if header.is_scaled or wanted != header.dtype:
        stored, voxels = voxels, large_array(voxels.shape, wanted)
        for values, target in zip(
            stored.reshape(-1, *stored.shape[2:]), voxels.reshape(-1, *stored.shape[2:]), strict=True
        ):
            target[...] = values
            if header.is_scaled:
                target *= scaled_type(header.slope)
                target += scaled_type(header.inter)
    return Volume(voxels, header.geometry, (contents.sha256,), header.notes)


def read_header(path: Path) -> Header:
    """The header of a NIfTI file, reading no more than its start; raises ImageError as `read_nifti` does."""
    if not path.is_file():
        raise ImageError("missing_file", f"{path}: there is no such file.")
    with path.open("rb") as stream:
        return parse_header(unpack_start(stream.read(1 << 16), START_BYTES, path), path)


def parse_header(start: bytes, path: Path) -> Header:
    """Check and decode the header at the start of the unpacked file; raises ImageError."""
    fields = _decode(start, path)
    shape, num_channels, is_planar = _grid(fields, path)
    code = int(fields["datatype"])
    if code not in _CODES:
        what = _REFUSED.get(code, "unsupported")
        message = f"{path}: voxels of {what} type (NIfTI datatype {code}); convert them to a real number type."
        raise ImageError("voxel_type", message)
    minimum = int(fields["sizeof_hdr"]) + 4
    offset = float(fields["vox_offset"]) or float(minimum)
    if not minimum <= offset <= _LARGEST_OFFSET:
        raise ImageError("not_an_image", f"{path}: its header puts the first voxel at byte {offset}.")
    slope, inter = float(fields["scl_slope"]), float(fields["scl_inter"])
    if not np.isfinite(slope) or slope == 0:
        slope, inter = 1.0, 0.0  # the standard: a slope of 0 means that voxels are not scaled
    if not np.isfinite(inter):
        raise ImageError("bad_header", f"{path}: scl_inter is {inter}.")
    geometry, notes = _geometry(fields, shape, is_planar, path)
    dtype = np.dtype(_CODES[code]).newbyteorder(fields.endianness)
    return Header(fields, dtype, geometry, num_channels, int(offset), slope, inter, notes)


def _header_size(start: bytes) -> tuple[int, str] | None:
    for order, symbol in (("little", "<"), ("big", ">")):
        size = int.from_bytes(start[:4], order)  # type: ignore[arg-type]
        if size in (348, 540):
            return size, symbol
    return None


def _decode(start: bytes, path: Path) -> Any:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    found = _header_size(start)
    if found is None or len(start) < found[0]:
        raise ImageError("not_an_image", f"{path} is no NIfTI file (it begins with {start[:8]!r}).")
    size, endianness = found
    kind: Any = Nifti1Header if size == 348 else Nifti2Header
    fields = kind(start[:size], endianness, check=False)
    magic = bytes(fields["magic"])[:3]
    if magic not in (b"n+1", b"n+2"):
        message = f"{path} is one half of a pair of files (magic {magic!r}); convert it to a single .nii.gz."
        raise ImageError("not_an_image", message)
    return fields


def _grid(fields: Any, path: Path) -> tuple[tuple[int, int, int], int, bool]:
    """Shape z y x, number of channels, and whether the file is a 2-D image."""
    num_axes = int(fields["dim"][0])
    if not 2 <= num_axes <= 7:
        raise ImageError("num_axes", f"{path} has {num_axes} axes (dim[0]); expected 2 to 4.")
    lengths = [int(n) for n in fields["dim"][1 : num_axes + 1]]
    if min(lengths) < 1:
        raise ImageError("bad_header", f"{path}: its header gives the axes the lengths {lengths}.")
    if any(n > 1 for n in lengths[4:]):
        message = f"{path} has {num_axes} axes {lengths}; expected x, y, z and channels at most."
        raise ImageError("num_axes", message)
    x, y, z, channels = (lengths + [1, 1])[:4]
    return (z, y, x), channels, num_axes == 2


def _geometry(
    fields: Any, shape: tuple[int, int, int], is_planar: bool, path: Path
) -> tuple[Geometry, tuple[Note, ...]]:
    num_axes = 2 if is_planar else 3
    pixdim = np.array(fields["pixdim"][1:4], dtype=np.float64)
    if not (np.isfinite(pixdim[:num_axes]).all() and (pixdim[:num_axes] > 0).all()):
        message = (
            f"{path}: the spacing in its header is {pixdim[:num_axes].tolist()} (pixdim); expected numbers above 0."
        )
        raise ImageError("bad_spacing", message)
    if is_planar:
        pixdim[2] = 1.0
    matrix, notes = _matrix(fields, pixdim, is_planar, path)
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    spacing = pixdim
    if np.abs(lengths / pixdim - 1)[:num_axes].max() > _SAME_LENGTH:
        spacing = lengths
        found = f"pixdim {_text(pixdim)} and the sform's spacing {_text(lengths)} differ"
        notes.append(Note("spacing_in_header", f"{path}: {found}; the sform's was used."))
    scale = _UNIT_IN_MM.get(int(fields["xyzt_units"]) & 7, 1.0)
    if scale != 1.0:
        notes.append(Note("units", f"{path}: lengths were multiplied by {scale:g} to mm (xyzt_units)."))
    spacing, matrix[:3] = spacing * scale, matrix[:3] * scale
    if is_planar:
        spacing = np.array([*spacing[:2], PLANAR_Z_FACTOR * spacing[:2].max()])
        matrix[:3, 2] = plane_normal(matrix) * spacing[2]
    try:
        x, y, z = (float(s) for s in spacing)
        geometry = Geometry(shape=shape, spacing_mm=(z, y, x), affine=zyx_affine(matrix), planar=is_planar)
    except ValueError as error:
        raise ImageError("bad_spacing", f"{path}: its spacing in mm is {_text(spacing)}.") from error
    return geometry, tuple(notes)


def _matrix(fields: Any, pixdim: Matrix, is_planar: bool, path: Path) -> tuple[Matrix, list[Note]]:
    """The affine from (x, y, z, 1) to world in the file's unit, by the choice that the module's text states."""
    notes: list[Note] = []
    has_sform, has_qform = int(fields["sform_code"]) > 0, int(fields["qform_code"]) > 0
    if has_sform:
        sform = np.array(fields.get_sform(), dtype=np.float64)
        careless = np.array_equal(sform[:3, :3], np.eye(3)) and np.abs(pixdim - 1).max() > _SAME_LENGTH
        if not careless:
            return _regular(sform, is_planar, "sform", path), notes
        other = "qform" if has_qform else "pixdim"
        message = f"{path}: its sform is the identity but pixdim is {_text(pixdim)}; the {other} was used."
        notes.append(Note("identity_sform", message))
    if has_qform:
        from nibabel.spatialimages import HeaderDataError

        usable = fields.copy()
        if usable["pixdim"][0] not in (-1, 1):
            # Many files have 0 here; the standard reads that as 1. Of anything else the sign is what can be meant.
            usable["pixdim"][0] = -1 if usable["pixdim"][0] < 0 else 1
        with np.errstate(all="ignore"):
            try:
                qform = np.array(usable.get_qform(), dtype=np.float64)
            except (ValueError, HeaderDataError, np.linalg.LinAlgError) as error:
                raise ImageError("bad_affine", f"{path}: its qform is not valid ({error}).") from error
        return _regular(qform, is_planar, "qform", path), notes
    matrix = np.diag([*pixdim, 1.0])
    if has_sform:
        matrix[:3, 3] = fields.get_sform()[:3, 3]
    return _regular(matrix, is_planar, "affine", path), notes


def _regular(matrix: Matrix, is_planar: bool, name: str, path: Path) -> Matrix:
    if np.isfinite(matrix).all():
        if is_planar:
            matrix[:3, 2] = plane_normal(matrix)
        lengths = np.linalg.norm(matrix[:3, :3], axis=0)
        if lengths.min() > 0 and abs(np.linalg.det(matrix[:3, :3] / lengths)) > 1e-3:
            return matrix
    rows = matrix[:3].tolist()
    raise ImageError("bad_affine", f"{path}: its {name} does not span space (singular or not finite): {rows}.")


def plane_normal(matrix: Matrix) -> Matrix:
    """Unit vector perpendicular to the first two columns; zero where those are parallel."""
    normal = np.cross(matrix[:3, 0], matrix[:3, 1])
    length = float(np.linalg.norm(normal))
    return normal / length if length > 0 else normal


def zyx_affine(matrix: Matrix) -> tuple[tuple[float, float, float, float], ...]:
    """The rows of a `Geometry.affine` from a 4 x 4 matrix whose columns are x, y, z, origin."""
    return affine_rows(matrix[:, [2, 1, 0, 3]])


def xyz_matrix(geometry: Geometry) -> Matrix:
    """The 4 x 4 matrix from (x, y, z, 1) indices to world, RAS+: the inverse of `zyx_affine`."""
    matrix: Matrix = geometry.matrix[:, [2, 1, 0, 3]]
    return matrix


def _text(values: Matrix) -> str:
    return " x ".join(f"{value:g}" for value in values)
