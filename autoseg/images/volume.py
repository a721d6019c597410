"""The array of an image or label file together with where it lies in the patient."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy.typing as npt

from autoseg.errors import DataError
from autoseg.records.geometry import Geometry


class Note(NamedTuple):
    """Something about a file that the user should know, though it could be read."""

    kind: str
    """One word for programs, for example `float_label`."""
    message: str
    """For people: what was found and what was made of it."""


class ImageError(DataError):
    """A file that cannot be used as an image; `kind` says why in one word for programs."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Volume:
    """One image with all its channels, or one label map (then C = 1 and integers)."""

    array: npt.NDArray[Any]
    """C Z Y X in the file's voxel order and type (native byte order); float32 where the file scales its values."""
    geometry: Geometry
    sha256: tuple[str, ...] = ()
    """Digest of each file as stored (compressed), in the order given."""
    notes: tuple[Note, ...] = ()
    """What the reader had to decide or repair."""
