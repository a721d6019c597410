"""One step: the loss falls, steps that are not finite change nothing, the average predicts."""

import math
from dataclasses import replace

import pytest
import torch

from autoseg.training.batches import Sampler, batches
from autoseg.training.learner import final_weights, train_step
from tests.training.tools import RECIPE, make_learner, make_sampler, make_source, scaled


def _sampler() -> Sampler:
    return make_sampler(scaled(make_source([(10, 9, 8), (8, 12, 9)]), 1e-3))


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_steps_lower_the_loss(precision: str) -> None:
    learner = make_learner(precision=precision)
    (batch,) = batches(_sampler(), [(0, 0)])
    losses = [train_step(learner, batch, 0.05, step).item() for step in range(12)]
    finite = [loss for loss in losses if math.isfinite(loss)]  # float16 may skip steps until its scale fits
    assert finite[-1] < finite[0]


def test_a_step_that_is_not_finite_changes_no_weight() -> None:
    learner = make_learner()
    (batch,) = batches(_sampler(), [(0, 0)])
    train_step(learner, batch, 0.05, 0)
    before = {name: value.clone() for name, value in learner.network.state_dict().items()}
    loss = train_step(learner, replace(batch, images=batch.images * torch.nan), 0.05, 1)
    assert math.isnan(loss.item())
    assert all(torch.equal(before[name], value) for name, value in learner.network.state_dict().items())
    train_step(learner, batch, 0.05, 2)
    assert all(torch.isfinite(value).all() for value in learner.network.state_dict().values())
    assert not all(torch.equal(before[name], value) for name, value in learner.network.state_dict().items())


def test_float16_overflows_until_its_scale_fits_are_no_bad_steps() -> None:
    learner = make_learner(precision="float16")
    (batch,) = batches(_sampler(), [(0, 0)])
    before = {name: value.clone() for name, value in learner.network.state_dict().items()}
    loud = replace(learner, loss=lambda outputs, target: learner.loss(outputs, target) * 1e4)
    losses = [train_step(loud, batch, 1e-6, 0).item()]
    assert all(torch.equal(before[name], value) for name, value in learner.network.state_dict().items())
    losses += [train_step(loud, batch, 1e-6, step).item() for step in range(1, 20)]
    assert all(math.isfinite(loss) for loss in losses)
    assert any(not torch.equal(before[name], value) for name, value in learner.network.state_dict().items())


def test_float16_steps_that_no_scale_helps_are_bad_ones() -> None:
    learner = make_learner(precision="float16")
    (batch,) = batches(_sampler(), [(0, 0)])
    # The square root's slope at 0 is infinite, its value is not.
    steep = replace(learner, loss=lambda outputs, target: (outputs[0].float() * 0).sqrt().sum())
    losses = [train_step(steep, batch, 0.01, step).item() for step in range(20)]
    assert all(math.isfinite(loss) for loss in losses[:16])  # 2^16 halved to 1
    assert all(math.isnan(loss) for loss in losses[16:])


def test_the_average_predicts_if_there_is_one() -> None:
    (batch,) = batches(_sampler(), [(0, 0)])
    averaging, plain = make_learner(), make_learner(RECIPE.model_copy(update={"ema_decay": None}))
    for learner in (averaging, plain):
        train_step(learner, batch, 0.1, 0)
    name = next(iter(averaging.average))
    weights = averaging.network.state_dict()[name]
    assert torch.equal(final_weights(plain)[name], weights)
    assert torch.equal(final_weights(averaging)[name], averaging.average[name])
    assert not torch.equal(averaging.average[name], weights)
