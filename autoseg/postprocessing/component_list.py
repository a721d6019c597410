"""The components and candidates of one case as lists of voxels: what is measured, judged and decided on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg.postprocessing.group_statistics import Offsets
from autoseg.records.geometry import IntTriple

Bools = npt.NDArray[np.bool_]
Classes = npt.NDArray[np.integer[Any]]

DECIDED = 1.0
"""Level of a component of the segmentation itself."""


@dataclass(frozen=True)
class ComponentList:
    """The `n` components and candidates of one case, sorted by target; `v` voxels in all."""

    shape: IntTriple
    """Of the volume `z y x`."""
    targets: npt.NDArray[np.int64]
    """`n`: position in `LabelScheme.targets`."""
    levels: npt.NDArray[np.float64]
    """`n`: threshold of a candidate, `DECIDED` for a component of the segmentation."""
    offsets: Offsets
    """`n + 1`: row i owns `voxels[offsets[i]:offsets[i + 1]]`."""
    voxels: npt.NDArray[np.int64]
    """`v`: flat indices into the volume, rising within a row."""
    faces: npt.NDArray[np.uint8]
    """`v`: bit 2 a is set when the voxel's lower face along axis a lies on the surface, bit 2 a + 1 the upper one."""
    in_largest: Bools
    """`n`: whether it lies in the largest component of all foreground."""

    @property
    def is_decided(self) -> Bools:
        """`n`: components of the segmentation; the others are candidates."""
        decided: Bools = self.levels == DECIDED
        return decided

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """`n`: voxels."""
        return np.diff(self.offsets)

    def voxels_of(self, row: int) -> npt.NDArray[np.int64]:
        """Flat indices of one row."""
        return self.voxels[self.offsets[row] : self.offsets[row + 1]]
