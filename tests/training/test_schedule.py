"""Learning rates by hand, and that every course anneals over its own length."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.records.recipe import Schedule
from autoseg.training.schedule import TrainingSchedule, learning_rate


def _schedule(epochs: int, iterations: int) -> TrainingSchedule:
    return TrainingSchedule(epochs=epochs, iterations_per_epoch=iterations, seed=0, precision="float32", device="cpu")


def test_poly_is_nnunets_and_constant_within_an_epoch() -> None:
    schedule = _schedule(1000, 250)
    rates = [learning_rate(0.01, Schedule(), schedule, step) for step in (0, 249, 250, 500 * 250, 999 * 250 + 249)]
    assert rates == pytest.approx([0.01, 0.01, 0.01 * 0.999**0.9, 0.01 * 0.5**0.9, 0.01 * 0.001**0.9])


def test_cosine_warms_up_linearly_and_falls_to_nearly_zero() -> None:
    course = Schedule(name="cosine", warmup_fraction=0.25)
    rates = [learning_rate(1.0, course, _schedule(4, 2), step) for step in range(8)]
    # 2 of 8 steps warm up: 1/2, 1; then cosine over the remaining 6 towards a 7th that would be 0.
    assert rates[:2] == [0.5, 1.0]
    assert rates[4] == pytest.approx(0.6112604669781572)  # (1 + cos(3 pi / 7)) / 2
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert 0 < rates[-1] < 0.06


@given(
    st.sampled_from(["poly", "cosine"]),
    st.integers(1, 60),
    st.integers(1, 20),
    st.floats(0, 0.9),
)
def test_rates_stay_in_range_and_end_low(name: str, epochs: int, iterations: int, warmup: float) -> None:
    course = Schedule(name=name, warmup_fraction=warmup)  # type: ignore[arg-type]
    schedule = _schedule(epochs, iterations)
    rates = [learning_rate(2.0, course, schedule, step) for step in range(schedule.num_steps)]
    assert all(0 < rate <= 2.0 for rate in rates)
    assert rates[-1] <= rates[rates.index(max(rates))]
