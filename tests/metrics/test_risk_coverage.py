"""Risk-coverage: hand-computed curves, and the areas of perfect, random and reversed orders."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.metrics.risk_coverage import area, risk_coverage

RISKS = [0.4, 0.1, 0.3, 0.2]


def test_a_curve_by_hand() -> None:
    curve = risk_coverage(RISKS, [0.1, 0.9, 0.5, 0.6])  # in the order 0.1, 0.2, 0.3, 0.4
    np.testing.assert_allclose(curve, [0.1, 0.15, 0.2, 0.25])
    assert area(curve) == pytest.approx(0.175)


def test_perfect_random_and_reversed_orders() -> None:
    perfect = area(risk_coverage(RISKS, [-r for r in RISKS]))
    reversed_ = area(risk_coverage(RISKS, RISKS))
    alike = area(risk_coverage(RISKS, [0.5] * 4))
    assert perfect == pytest.approx(0.175)
    assert reversed_ == pytest.approx((0.4 + 0.35 + 0.3 + 0.25) / 4)
    assert alike == pytest.approx(0.25), "no order: the mean risk at every coverage"
    every_order = [area(risk_coverage(RISKS, order)) for order in itertools.permutations(range(4))]
    assert np.mean(every_order) == pytest.approx(0.25)
    assert min(every_order) == pytest.approx(perfect)
    assert max(every_order) == pytest.approx(reversed_)


def test_equal_confidences_give_the_mean_over_their_orders() -> None:
    risks, tied = [0.0, 1.0, 0.2, 0.8], [0.9, 0.5, 0.5, 0.1]
    found = risk_coverage(risks, tied)
    orders = [risk_coverage(risks, [0.9, 0.5 + a, 0.5 + b, 0.1]) for a, b in ((0.01, 0), (0, 0.01))]
    np.testing.assert_allclose(found, np.mean(orders, axis=0))


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 5)), min_size=1, max_size=30))
def test_no_order_is_better_than_that_by_risk_or_worse_than_its_reverse(pairs: list[tuple[float, int]]) -> None:
    risks, confidences = [r for r, _ in pairs], [float(c) for _, c in pairs]
    found = area(risk_coverage(risks, confidences))
    assert area(risk_coverage(risks, [-r for r in risks])) <= found + 1e-9
    assert found <= area(risk_coverage(risks, risks)) + 1e-9
    assert risk_coverage(risks, confidences)[-1] == pytest.approx(np.mean(risks))


@pytest.mark.parametrize(("risks", "confidences"), [([], []), ([0.1], []), ([0.1, 0.2], [1.0])])
def test_what_has_no_curve(risks: list[float], confidences: list[float]) -> None:
    with pytest.raises(ValueError, match="as many confidences as risks"):
        risk_coverage(risks, confidences)
