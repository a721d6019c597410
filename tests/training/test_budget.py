"""The length that fits a budget, by hand and as a property; what was asked for goes first."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.records.recipe import Schedule
from autoseg.training.budget import fit_length
from autoseg.training.probe import Costs
from autoseg.training.schedule import TrainOptions

COSTS = Costs(
    step_seconds=0.5,
    uncertainty=0.1,
    checkpoint_seconds=0.01,
    validation_seconds=10.0,
    memory_bytes=2**30,
    disk_bytes=2**30,
)
NO_OPTIONS = TrainOptions()


def test_without_a_budget_the_plan_decides() -> None:
    assert fit_length(Schedule(), NO_OPTIONS, COSTS, None) == (1000, 250)
    assert fit_length(Schedule(), TrainOptions(epochs=3), COSTS, None) == (3, 250)
    assert fit_length(Schedule(), TrainOptions(iterations=7), COSTS, None) == (1000, 7)


def test_fifteen_minutes_by_hand() -> None:
    # 900 - 11 (validation with its margin) - 2 (closing) = 887 s; 50 epochs save for 0.5 s in all;
    # 886.5 * 0.95 / 0.5 = 1684 steps = 50 epochs of 33, and 34 steps left over; an epoch of 33 takes 17.4 s, so 51 fit.
    assert fit_length(Schedule(), NO_OPTIONS, COSTS, 900.0) == (51, 33)


def test_options_beside_a_budget_are_obeyed() -> None:
    assert fit_length(Schedule(), TrainOptions(epochs=10, iterations=20), COSTS, 900.0) == (10, 20)
    assert fit_length(Schedule(), TrainOptions(epochs=10), COSTS, 900.0) == (10, 168)
    assert fit_length(Schedule(), TrainOptions(iterations=100), COSTS, 900.0) == (16, 100)


def test_checkpoints_are_paid_for_beside_options() -> None:
    # 887 s hold 10 checkpoints of 20 s and 687 * 0.95 / 0.5 = 1305 steps; an epoch of 100 steps takes 52.6 + 20 s.
    costs = dataclasses.replace(COSTS, checkpoint_seconds=20.0)
    assert fit_length(Schedule(), TrainOptions(epochs=10), costs, 900.0) == (10, 130)
    assert fit_length(Schedule(), TrainOptions(iterations=100), costs, 900.0) == (12, 100)


def test_looks_are_paid_for_too() -> None:
    # 887 s hold 50 epochs with 0.01 s of saving and 2 s of looking each: 786.5 * 0.95 / 0.5 = 1494 steps; an
    # epoch of 29 takes 17.3 s, so 51 fit.
    costs = dataclasses.replace(COSTS, watch_seconds=2.0)
    assert fit_length(Schedule(), NO_OPTIONS, costs, 900.0) == (51, 29)


def test_iterations_that_leave_poly_too_few_epochs_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert fit_length(Schedule(), TrainOptions(iterations=100), COSTS, 900.0) == (16, 100)
    cosine = Schedule(name="cosine")
    assert fit_length(cosine, TrainOptions(iterations=500), COSTS, 900.0) == (3, 500)
    assert capsys.readouterr().err == ""
    assert fit_length(Schedule(), TrainOptions(iterations=500), COSTS, 900.0) == (3, 500)
    assert "3 epochs of 500 steps" in capsys.readouterr().err
    assert fit_length(cosine, TrainOptions(iterations=5000), COSTS, 900.0) == (1, 5000)
    assert "exceeded" in capsys.readouterr().err


def test_a_budget_that_is_too_small_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert fit_length(Schedule(), NO_OPTIONS, COSTS, 12.0) == (1, 1)
    assert "exceeded" in capsys.readouterr().err


@given(
    st.floats(20, 1e5),
    st.floats(1e-3, 5),
    st.floats(1e-3, 5),
    st.floats(0, 10),
)
def test_plans_fit_their_budget_with_room_for_a_slower_machine(
    left: float, step: float, checkpoint: float, validation: float
) -> None:
    costs = dataclasses.replace(COSTS, step_seconds=step, checkpoint_seconds=checkpoint, validation_seconds=validation)
    epochs, iterations = fit_length(Schedule(), NO_OPTIONS, costs, left)
    needed = epochs * (iterations * step + checkpoint) + validation
    if needed > left:
        assert (epochs, iterations) == (1, 1)
    if step + checkpoint < 0.001 * left and validation < 0.1 * left:  # then next to nothing is left over
        assert needed + 2.0 > 0.9 * left  # 2 s of closing
    # An epoch takes a minute, or as long as its checkpoint is worth; the last one takes the remainder too.
    assert epochs == 1 or iterations * step <= 2 * max(60, checkpoint / 0.03)


def test_long_trainings_have_epochs_of_about_a_minute() -> None:
    epochs, iterations = fit_length(Schedule(), NO_OPTIONS, COSTS, 36000.0)
    assert 50 <= iterations * COSTS.step_seconds <= 60
    assert epochs * iterations * COSTS.step_seconds == pytest.approx(0.95 * 36000, rel=0.02)


def test_expensive_checkpoints_make_fewer_epochs() -> None:
    costs = dataclasses.replace(COSTS, checkpoint_seconds=5.0)
    epochs, _ = fit_length(Schedule(), NO_OPTIONS, costs, 900.0)
    assert epochs * 5.0 <= 0.03 * 900
