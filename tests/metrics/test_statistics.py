"""Intervals and paired comparisons against known values and scipy."""

import numpy as np
import pytest
from scipy import stats

from autoseg.metrics.statistics import aggregate, aggregate_ratio, compare_paired, holm


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


def test_pooled_ratio() -> None:
    found = aggregate_ratio([(1, 2), (3, 10), (0, 0), (0, 3)])
    assert found.mean == pytest.approx(4 / 15)
    assert found.num_cases == 3
    assert found.low is not None
    assert 0 <= found.low < 4 / 15 < found.high <= 0.5
    assert aggregate_ratio([(1, 2)]).low is None
    assert aggregate_ratio([(0, 0), (0, 0)]).mean is None
    assert aggregate_ratio([(2, 0), (0, 0)]).mean is None


def test_pooled_interval_agrees_with_scipy() -> None:
    rng = np.random.default_rng(5)
    denominators = rng.integers(5, 500, 25)
    numerators = rng.binomial(denominators, 0.7)
    found = aggregate_ratio(list(zip(numerators.tolist(), denominators.tolist(), strict=True)))
    theirs = stats.bootstrap(
        (numerators, denominators),
        lambda n, d, axis: n.sum(axis=axis) / d.sum(axis=axis),
        paired=True,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    assert found.low == pytest.approx(theirs.low, abs=0.003)
    assert found.high == pytest.approx(theirs.high, abs=0.003)


def test_resamples_without_any_denominator_are_left_out() -> None:
    found = aggregate_ratio([(3, 4), (1, 0), (1, 0)])
    assert found.mean == pytest.approx(5 / 4)
    assert found.low is not None
    assert np.isfinite([found.low, found.high]).all()


def test_many_cases_are_drawn_in_pieces() -> None:
    values = np.random.default_rng(1).random(300).tolist()
    assert aggregate(values) == aggregate(values)
    assert aggregate(values).low == pytest.approx(np.mean(values) - 1.96 * np.std(values) / 300**0.5, abs=0.003)


def test_holm_by_hand() -> None:
    """Holm 1979: 0.01 x 4, then the largest of itself and 0.02 x 3, 0.03 x 2, 0.04 x 1."""
    assert holm([0.04, 0.01, None, 0.03, 0.02]) == pytest.approx([0.06, 0.04, None, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([None]) == [None]
    assert holm([]) == []


def test_holm_keeps_the_share_of_false_claims() -> None:
    rng = np.random.default_rng(0)
    claims = sum(min(p for p in holm(rng.random(8).tolist()) if p is not None) < 0.05 for _ in range(2000))
    assert 0.03 < claims / 2000 < 0.065
