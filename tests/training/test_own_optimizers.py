"""Muon against its definition and torch's, schedule-free AdamW against the equations of its paper."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from autoseg.records.recipe import Optimizer
from autoseg.training.optimizer import build_optimizer, optimizer_tensors, restore_optimizer, set_learning_rate
from autoseg.training.own_optimizers import Muon, averaged_weights, orthogonalized


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _network() -> nn.Sequential:
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 1))
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.copy_(0.2 * _random(*parameter.shape, seed=number))
    return network


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int, factor: float = 1.0) -> None:
    optimizer.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    scaler.scale(network(factor * _random(1, 1, 4, 4, 4, seed=seed)).square().mean()).backward()
    scaler.step(optimizer)
    scaler.update(1.0)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 6), (1, 5)])
def test_orthogonalised_keeps_the_singular_vectors_and_evens_their_values(shape: tuple[int, int]) -> None:
    matrix = _random(*shape)
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    middle = u.T @ orthogonalized(matrix) @ v.T
    # The quintic, applied to each singular value: what five iterations do, exactly.
    expected = values / values.norm()
    for _ in range(5):
        expected = 3.4445 * expected - 4.7750 * expected**3 + 2.0315 * expected**5
    assert torch.allclose(middle, torch.diag(expected), atol=1e-4)
    assert ((expected > 0.5) & (expected < 1.3)).all()


def test_a_zero_gradient_gives_no_direction() -> None:
    assert torch.equal(orthogonalized(torch.zeros(3, 5)), torch.zeros(3, 5))


def test_muon_is_torchs_on_the_kernels_matrix() -> None:
    recipe = Optimizer(name="muon", learning_rate=0.02, weight_decay=0.1, momentum=0.9)
    kernel = nn.Parameter(_random(6, 2, 3, 1, 1))
    ours = Muon([kernel], recipe)
    matrix = nn.Parameter(kernel.detach().reshape(6, 6).clone())
    theirs = torch.optim.Muon(
        [matrix], lr=0.02, weight_decay=0.1, momentum=0.9, nesterov=True, adjust_lr_fn="match_rms_adamw"
    )
    for seed in range(1, 4):
        gradient = _random(6, 6, seed=seed)
        kernel.grad, matrix.grad = gradient.reshape(kernel.shape).clone(), gradient.clone()
        before = matrix.detach().clone()
        ours.step()
        theirs.step()
        # Theirs iterates in bfloat16, whose numbers have two to three digits.
        assert torch.allclose(kernel.reshape(6, 6), matrix, atol=0.05 * (matrix - before).abs().max().item())


def test_muon_leaves_biases_and_kernels_of_one_voxel_to_adamw() -> None:
    recipe = Optimizer(name="muon", learning_rate=0.02, weight_decay=0.1, momentum=0.9, beta2=0.95)
    network, twin = _network(), _network()
    ours = build_optimizer(network, recipe)
    theirs = build_optimizer(twin, recipe.model_copy(update={"name": "adamw"}))
    _step(network, ours, 5)
    _step(twin, theirs, 5)
    same = {n: torch.equal(p, dict(twin.named_parameters())[n]) for n, p in network.named_parameters()}
    assert same == {"0.weight": False, "0.bias": True, "2.weight": True, "2.bias": True}


def _paper(gradient: float, state: dict[str, float], rate: float, recipe: Optimizer) -> None:
    """One step of algorithm 1 of Defazio et al. 2024 for a single weight, in x, y and z."""
    beta, beta2 = recipe.momentum, recipe.beta2
    y = (1 - beta) * state["z"] + beta * state["x"]
    state["t"] += 1
    state["v"] = beta2 * state["v"] + (1 - beta2) * gradient**2
    corrected = state["v"] / (1 - beta2 ** state["t"])
    state["largest"] = max(state["largest"], rate)
    state["weights"] += state["largest"] ** 2
    share = state["largest"] ** 2 / state["weights"]
    state["z"] -= rate * (gradient / (math.sqrt(corrected) + 1e-8) + recipe.weight_decay * y)
    state["x"] = (1 - share) * state["x"] + share * state["z"]


def test_schedule_free_is_the_papers() -> None:
    recipe = Optimizer(name="schedule_free", learning_rate=0.1, weight_decay=0.05, momentum=0.9, beta2=0.95)
    network = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(1.5)
    optimizer = build_optimizer(network, recipe)
    state = {"x": 1.5, "z": 1.5, "v": 0.0, "t": 0.0, "largest": 0.0, "weights": 0.0}
    rates = [0.025, 0.05, 0.1, 0.1, 0.1, 0.02]  # a warm-up, a constant rate, a cooldown
    for rate, gradient in zip(rates, np.linspace(-1.0, 2.0, 6), strict=True):
        network.weight.grad = torch.full_like(network.weight, float(gradient))
        set_learning_rate(optimizer, rate)
        optimizer.step()
        _paper(float(gradient), state, rate, recipe)
        y = 0.1 * state["z"] + 0.9 * state["x"]
        assert network.weight.item() == pytest.approx(y, rel=1e-5)
        assert averaged_weights(optimizer, network)["weight"].item() == pytest.approx(state["x"], rel=1e-5)
    assert averaged_weights(build_optimizer(network, Optimizer()), network) == {}


@pytest.mark.parametrize("name", ["muon", "schedule_free"])
def test_a_bad_step_between_good_ones_changes_nothing(name: str) -> None:
    recipe = Optimizer(name=name, learning_rate=0.02, momentum=0.9, weight_decay=0.1)  # type: ignore[arg-type]
    runs = []
    for factors in ([1.0, 1.0], [1.0, math.inf, 1.0]):
        network = _network()
        optimizer = build_optimizer(network, recipe)
        for factor in factors:
            _step(network, optimizer, 3, factor)
        runs.append({**network.state_dict(), **optimizer_tensors(optimizer, network)})
    assert runs[0].keys() == runs[1].keys()
    assert all(torch.equal(value, runs[1][key]) for key, value in runs[0].items())


@pytest.mark.parametrize("name", ["muon", "schedule_free"])
def test_state_of_kernels_put_back_continues_exactly(name: str) -> None:
    recipe = Optimizer(name=name, learning_rate=0.02, momentum=0.9, weight_decay=0.1)  # type: ignore[arg-type]
    network, twin = _network(), _network()
    optimizer, other = build_optimizer(network, recipe), build_optimizer(twin, recipe)
    _step(network, optimizer, 1)
    twin.load_state_dict(network.state_dict())
    restore_optimizer(other, twin, {k: v.clone() for k, v in optimizer_tensors(optimizer, network).items()})
    for seed in (2, 3):
        _step(network, optimizer, seed)
        _step(twin, other, seed)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters(), strict=True))
    averages = averaged_weights(optimizer, network), averaged_weights(other, twin)
    assert all(torch.equal(value, averages[1][key]) for key, value in averages[0].items())
