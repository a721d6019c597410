"""Small cases of two classes whose numbers can be computed by hand."""

import numpy as np

from autoseg.auditing.evidence import Evidence, gather
from autoseg.records.geometry import Geometry, affine_rows
from autoseg.records.labels import LabelScheme
from autoseg.records.results import Box
from autoseg.spatial.orientation import Turn

LABELS = LabelScheme(
    class_names=("background", "left ear", "right ear"), class_values=(0, 1, 2), ignore_value=9, num_entries=4
)
SPACING = (2.0, 1.0, 1.5)
STORED = Turn((0, 1, 2), (False, False, False))


def grid(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float] = SPACING) -> Geometry:
    """A grid whose z, y, x run to head, front, right."""
    matrix = np.zeros((4, 4))
    matrix[2, 0], matrix[1, 1], matrix[0, 2], matrix[3, 3] = *spacing_mm, 1.0
    return Geometry(shape=shape, spacing_mm=spacing_mm, affine=affine_rows(matrix))


def sure(classes: np.ndarray, confidence: float = 1.0, num_classes: int = 3) -> np.ndarray:
    """Probabilities `H Z Y X`: `confidence` for the class, the rest for the background (or shared by the others)."""
    rest = (1 - confidence) / (num_classes - 1)
    hot = np.arange(num_classes)[:, None, None, None] == classes
    return np.where(hot, confidence, rest).astype(np.float32)


def small_evidence(
    reference: np.ndarray, probabilities: np.ndarray, how: Turn = STORED, box: Box | None = None
) -> Evidence:
    """Evidence on a grid of `SPACING`; the box is the whole image where none is given."""
    whole = tuple((0, size) for size in probabilities.shape[1:])
    shape = (reference.shape[0], reference.shape[1], reference.shape[2])
    return gather("case", reference, probabilities, LABELS, grid(shape), how, box or whole)  # type: ignore[arg-type]


def cube(shape: tuple[int, int, int], *corners: tuple[tuple[int, int, int], tuple[int, int, int], int]) -> np.ndarray:
    """Classes `Z Y X` with boxes (start, stop, class)."""
    classes = np.zeros(shape, np.int16)
    for start, stop, number in corners:
        classes[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = number
    return classes
