"""Per-case numbers in, means with intervals and paired comparisons out.

Cases are what varies, so intervals come from resampling cases with replacement (percentile bootstrap, Efron
1979): no assumption on the distribution, which for Dice is skewed and bounded. The seed is fixed, so that a
table printed twice is the same table.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import stats

from autoseg.records.results import Aggregate

_NUM_RESAMPLES = 5000
_CASES_PER_PASS = 1 << 20
_CACHED_CASES = 256  # an entry then takes at most 10 MB

Columns = npt.NDArray[np.float64]


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
    defined = [v for v in values if v is not None]
    return aggregate_ratio([(value, 1.0) for value in defined], seed)


def aggregate_ratio(terms: Sequence[tuple[float, float]], seed: int = 12345) -> Aggregate:
    """Sum of numerators over sum of denominators, and its bootstrap 95 % interval over cases.

    Args:
        terms: numerator and denominator of each case; a case of 0 / 0 counts as undefined and is left out.
        seed: seed of the resampling.

    Returns:
        Resamples whose denominators sum to 0 have no value and are left out of the interval. It is None below two
        cases.
    """
    columns = np.array([pair for pair in terms if any(pair)], dtype=np.float64).reshape(-1, 2)
    num_cases = len(columns)
    numerator, denominator = columns.sum(axis=0).tolist()
    if num_cases == 0 or denominator == 0:
        return Aggregate(mean=None, low=None, high=None, num_cases=0)
    mean = numerator / denominator
    if num_cases == 1:
        return Aggregate(mean=mean, low=None, high=None, num_cases=1)
    sums = np.concatenate([weights @ columns for weights in _resamples(num_cases, seed)])
    drawn = sums[sums[:, 1] != 0]
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5])
    return Aggregate(mean=mean, low=float(low), high=float(high), num_cases=num_cases)


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
        p_value = 1.0  # the test is undefined without any difference; nothing contradicts equality
    else:
        p_value = float(stats.wilcoxon(differences).pvalue)
    return PairedComparison(difference=aggregate(differences.tolist(), seed), p_value=p_value)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values adjusted for testing them all (Holm 1979), in the same order.

    An adjusted value below 0.05 may be called significant, with at most 5 % risk of one false claim in the whole
    family. None stays None and does not count as a test.
    """
    tested = sorted((p, position) for position, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, position) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[position] = largest
    return adjusted


def _resamples(num_cases: int, seed: int) -> Iterator[Columns]:
    """How often each case is drawn in each of `_NUM_RESAMPLES` samples, a bounded number of samples at a time."""
    if num_cases <= _CACHED_CASES:
        yield _cached_resamples(num_cases, seed)
    else:
        yield from _draw(num_cases, seed)


@lru_cache(maxsize=4)  # a table of many targets and metrics asks for the same few numbers of cases again and again
def _cached_resamples(num_cases: int, seed: int) -> Columns:
    return np.concatenate(list(_draw(num_cases, seed)))


def _draw(num_cases: int, seed: int) -> Iterator[Columns]:
    rng = np.random.default_rng(seed)
    rows = max(1, _CASES_PER_PASS // num_cases)
    for start in range(0, _NUM_RESAMPLES, rows):
        count = min(rows, _NUM_RESAMPLES - start)
        drawn = rng.integers(num_cases, size=(count, num_cases)) + np.arange(count)[:, None] * num_cases
        times = np.bincount(drawn.ravel(), minlength=count * num_cases)
        yield times.reshape(count, num_cases).astype(np.float64)
