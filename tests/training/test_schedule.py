"""Learning rates by hand, and that every course anneals over its own length."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoseg.records.recipe import Optimizer, Schedule
from autoseg.training.schedule import Cooldown, TrainingSchedule, learning_rate, peak_rate, with_cooldown


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
    st.sampled_from(["poly", "cosine", "wsd", "one_cycle"]),
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


def _rates(course: Schedule, schedule: TrainingSchedule, peak: float = 1.0) -> list[float]:
    return [learning_rate(peak, course, schedule, step) for step in range(schedule.num_steps)]


def test_wsd_is_constant_and_then_cools_down_by_hand() -> None:
    course = Schedule(name="wsd", warmup_fraction=0.2, cooldown_fraction=0.3, cooldown_shape="linear")
    # 10 steps: 2 warm up, 3 cool down: 3/4, 2/4, 1/4.
    assert _rates(course, _schedule(5, 2)) == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    root = course.model_copy(update={"cooldown_shape": "sqrt"})
    assert _rates(root, _schedule(5, 2))[7:] == pytest.approx([1 - 0.25**0.5, 1 - 0.5**0.5, 1 - 0.75**0.5])
    assert _rates(Schedule(name="wsd", cooldown_fraction=0.0), _schedule(5, 2)) == [1.0] * 10


@pytest.mark.parametrize(("epochs", "iterations", "rise"), [(10, 10, 0.3), (7, 3, 0.25), (50, 1, 0.5)])
def test_one_cycle_is_torchs(epochs: int, iterations: int, rise: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.0, momentum=0.9)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.02, total_steps=epochs * iterations, pct_start=rise, cycle_momentum=False
    )
    wanted = []
    for _ in range(epochs * iterations):
        wanted.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(wanted) < epochs * iterations:
            theirs.step()
    course = Schedule(name="one_cycle", rise_fraction=rise)
    assert _rates(course, _schedule(epochs, iterations), 0.02) == pytest.approx(wanted, rel=1e-9)


def test_an_early_cooldown_by_hand() -> None:
    course = Schedule(name="wsd", cooldown_fraction=0.2, cooldown_shape="linear")
    schedule = with_cooldown(course, _schedule(10, 10), 41, "asked")
    # A fifth of all steps: 41 + 10.25, and on to the end of the sixth epoch.
    assert schedule.cooldown == Cooldown(start=41, steps=19, why="asked")
    assert (schedule.num_steps, schedule.num_epochs, schedule.planned_steps) == (60, 6, 100)
    rates = _rates(course, schedule)
    assert rates[:41] == [1.0] * 41
    assert rates[41:] == pytest.approx([1 - n / 20 for n in range(1, 20)])
    assert with_cooldown(course, schedule, 50, "plateau") is schedule  # it has one


def test_exact_cooldowns_do_not_run_on_for_another_epoch() -> None:
    course = Schedule(name="wsd", cooldown_fraction=0.2)
    for epoch in (4, 8, 12, 80):  # 80 * 0.2 / 0.8 is a little more than 20 in floating point
        assert with_cooldown(course, _schedule(1000, 10), epoch * 10, "asked").num_epochs == epoch * 5 // 4


@pytest.mark.parametrize("name", ["wsd", "poly", "cosine", "one_cycle"])
def test_a_cooldown_never_ends_after_the_plan_and_starts_from_the_present_rate(name: str) -> None:
    course, planned = Schedule(name=name, warmup_fraction=0.1, cooldown_shape="linear"), _schedule(10, 5)  # type: ignore[arg-type]
    for start in range(1, 50):
        schedule = with_cooldown(course, planned, start, "asked")
        if schedule is planned:
            assert name == "wsd"
            assert start >= 40
            continue
        assert schedule.num_steps <= 50
        assert schedule.num_steps % 5 == 0
        rates, before = _rates(course, schedule), _rates(course, planned)
        assert rates[:start] == before[:start]
        assert all(rate < before[start] for rate in rates[start:])
        assert rates[start:] == sorted(rates[start:], reverse=True)
    assert with_cooldown(course, planned, 50, "asked") is planned


def test_without_a_cooldown_share_asking_ends_the_training_with_the_epoch() -> None:
    course = Schedule(name="wsd", cooldown_fraction=0.0)
    assert with_cooldown(course, _schedule(10, 10), 40, "asked").num_steps == 40
    assert with_cooldown(course, _schedule(10, 10), 41, "asked").num_steps == 50


def test_rates_scale_with_the_batch_where_a_reference_is_named() -> None:
    assert peak_rate(Optimizer(learning_rate=0.01), 8) == 0.01
    assert peak_rate(Optimizer(learning_rate=0.01, reference_batch=2), 8) == pytest.approx(0.04)
    assert peak_rate(Optimizer(name="adamw", learning_rate=0.01, reference_batch=2), 8) == pytest.approx(0.02)
    assert peak_rate(Optimizer(name="muon", learning_rate=0.01, reference_batch=8), 2) == pytest.approx(0.005)
