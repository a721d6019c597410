"""Two sets of predictions of the same cases, compared case by case."""

from autoseg.records.base import Record
from autoseg.records.results import Aggregate
from autoseg.records.scoring import Scoring


class ComparisonRow(Record):
    """One metric of one target. Only cases in which both sides have it are compared."""

    target: str
    """Name of the target, or `mean of targets`."""
    metric: str
    first: float
    """Mean of the first side over the compared cases."""
    second: float
    difference: Aggregate
    """Mean over cases of first minus second, with its bootstrap 95 % interval."""
    better: str | None
    """`first` or `second` where the interval of the difference excludes 0 and the metric has a better direction."""
    p_value: float | None
    """Two-sided Wilcoxon signed-rank test over cases; None below two cases."""
    p_holm: float | None
    """The same, corrected for all rows of the comparison (Holm 1979)."""
    num_undefined: int
    """Cases of both sides in which the metric is not defined for at least one of them."""


class Comparison(Record):
    """A paired comparison."""

    first: str
    """What the first side is, for people."""
    second: str
    scoring: Scoring | None
    """How both were scored."""
    cases: tuple[str, ...]
    """Cases that both sides have."""
    rows: tuple[ComparisonRow, ...]
    left_out: tuple[str, ...] = ()
    """Cases that only one side has."""
