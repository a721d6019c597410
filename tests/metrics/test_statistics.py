"""Intervals and paired comparisons against known values and scipy."""

import numpy as np
import pytest
from scipy import stats

from autoseg.metrics.statistics import aggregate, compare_paired


def test_few_cases() -> None:
    assert aggregate([]).mean is None
    assert aggregate([None]).num_cases == 0
    one = aggregate([0.5, None])
    assert (one.mean, one.low, one.high, one.num_cases) == (0.5, None, None, 1)
    same = aggregate([0.5, 0.5, 0.5])
    assert (same.mean, same.low, same.high) == (0.5, 0.5, 0.5)


def test_interval_is_close_to_the_normal_one_for_many_cases() -> None:
    values = np.random.default_rng(1).normal(0.8, 0.1, size=400)
    found = aggregate(values.tolist())
    half = 1.96 * values.std() / np.sqrt(400)
    assert found.low == pytest.approx(values.mean() - half, abs=0.001)
    assert found.high == pytest.approx(values.mean() + half, abs=0.001)
    assert aggregate(values.tolist()) == found


def test_interval_agrees_with_scipy_on_skewed_values() -> None:
    values = 1 - np.random.default_rng(2).exponential(0.1, size=30)
    found = aggregate(values.tolist())
    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(3)).confidence_interval
    assert found.low == pytest.approx(theirs.low, abs=0.003)
    assert found.high == pytest.approx(theirs.high, abs=0.003)


def test_paired_difference() -> None:
    first, second = [0.9, 0.8, None, 0.7, 0.95], [0.8, 0.6, 0.5, 0.4, None]
    found = compare_paired(first, second)
    assert found.difference.mean == pytest.approx(0.2)
    assert found.difference.num_cases == 3
    assert found.p_value == pytest.approx(stats.wilcoxon([0.1, 0.2, 0.3]).pvalue)


def test_no_difference_and_too_few() -> None:
    assert compare_paired([0.5, 0.6], [0.5, 0.6]).p_value == 1
    assert compare_paired([0.5], [0.4]).p_value is None
    with pytest.raises(ValueError, match="zip"):
        compare_paired([0.5], [])
