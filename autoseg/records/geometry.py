"""Where a voxel grid lies in the patient."""

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from autoseg.records.base import Record

Triple = tuple[float, float, float]
IntTriple = tuple[int, int, int]
Affine = tuple[
    tuple[float, float, float, float],
    tuple[float, float, float, float],
    tuple[float, float, float, float],
]


class Geometry(Record):
    """A voxel grid: shape, spacing and the mapping from array indices to the patient."""

    shape: IntTriple
    """Voxels along z, y, x (array order)."""
    spacing_mm: Triple
    """Edge lengths of a voxel along z, y, x in mm; positive. For a 2-D image z is 999 times the largest of y and x
    (nnU-Net's rule), so that the axis without neighbours is the coarsest."""
    affine: Affine
    """Upper three rows of the 4 x 4 matrix from (z, y, x, 1) array indices to world (x, y, z) in mm, RAS+."""
    planar: bool = False
    """Whether the file is a 2-D image, stored here as a volume of one slice."""

    @model_validator(mode="after")
    def _positive(self) -> "Geometry":
        if min(self.shape) < 1 or not all(0 < s < float("inf") for s in self.spacing_mm):
            raise ValueError(f"shape {self.shape} and spacing {self.spacing_mm} mm must be positive and finite")
        return self

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """The full 4 x 4 matrix from (z, y, x, 1) array indices to world (x, y, z, 1) in mm, RAS+."""
        return np.array([*self.affine, (0.0, 0.0, 0.0, 1.0)], dtype=np.float64)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in mm3 (for a 2-D image its area in mm2)."""
        z, y, x = self.spacing_mm
        return y * x if self.planar else z * y * x


def affine_rows(matrix: npt.NDArray[np.float64]) -> Affine:
    """The upper three rows of a 4 x 4 (or 3 x 4) matrix as plain numbers, for a `Geometry`."""
    a, b, c = (tuple(float(value) for value in row) for row in np.asarray(matrix)[:3, :4])
    return (a, b, c)  # type: ignore[return-value]
