"""What is to be scored and how: the values that decide what the numbers of an evaluation mean."""

from typing import Literal

from pydantic import Field

from autoseg.records.base import Record
from autoseg.records.detection import LesionRule

DEFAULT_TOLERANCE_MM = 2.0
"""Of the surface Dice, for targets without their own."""
Group = Literal["overlap", "surface", "boundary", "lesions", "probabilities"]


class Scoring(Record):
    """How segmentations are scored."""

    groups: tuple[Group, ...] = ("overlap",)
    """Groups of metrics (`metrics.build.METRICS`); the overlap group costs next to nothing and is always scored."""
    tolerances_mm: dict[str, float] = Field(default={})
    """Target name -> tolerance of the surface Dice and width of the boundary Dice's rim, mm."""
    default_tolerance_mm: float = Field(default=DEFAULT_TOLERANCE_MM, ge=0)
    """Of targets without their own."""
    lesion_rule: LesionRule = LesionRule()
    """When a lesion counts as found."""

    def tolerance_mm(self, target: str) -> float:
        """Tolerance of one target in mm."""
        return self.tolerances_mm.get(target, self.default_tolerance_mm)


COUNTS_ONLY = Scoring()
"""What costs nothing beyond counting voxels."""
