"""Calibration: a planted temperature is found again, samples stand for their population, and after is honest."""

import numpy as np
import pytest
import torch

from autoseg.inference import export
from autoseg.metrics.calibration import brier_score, calibration_bins, expected_calibration_error
from autoseg.records.labels import LabelScheme, Target
from autoseg.selection.calibration import (
    HIGHEST,
    LOWEST,
    Sample,
    fit_fold,
    fit_temperature,
    reliability,
    sample_case,
    sample_size,
)

TWO = LabelScheme(class_names=("background", "a", "b"), class_values=(0, 1, 2), num_entries=3)
REGIONS = TWO.model_copy(
    update={
        "regions": (Target(name="whole", members=(1, 2)), Target(name="core", members=(2,))),
        "region_order": (1, 2),
    }
)


def volume(labels: LabelScheme, temperature: float, seed: int = 0, side: int = 32, prior: float = 1.5) -> tuple:
    """Stored probabilities of a network that is `temperature` times too sure, and a reference drawn as it should be."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(0, 2.0, (labels.num_heads, side, side, side)).astype(np.float32)
    if labels.has_regions:
        inside = rng.random(honest.shape) < 1 / (1 + np.exp(-honest))
        # The last region lies inside the first: only the first is drawn freely from its own probability.
        reference = np.where(inside[0], np.where(inside[-1], 2, 1), 0)
        stored = 1 / (1 + np.exp(-temperature * honest))
    else:
        honest[0] += prior
        odds = np.exp(honest - honest.max(0))
        odds /= odds.sum(0)
        reference = (rng.random(honest.shape[1:]) > np.cumsum(odds, 0)[:-1]).sum(0)
        stored = np.exp(temperature * (honest - honest.max(0)))
        stored /= stored.sum(0)
    return stored.astype(np.float16), reference.astype(np.int16)


def draw(stored: np.ndarray, reference: np.ndarray, labels: LabelScheme, size: int = 4000, case: str = "c") -> Sample:
    found = sample_case(case, lambda rows: stored[:, rows], stored.shape, reference, labels, size)
    assert found is not None
    return found


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_a_planted_temperature_is_found(temperature: float) -> None:
    samples = [draw(*volume(TWO, temperature, seed), TWO, case=f"c{seed}") for seed in range(3)]
    assert fit_temperature(samples, TWO) == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize("temperature", [0.6, 2.5])
def test_a_planted_temperature_of_regions_is_found(temperature: float) -> None:
    """Only the outer region is asked of, whose truth is drawn from its own probability."""
    whole = REGIONS.model_copy(update={"regions": REGIONS.regions[:1], "region_order": (1,)})
    samples = [draw(*volume(whole, temperature, seed), whole) for seed in range(3)]
    assert fit_temperature(samples, whole) == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize("labels", [TWO, REGIONS])
def test_the_fitted_temperature_has_the_smallest_loss(labels: LabelScheme) -> None:
    samples = [draw(*volume(labels, 2.0), labels)]
    best = fit_temperature(samples, labels)

    def loss(temperature: float) -> float:
        return reliability([(samples[0], temperature)], labels).nll.mean

    assert loss(best) <= min(loss(t) for t in np.linspace(0.3, 4, 100)) + 1e-9


def test_without_any_error_the_bound_is_reached_and_with_errors_alone_the_other() -> None:
    right = torch.tensor([[0.0, -3.0], [-3.0, 0.0]])
    one_each = torch.full((2,), 0.5)
    labels = LabelScheme(class_names=("background", "a"), class_values=(0, 1), num_entries=2)
    assert fit_temperature([Sample(right, torch.tensor([0, 1]), one_each)], labels) == pytest.approx(LOWEST)
    assert fit_temperature([Sample(right, torch.tensor([1, 0]), one_each)], labels) == pytest.approx(HIGHEST)


@pytest.mark.parametrize("labels", [TWO, REGIONS])
def test_a_sample_stands_for_all_voxels(labels: LabelScheme) -> None:
    """With rare foreground, both halves are drawn, and the weighted figures are those of the whole volume."""
    stored, reference = volume(labels, 1.5, prior=6.0)
    everything = draw(stored, reference, labels, size=reference.size)
    some = draw(stored, reference, labels, size=3000)
    assert len(everything.weights) == reference.size
    assert len(some.weights) <= 6000
    assert float(some.weights.sum()) == pytest.approx(1, abs=1e-5)
    wanted, found = (reliability([(sample, 1.0)], labels) for sample in (everything, some))
    assert found.nll.mean == pytest.approx(wanted.nll.mean, rel=0.1)
    assert found.brier.mean == pytest.approx(wanted.brier.mean, rel=0.1)


def test_the_sample_does_not_depend_on_the_order_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    stored, reference = volume(TWO, 1.5, side=12)
    first = draw(stored, reference, TWO, size=50)
    again = draw(stored, reference, TWO, size=50)
    torch.testing.assert_close(first.logits, again.logits)
    monkeypatch.setattr(export, "_VALUES_PER_SLAB", 3 * 12 * 12 * 2)
    slabwise = draw(stored, reference, TWO, size=50)
    torch.testing.assert_close(first.logits, slabwise.logits)
    other = draw(stored, reference, TWO, size=50, case="other")
    assert not torch.equal(first.logits, other.logits)


def test_voxels_to_ignore_are_not_drawn() -> None:
    labels = TWO.model_copy(update={"ignore_value": 9})
    stored, reference = volume(labels, 1.0, side=8)
    reference[:4] = labels.ignore_index
    assert len(draw(stored, reference, labels, size=10_000).weights) == 4 * 8 * 8
    reference[:] = labels.ignore_index
    assert sample_case("c", lambda rows: stored[:, rows], stored.shape, reference, labels, 10) is None


def test_each_half_gets_the_temperature_of_the_other() -> None:
    """Cases 0 and 2 are too sure, 1 and 3 are not: each pair is given what the other would need."""
    planted = {"a": 2.5, "b": 1.0, "c": 2.5, "d": 1.0}
    samples = {case: draw(*volume(TWO, t, n), TWO) for n, (case, t) in enumerate(planted.items())}
    fold = fit_fold(samples, TWO, "digest")
    assert fold.held_out["a"] == fold.held_out["c"] == pytest.approx(1.0, rel=0.06)
    assert fold.held_out["b"] == fold.held_out["d"] == pytest.approx(2.5, rel=0.06)
    assert 1.0 < fold.temperature < 2.5
    assert fit_fold({"a": samples["a"]}, TWO, "digest").held_out == {"a": 1.0}


def test_calibration_mends_an_overconfident_network() -> None:
    samples = {f"c{n}": draw(*volume(TWO, 2.5, n), TWO) for n in range(4)}
    fold = fit_fold(samples, TWO, "digest")
    before = reliability([(sample, 1.0) for sample in samples.values()], TWO)
    after = reliability([(sample, fold.held_out[case]) for case, sample in samples.items()], TWO)
    assert after.ece.mean < 0.25 * before.ece.mean
    assert after.brier.mean < before.brier.mean
    assert after.nll.mean < before.nll.mean
    assert after.ece.num_cases == 4


@pytest.mark.parametrize("labels", [TWO, REGIONS])
def test_figures_of_all_voxels_are_those_of_the_metrics(labels: LabelScheme) -> None:
    stored, reference = volume(labels, 1.5, side=12)
    found = reliability([(draw(stored, reference, labels, size=reference.size), 1.0)], labels)
    bins = calibration_bins(stored, reference, labels).values()
    assert found.ece.mean == pytest.approx(np.mean([expected_calibration_error(one) for one in bins]), abs=2e-4)
    assert found.brier.mean == pytest.approx(np.mean([brier_score(one) for one in bins]), abs=2e-4)


@pytest.mark.parametrize("labels", [TWO, REGIONS])
def test_a_truth_stored_as_impossible_counts_but_does_not_outweigh_all(labels: LabelScheme) -> None:
    stored = np.zeros((labels.num_heads, 1, 1, 2), np.float16)
    stored[0] = 1
    reference = np.array([[[1, 2]]]) if not labels.has_regions else np.array([[[0, 1]]])
    sample = draw(stored, reference.astype(np.int16), labels)
    found = reliability([(sample, 1.0)], labels)
    assert 3 < found.nll.mean < 20
    assert fit_temperature([sample], labels) == pytest.approx(HIGHEST)


def test_figures_by_hand() -> None:
    """Two voxels: 0.8 and right, 0.6 and wrong, the second standing for three of four."""
    probabilities = torch.tensor([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1]])
    sample = Sample(probabilities.log(), torch.tensor([0, 2]), torch.tensor([0.25, 0.75]))
    found = reliability([(sample, 1.0)], TWO)
    assert found.ece.mean == pytest.approx(0.25 * 0.2 + 0.75 * 0.6)
    brier = 0.25 * (0.04 + 0.01 + 0.01) + 0.75 * (0.09 + 0.36 + 0.81)
    assert found.brier.mean == pytest.approx(brier)
    assert found.nll.mean == pytest.approx(-0.25 * np.log(0.8) - 0.75 * np.log(0.1), rel=1e-5)


def test_samples_of_many_cases_and_heads_stay_within_memory() -> None:
    assert sample_size(5, 3) == 10_000
    assert 2 * sample_size(200, 118) * 200 * 118 <= 1 << 26
    assert sample_size(10_000, 118) == 100
