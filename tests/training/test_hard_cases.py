"""Hard cases are drawn more often, by losses that have surely been read, and the same after a resumption."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.errors import DataError, Preempted
from autoseg.records.recipe import Recipe, Sampling
from autoseg.training import loop as module
from autoseg.training.batches import Sampler, draw_batch
from autoseg.training.hard_cases import CaseLosses, HardCases
from autoseg.training.loop import train_network
from autoseg.training.schedule import TrainingSchedule
from autoseg.training.source import READ_AHEAD
from autoseg.training.stopping import StopRequest
from autoseg.training.tiers import Tier
from tests.training.test_loop import StopAfter, _digest
from tests.training.tools import RECIPE, make_learner, make_sampler, make_source, scaled

CASES = ("a", "b", "c")
LONG = TrainingSchedule(epochs=8, iterations_per_epoch=2, seed=7, precision="float32", device="cpu")
HARD = RECIPE.model_copy(update={"sampling": Sampling(cases="hard", hard_ratio=9.0)})


def _follow(iterations: int = 250, state: CaseLosses = CaseLosses(), epoch: int = 0) -> HardCases:
    return HardCases(CASES, 3.0, iterations, state, epoch)


def test_odds_by_hand() -> None:
    hard = _follow()
    hard.add(("a", "b"), 0.2)
    hard.add(("b", "c"), 0.6)  # b: 0.4
    hard.add(("a",), math.nan)
    hard.end_epoch(0)
    assert hard.odds(0) is None
    assert hard.odds(1) is None  # its first batches may be drawn before epoch 0 has ended
    np.testing.assert_allclose(hard.odds(2), np.array([1, 2, 3]) / 6)
    hard.add(("a",), 1.4)  # (0.2 + 1.4) / 2 = 0.8, above c's 0.6
    hard.end_epoch(1)
    np.testing.assert_allclose(hard.odds(3), np.array([3, 1, 2]) / 6)
    np.testing.assert_allclose(hard.odds(2), np.array([1, 2, 3]) / 6)
    assert hard.state().means[-1] == pytest.approx({"a": 0.8, "b": 0.4, "c": 0.6})


def test_cases_never_drawn_are_the_hardest_and_one_case_has_no_odds() -> None:
    hard = _follow()
    hard.add(("c",), 5.0)
    hard.end_epoch(0)
    np.testing.assert_allclose(hard.odds(2), np.array([2, 3, 1]) / 6)
    alone = HardCases(("a",), 3.0, 250, CaseLosses(), 0)
    alone.add(("a",), 1.0)
    alone.end_epoch(0)
    assert alone.odds(2) is None


@pytest.mark.parametrize("iterations", [1, 2, 3, 5, 250])
def test_an_epochs_odds_are_known_when_its_first_batch_is_drawn_ahead(iterations: int) -> None:
    hard = _follow(iterations)
    for epoch in range(12):
        # The first step of `ahead` may be drawn while this epoch's last step is still to be trained.
        ahead = ((epoch + 1) * iterations - 1 + READ_AHEAD) // iterations
        known = hard.odds(ahead)
        hard.add(("a", "b", "c")[: 1 + epoch % 3], float(epoch))
        hard.end_epoch(epoch)
        np.testing.assert_array_equal(known, hard.odds(ahead))


@pytest.mark.parametrize("iterations", [1, 2, 250])
def test_the_state_brings_everything_back(iterations: int) -> None:
    hard = _follow(iterations)
    for epoch in range(9):
        hard.add(CASES[epoch % 3 :], 1.0 / (epoch + 1))
        resumed = _follow(iterations, CaseLosses.model_validate_json(hard.state().model_dump_json()), epoch)
        for one in (hard, resumed):
            one.add(("b",), 0.5)
            one.end_epoch(epoch)
        for later in range(epoch + 1, epoch + 1 + 8):
            np.testing.assert_array_equal(hard.odds(later), resumed.odds(later))


def _sampler(recipe: Recipe = HARD, tier: Tier = "memory") -> Sampler:
    source = scaled(make_source([(10, 9, 8), (8, 12, 9), (9, 9, 9), (8, 8, 8)]), 1e-3)
    return make_sampler(replace(source, tier=tier), recipe)


def _train(folder: Path, tier: Tier = "memory", stops: tuple[int, ...] = (), recipe: Recipe = HARD) -> str:
    folder.mkdir()
    for num_steps in stops:
        with pytest.raises(Preempted):
            train_network(make_learner(recipe), _sampler(recipe, tier), LONG, folder, StopAfter(num_steps - 1), "x")
    learner = make_learner(recipe)
    train_network(learner, _sampler(recipe, tier), LONG, folder, StopRequest(), "x")
    return _digest(learner)


def test_resumed_and_read_ahead_trainings_are_the_same_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "draw_curve", lambda *args: None)
    whole = _train(tmp_path / "whole")
    assert _train(tmp_path / "disk", "disk") == whole
    assert _train(tmp_path / "between", stops=(10,)) == whole
    assert _train(tmp_path / "within", "disk", stops=(1, 8, 3)) == whole
    uniform = RECIPE.model_copy(update={"sampling": Sampling()})
    assert _train(tmp_path / "uniform", recipe=uniform) != whole


def test_odds_decide_how_often_a_case_is_drawn() -> None:
    sampler = replace(_sampler(), case_odds=lambda epoch: np.array([0.1, 0.2, 0.3, 0.4]) if epoch else None)
    for epoch, expected in ((0, [0.25] * 4), (1, [0.1, 0.2, 0.3, 0.4])):
        drawn = Counter(draw.case for step in range(1000) for draw in draw_batch(sampler, (epoch, step)))
        np.testing.assert_allclose([drawn[case] / 2000 for case in range(4)], expected, atol=0.05)


@pytest.mark.parametrize("tier", ["memory", "disk"])
def test_a_case_that_cannot_be_read_ends_the_training_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tier: Tier
) -> None:
    monkeypatch.setattr(module, "draw_curve", lambda *args: None)
    sampler = _sampler(RECIPE, tier)

    def read(number: int, box: tuple[slice, slice, slice]) -> tuple[torch.Tensor, torch.Tensor]:
        if number == 2:
            raise RuntimeError("chunk 7 does not decompress")
        return sampler.source.read(number, box)

    broken = replace(sampler, source=replace(sampler.source, read=read))
    with pytest.raises(DataError, match=r"Case case_2: .*chunk 7 does not decompress.*autoseg preprocess"):
        train_network(make_learner(), broken, LONG, tmp_path, StopRequest(), "x")
