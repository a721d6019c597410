"""Unusualness: hand-computed, indifferent to the error it measures, and aware of a minority's habits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.auditing.rarity import THRESHOLD, scatter, unusualness


def named(values: list[float]) -> dict[str, float]:
    return {f"c{number}": value for number, value in enumerate(values)}


def test_by_hand() -> None:
    # Median 2; the furthest of the eleven is left out, nine tenths of eleven are ten: the ten deviations are
    # 2 x (2, 1) and six 0, so the trimmed deviation is sqrt(10 / 10) and the median one is 0.
    values = [0.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 3.0, 4.0, 50.0]
    assert scatter(values, has_habits=True) == pytest.approx(1.0)
    # Three quarters of eleven are nine: six deviations of 0, two of 1, one of 2.
    assert scatter(values) == pytest.approx((6 / 9) ** 0.5)
    assert scatter([1.0, 2.0, 4.0]) == pytest.approx(1.4826)
    assert unusualness(named(values), 0.1, has_habits=True)["c10"] == pytest.approx(48.0)
    assert unusualness(named(values), 4.0)["c0"] == pytest.approx(-0.5)


def test_one_error_does_not_hide_itself() -> None:
    values = [*([0.0] * 39), 0.9]
    assert unusualness(named(values), 0.02)["c39"] == pytest.approx(45)


def test_the_habit_of_a_quarter_of_the_cases_is_no_error() -> None:
    values = [*([0.0] * 30), *([0.5] * 10)]
    assert max(unusualness(named(values), 0.02, has_habits=True).values()) < THRESHOLD
    assert max(unusualness(named(values), 0.02).values()) == pytest.approx(25), "unless it can only be an error"


def test_errors_in_a_fifth_of_the_cases_do_not_hide() -> None:
    values = [*([0.0] * 32), *([0.9] * 8)]
    assert max(unusualness(named(values), 0.02).values()) == pytest.approx(45)


def test_normal_values_are_not_suspected() -> None:
    values = np.random.default_rng(0).normal(3, 2, 2000)
    assert scatter(values) == pytest.approx(2, rel=0.1)
    assert scatter(values, has_habits=True) == pytest.approx(2, rel=0.1)
    beyond = np.abs(list(unusualness(named(values.tolist()), 0.0).values())) > THRESHOLD
    assert beyond.mean() < 0.002


@pytest.mark.parametrize(("values", "expected"), [([], {}), ([3.0], {"c0": 0.0})])
def test_few_values(values: list[float], expected: dict[str, float]) -> None:
    assert unusualness(named(values), 1.0) == expected
    assert scatter(values, has_habits=True) == 0.0


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30), st.floats(0.5, 2), st.floats(-10, 10))
def test_scale_and_place_do_not_matter(values: list[float], factor: float, offset: float) -> None:
    before = unusualness(named(values), 0.1)
    after = unusualness(named([factor * value + offset for value in values]), 0.1 * factor)
    assert list(after.values()) == pytest.approx(list(before.values()), abs=1e-6)
