"""When a lesion counts as found, how well lesions are found, and the FROC curve."""

from typing import Literal

from pydantic import Field

from autoseg.records.base import Record


class LesionRule(Record):
    """When one predicted component (candidate) finds one component of the reference (lesion)."""

    measure: Literal["coverage", "iou"] = "coverage"
    """`coverage`: share of the lesion's voxels that the candidate covers; `iou`: intersection over union of the two."""
    minimum: float = Field(default=0.1, gt=0, le=1)
    """The lesion is found when the measure is at least this."""


class LesionCounts(Record):
    """Lesions and candidates of one target in one case or over cases."""

    lesions: int
    """Components of the reference."""
    found: int
    """Lesions that at least one candidate finds."""
    candidates: int
    """Components of the prediction."""
    false_candidates: int
    """Candidates that find no lesion and do not lie inside one either."""


class FrocCurve(Record):
    """Free-response receiver operating characteristic of scored candidates."""

    num_cases: int
    num_lesions: int
    """Lesions of all cases, with or without a candidate."""
    thresholds: tuple[float, ...]
    """Distinct scores, falling; a point of the curve keeps all candidates that score at least this."""
    false_positives_per_case: tuple[float, ...]
    """Of each point; does not fall."""
    sensitivity: tuple[float, ...] | None
    """Of each point; does not fall. None without any lesion."""
    rates: tuple[float, ...]
    """False positives a case at which the curve is read."""
    sensitivity_at: tuple[float, ...] | None
    """Highest sensitivity of a point with at most that many false positives a case; 0 where even the first point has
    more; beyond the last point its sensitivity. One for each of `rates`; None without any lesion."""
    cpm: float | None
    """Competition performance metric: mean of `sensitivity_at`."""
