"""File names in, their format's ending out: which formats there are and which one an output gets.

The ending names the format for people; the readers decide by the first bytes where those tell more
(a `.nii` that is called `.nii.gz`).
"""

from pathlib import Path

from autoseg.images.volume import ImageError

NIFTI = (".nii.gz", ".nii")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
TIFF = (".tif", ".tiff")
PICTURES = (".png", ".bmp", ".jpg", ".jpeg")
ENDINGS = (*NIFTI, *ITK, *TIFF, *PICTURES)

# Outputs are single files without loss: a detached header becomes an attached one, a lossy picture a PNG.
_OUTPUT = {".nhdr": ".nrrd", ".mhd": ".mha", ".bmp": ".png", ".jpg": ".png", ".jpeg": ".png"}


def known_ending(path: Path | str) -> str | None:
    """The format's ending of `path` in lower case, for example `.nii.gz`; None for other files."""
    name = Path(path).name.lower()
    return next((ending for ending in ENDINGS if name.endswith(ending) and len(name) > len(ending)), None)


def file_ending(path: Path | str) -> str:
    """The format's ending of `path` in lower case; raises ImageError (a DataError) for other files."""
    ending = known_ending(path)
    if ending is None:
        raise ImageError("unknown_format", f"{path}: unknown format; expected one of {' '.join(ENDINGS)}.")
    return ending


def stem(path: Path | str) -> str:
    """File name without the format's ending, for example `case_01` of `imagesTr/case_01.nii.gz`."""
    return Path(path).name[: -len(file_ending(path))]


def output_ending(path: Path | str) -> str:
    """Ending of the segmentation of image `path`: its own, where one file without loss can have it."""
    ending = file_ending(path)
    return _OUTPUT.get(ending, ending)
