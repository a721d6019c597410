"""Conformal intervals of volumes: by hand, and their coverage of new cases over many draws."""

import math

import numpy as np
import pytest

from autoseg.records.trust import VolumeInterval
from autoseg.selection.conformal import fewest_cases, fit_interval, interval_around


def test_by_hand() -> None:
    """Nine cases, 90 %: the largest of the scores; the offset is a hundredth of the median of 1000."""
    ratios = [1.0, 1.1, 0.9, 1.2, 1.0, 1.3, 0.8, 1.05, 2.0]
    interval = fit_interval([1000 / r for r in ratios], [1000.0] * 9)
    assert interval.offset_mm3 == pytest.approx(10.0)
    assert interval.log_ratio == pytest.approx(math.log(1010 / 510))
    low, high = interval_around(500.0, interval)
    assert high == pytest.approx(1000.0)
    assert low == pytest.approx(510 * 510 / 1010 - 10)


@pytest.mark.parametrize(("level", "fewest"), [(0.9, 9), (0.95, 19), (0.8, 4), (0.5, 1)])
def test_too_few_cases_for_the_level_give_no_interval(level: float, fewest: int) -> None:
    assert fewest_cases(level) == fewest
    enough = fit_interval([1.0] * fewest, [1.0] * fewest, level)
    assert enough.log_ratio is not None
    less = fit_interval([1.0] * (fewest - 1), [1.0] * (fewest - 1), level)
    assert less.log_ratio is None
    assert less.num_cases == fewest - 1
    assert interval_around(5.0, less) is None


def test_absent_targets_have_finite_scores_and_ends_never_below_zero() -> None:
    interval = fit_interval([0.0, 100.0, 0.0] * 5, [0.0, 110.0, 90.0] * 5)
    assert interval.log_ratio == pytest.approx(math.log(91 / 1)), "a target of 90 mm3 that was missed"
    low, high = interval_around(0.0, interval)
    assert low == 0
    assert high == pytest.approx(90.0)
    nowhere = fit_interval([0.0] * 10, [0.0] * 10)
    assert interval_around(0.0, nowhere) == (0.0, 0.0)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_new_cases_are_covered_at_the_level(level: float) -> None:
    """Skewed errors, volumes over two orders of magnitude: over many draws the coverage is the level, hardly more."""
    rng = np.random.default_rng(0)
    num, covered = 24, []
    for _ in range(1500):
        true = np.exp(rng.normal(8, 1.5, num + 1))
        predicted = true * np.exp(0.3 * rng.standard_t(3, num + 1) + 0.1)
        interval = fit_interval(predicted[:-1], true[:-1], level)
        low, high = interval_around(predicted[-1], interval)
        covered.append(low - 1e-9 <= true[-1] <= high + 1e-9)
    assert level - 0.03 <= np.mean(covered) <= level + 1 / (num + 1) + 0.03


def test_an_interval_is_data() -> None:
    interval = fit_interval([1.0] * 10, [1.1] * 10)
    assert VolumeInterval.model_validate_json(interval.model_dump_json()) == interval
