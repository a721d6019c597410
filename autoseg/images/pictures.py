"""A PNG, BMP, JPEG or TIFF file in, voxels C Z Y X and geometry out.

Such files say nothing of a patient: index axes x, y, z are taken as R, A, S, so that no orientation turns them.
Spacing is 1 mm in the plane unless something says otherwise, for a TIFF nnU-Net's sidecar file (`<case>.json` with
`{"spacing": [z, y, x]}`) or ImageJ's metadata with a unit of length; the dots per inch of screens and cameras are
not a measurement and are ignored. Colours are channels; an alpha channel that is opaque everywhere is left out.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg.images.contents import check_memory, read_contents
from autoseg.images.formats import stem
from autoseg.images.nifti import PLANAR_Z_FACTOR, zyx_affine
from autoseg.images.volume import ImageError, Volume
from autoseg.records.geometry import Geometry, IntTriple, Triple
from autoseg.storage.large_arrays import laid_out, large_array

_UNIT_IN_MM = {"mm": 1.0, "millimeter": 1.0, "cm": 10.0, "um": 1e-3, "\u00b5m": 1e-3, "micron": 1e-3, "nm": 1e-6}
_IMAGE_AXES = "ZIQTYXSC"


def read_picture(path: Path, keep_indices: bool = False) -> Volume:
    """Read a PNG, BMP or JPEG as a volume of one slice, grey (1 channel) or RGB (3 channels).

    Args:
        path: the file.
        keep_indices: whether a palette image gives its indices (label maps) instead of its colours.

    Raises:
        ImageError: the file is damaged or no such picture.
        ResourceError: it does not fit into memory.
    """
    import io

    from PIL import Image

    contents = read_contents(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture: Image.Image = Image.open(io.BytesIO(contents.raw), formats=("PNG", "BMP", "JPEG"))
            check_memory(picture.width * picture.height * 8, path)
            if picture.mode in ("CMYK", "YCbCr", "HSV", "LAB", "RGBX") or (picture.mode == "P" and not keep_indices):
                picture = picture.convert("RGB")
            array = np.asarray(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError("not_an_image", f"{path} cannot be read as a picture: {error}.") from error
    if array.dtype == bool:
        array = array.astype(np.uint8)
    channels = np.moveaxis(array, -1, 0) if array.ndim == 3 else array[None]
    voxels = np.ascontiguousarray(_without_alpha(channels, path)[:, None])
    return Volume(voxels, flat_geometry((1, *voxels.shape[2:]), planar=True), (contents.sha256,))


def read_tiff(path: Path) -> Volume:
    """Read a TIFF of one page or a stack of pages, grey or colour; raises as `read_picture` does."""
    import io

    import tifffile

    contents = read_contents(path)
    # A file that is mapped because it is large would be copied as a stream of bytes.
    stream = io.BytesIO(contents.raw) if isinstance(contents.raw, bytes) else path
    try:
        with tifffile.TiffFile(stream) as tiff:
            series = tiff.series[0]
            axes, imagej = series.axes, tiff.imagej_metadata or {}
            resolution = _resolution(tiff.pages[0])
            array = large_array(series.shape, series.dtype)  # filled page by page
            series.asarray(out=array)
    except (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError, tifffile.TiffFileError) as error:
        raise ImageError("not_an_image", f"{path} cannot be read as TIFF: {error}.") from error
    voxels = _without_alpha(_ordered(array, axes, path), path)
    spacing = _sidecar_spacing(path) or _imagej_spacing(imagej, resolution)
    planar = voxels.shape[1] == 1
    return Volume(voxels, flat_geometry(voxels.shape[1:], planar, spacing), (contents.sha256,))


def flat_geometry(shape: IntTriple | tuple[int, ...], planar: bool, spacing_mm: Triple = (1.0, 1.0, 1.0)) -> Geometry:
    """Geometry of a file that knows no patient: x, y, z run R, A, S from the origin."""
    z, y, x = spacing_mm
    if planar:
        z = PLANAR_Z_FACTOR * max(y, x)
    num_z, num_y, num_x = shape
    affine = zyx_affine(np.diag([x, y, z, 1.0]))
    return Geometry(shape=(num_z, num_y, num_x), spacing_mm=(z, y, x), affine=affine, planar=planar)


def _without_alpha(channels: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    if len(channels) not in (2, 4) or channels.dtype.kind != "u" or path.suffix.lower() not in (".png", ".bmp"):
        return channels
    if (channels[-1] != np.iinfo(channels.dtype).max).any():
        message = f"{path} has an alpha channel that is not opaque everywhere; save it without transparency."
        raise ImageError("voxel_type", message)
    return channels[:-1]


def _ordered(array: npt.NDArray[Any], axes: str, path: Path) -> npt.NDArray[Any]:
    """Bring a TIFF's axes into the order C Z Y X."""
    if array.dtype.kind not in "buif":
        raise ImageError("voxel_type", f"{path}: voxels of type {array.dtype}; expected real numbers.")
    if array.dtype == bool:
        array = array.view(np.uint8)
    kept = [i for i, n in enumerate(array.shape) if n > 1 or axes[i] in "YX"]
    names = "".join("C" if axes[i] in "SC" else "Z" if axes[i] not in "YX" else axes[i] for i in kept)
    if any(axes[i] not in _IMAGE_AXES for i in kept) or len(set(names)) != len(names) or not set("YX") <= set(names):
        message = f"{path} has axes {axes} of lengths {array.shape}; expected a page, a stack, or channels of either."
        raise ImageError("num_axes", message)
    array = array.reshape([array.shape[i] for i in kept])
    for name in "ZC":
        if name not in names:
            array, names = array[None], name + names
    return laid_out(array.transpose([names.index(name) for name in "CZYX"]))


def _sidecar_spacing(path: Path) -> Triple | None:
    name = stem(path)
    for candidate in (name, name[:-5] if name[-5:-4] == "_" and name[-4:].isdigit() else name):
        sidecar = path.with_name(candidate + ".json")
        if not sidecar.is_file():
            continue
        try:
            z, y, x = (float(value) for value in json.loads(sidecar.read_text("utf-8-sig"))["spacing"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ImageError("bad_spacing", f'{sidecar}: expected {{"spacing": [z, y, x]}} ({error}).') from error
        if not all(0 < s < float("inf") for s in (z, y, x)):
            raise ImageError("bad_spacing", f"{sidecar}: its spacing is {(z, y, x)}; expected numbers above 0.")
        return z, y, x
    return None


def _imagej_spacing(metadata: dict[str, Any], resolution: tuple[float, float] | None) -> Triple:
    unit = _UNIT_IN_MM.get(str(metadata.get("unit", "")).lower())
    if unit is None or resolution is None:
        return 1.0, 1.0, 1.0
    y, x = resolution
    z = abs(float(metadata.get("spacing", 1.0))) or 1.0
    return z * unit, unit / y, unit / x


def _resolution(page: Any) -> tuple[float, float] | None:
    """Pixels per unit of length along y and x."""
    values = []
    for name in ("YResolution", "XResolution"):
        tag = page.tags.get(name)
        if tag is None:
            return None
        over, under = tag.value
        if over <= 0 or under <= 0:
            return None
        values.append(over / under)
    return values[0], values[1]
