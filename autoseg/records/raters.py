"""What several raters' labels of the same images have in common, and how they were fused."""

from typing import Literal

from autoseg.records.base import Record
from autoseg.records.results import Aggregate

FusionMethod = Literal["majority", "staple"]
TieRule = Literal["first", "background", "ignore"]


class RaterPair(Record):
    """Agreement of two raters."""

    first: str
    second: str
    cases: dict[str, dict[str, float | None]]
    """Case id -> target -> Dice; None: neither has it. Voxels that one of them ignores are left out."""
    targets: dict[str, Aggregate]
    """Target -> mean Dice over cases with its bootstrap 95 % interval."""
    foreground_mean: Aggregate
    """Mean over cases of the mean over targets."""


class Raters(Record):
    """Agreement between raters and what fused them."""

    raters: tuple[str, ...]
    """Names, from their folders, in the order given."""
    method: FusionMethod
    ties: TieRule
    """What decided voxels without a winner: the rater named first among those tied, background, or the ignore label."""
    pairs: tuple[RaterPair, ...]
    """Every two raters."""
    undecided_voxels: dict[str, int]
    """Case id -> voxels that `ties` decided; one entry a fused case."""
    sensitivity: dict[str, dict[str, Aggregate]] = {}
    """STAPLE's estimates: rater -> class -> probability of giving the class where it is true, mean over cases; empty
    for a majority vote."""
    failed: dict[str, str] = {}
    """Case id -> why it could not be fused."""
