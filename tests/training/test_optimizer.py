"""Optimisers against their definitions, their state through tensors, the average of weights."""

import math

import pytest
import torch
from torch import nn

from autoseg.errors import ModelError
from autoseg.records.recipe import Optimizer
from autoseg.training.optimizer import (
    build_optimizer,
    optimizer_tensors,
    restore_optimizer,
    set_learning_rate,
    start_average,
    update_average,
)

RECIPES = [
    Optimizer(),
    Optimizer(name="adamw", learning_rate=1e-2, weight_decay=0.1, momentum=0.9),
    Optimizer(name="muon", learning_rate=1e-2, weight_decay=0.1, momentum=0.9),
    Optimizer(name="schedule_free", learning_rate=1e-2, weight_decay=0.1, momentum=0.9),
]


def _network() -> nn.Linear:
    network = nn.Linear(3, 2)
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.fill_(0.5 + number)
    return network


def _step(network: nn.Linear, optimizer: torch.optim.Optimizer, value: float) -> None:
    optimizer.zero_grad()
    network(torch.full((1, 3), value)).square().sum().backward()
    optimizer.step()


def test_sgd_first_steps_by_hand() -> None:
    network = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(2.0)
    optimizer = build_optimizer(network, Optimizer(learning_rate=0.1, momentum=0.5, weight_decay=0.01))
    for _ in range(2):
        optimizer.zero_grad()
        (3 * network.weight).sum().backward()
        optimizer.step()
    # g1 = 3 + 0.01 * 2 = 3.02, v1 = 3.02, w1 = 2 - 0.1 (3.02 + 0.5 * 3.02) = 1.547
    # g2 = 3.01547, v2 = 0.5 * 3.02 + 3.01547 = 4.52547, w2 = 1.547 - 0.1 (3.01547 + 0.5 * 4.52547) = 1.0191795
    assert network.weight.item() == pytest.approx(1.0191795, rel=1e-6)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_state_put_back_continues_exactly(recipe: Optimizer) -> None:
    network = _network()
    optimizer = build_optimizer(network, recipe)
    _step(network, optimizer, 1.0)
    twin = _network()
    twin.load_state_dict(network.state_dict())
    twin_optimizer = build_optimizer(twin, recipe)
    restore_optimizer(twin_optimizer, twin, {k: v.clone() for k, v in optimizer_tensors(optimizer, network).items()})
    for value in (0.3, -2.0):
        _step(network, optimizer, value)
        _step(twin, twin_optimizer, value)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_skipped_first_step_leaves_no_trace(recipe: Optimizer, monkeypatch: pytest.MonkeyPatch) -> None:
    def dirty(like: torch.Tensor, **options: object) -> torch.Tensor:
        return torch.full_like(like, 1e6)

    monkeypatch.setattr(torch, "empty_like", dirty)  # memory that nothing has filled holds anything
    networks = [_network(), _network()]
    for network, values in zip(networks, [(math.inf, 1.0, 0.3), (1.0, 0.3)], strict=True):
        optimizer, scaler = build_optimizer(network, recipe), torch.amp.GradScaler("cpu", init_scale=1.0)
        for value in values:
            optimizer.zero_grad()
            scaler.scale(network(torch.full((1, 3), value)).square().sum()).backward()
            scaler.step(optimizer)
            scaler.update(1.0)
    assert all(torch.equal(a, b) for a, b in zip(networks[0].parameters(), networks[1].parameters(), strict=True))


def test_state_of_another_network_is_refused() -> None:
    network = nn.Linear(3, 2)
    optimizer = build_optimizer(network, RECIPES[0])
    with pytest.raises(ModelError, match="elsewhere:momentum_buffer"):
        restore_optimizer(optimizer, network, {"elsewhere:momentum_buffer": torch.zeros(2, 3)})
    with pytest.raises(ModelError, match="weight:momentum_buffer"):
        restore_optimizer(optimizer, network, {"weight:momentum_buffer": torch.zeros(7)})


def test_rate_is_used_from_the_next_step_on() -> None:
    network = _network()
    optimizer = build_optimizer(network, RECIPES[0])
    set_learning_rate(optimizer, 0.0)
    before = network.weight.detach().clone()
    _step(network, optimizer, 1.0)
    assert torch.equal(before, network.weight)


def test_average_by_hand() -> None:
    network = _network()
    average = start_average(network)
    with torch.no_grad():
        network.bias.fill_(11.5)
    update_average(average, network, decay=0.5, step=0)  # decay 1 / 10: nine tenths of the way
    assert average["bias"].tolist() == pytest.approx([10.5, 10.5])
    update_average(average, network, decay=0.5, step=100)  # decay 0.5: half of the rest
    assert average["bias"].tolist() == pytest.approx([11.0, 11.0])
    assert torch.equal(average["weight"], network.weight)
