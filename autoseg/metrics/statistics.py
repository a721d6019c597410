"""Per-case numbers in, means with intervals and paired comparisons out.

Cases are what varies, so intervals come from resampling cases with replacement (percentile bootstrap, Efron
1979): no assumption on the distribution, which for Dice is skewed and bounded. The seed is fixed, so that a
table printed twice is the same table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from autoseg.records.results import Aggregate

_NUM_RESAMPLES = 5000
_CASES_PER_PASS = 1 << 20


@dataclass(frozen=True)
class PairedComparison:
    """Mean difference of two methods over the cases in which both are defined."""

    difference: Aggregate
    """First minus second, with its bootstrap 95 % interval."""
    p_value: float | None
    """Two-sided Wilcoxon signed-rank test; 1 when no case differs, None below two cases."""


def aggregate(values: Sequence[float | None], seed: int = 12345) -> Aggregate:
    """Mean over the defined values and its bootstrap 95 % interval.

    Args:
        values: one a case; None is skipped.
        seed: seed of the resampling.

    Returns:
        The interval is None below two cases, the mean is None without any.
    """
    defined = np.array([v for v in values if v is not None], dtype=np.float64)
    if defined.size == 0:
        return Aggregate(mean=None, low=None, high=None, num_cases=0)
    mean = float(defined.mean())
    if defined.size == 1:
        return Aggregate(mean=mean, low=None, high=None, num_cases=1)
    low, high = np.percentile(_bootstrap_means(defined, np.random.default_rng(seed)), [2.5, 97.5])
    return Aggregate(mean=mean, low=float(low), high=float(high), num_cases=int(defined.size))


def compare_paired(
    first: Sequence[float | None], second: Sequence[float | None], seed: int = 12345
) -> PairedComparison:
    """Difference first - second over cases, in the same order; cases undefined in either are skipped.

    Raises:
        ValueError: the sequences differ in length.
    """
    pairs = zip(first, second, strict=True)
    differences = np.array([a - b for a, b in pairs if a is not None and b is not None], dtype=np.float64)
    if differences.size < 2:
        p_value = None
    elif not differences.any():
        p_value = 1.0  # the test is undefined without any difference; nothing speaks against equality
    else:
        p_value = float(stats.wilcoxon(differences).pvalue)
    return PairedComparison(difference=aggregate(differences.tolist(), seed), p_value=p_value)


def _bootstrap_means(values: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Means of `_NUM_RESAMPLES` samples drawn with replacement, a bounded number at a time."""
    rows = max(1, _CASES_PER_PASS // values.size)
    means = []
    for start in range(0, _NUM_RESAMPLES, rows):
        drawn = rng.integers(values.size, size=(min(rows, _NUM_RESAMPLES - start), values.size))
        means.append(values[drawn].mean(axis=1))
    return np.concatenate(means)
