import pytest
import torch
from torch import nn

from autoseg.errors import UsageError
from autoseg.losses.build import build_loss
from autoseg.networks.blocks import recompute_activations
from autoseg.networks.cost import trace_step
from autoseg.records.recipe import Recipe
from tests.networks.steps import LABELS, network_of, saved_bytes, step_of

ARCHITECTURES = ["plain_unet", "residual_unet", "fcn"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("half", [False, True])
def test_gradients_are_the_same(architecture: str, half: bool) -> None:
    images = torch.randn(2, 1, 16, 16, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 3, (2, 16, 16, 8), generator=torch.Generator().manual_seed(1))
    found = []
    for again in (False, True):
        network = network_of(architecture, (4, 8, 12), (16, 16, 8))
        if again:
            recompute_activations(network)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            outputs = network(images)
        build_loss(Recipe(), LABELS, False)(outputs, labels).backward()
        found.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    kept, recomputed = found
    assert kept.keys() == recomputed.keys()
    for name in kept:
        torch.testing.assert_close(recomputed[name], kept[name], rtol=0, atol=0)


@pytest.mark.parametrize("architecture", ["plain_unet", "residual_unet"])
def test_less_is_kept_and_more_is_computed(architecture: str) -> None:
    def step(again: bool):
        network, *rest = step_of(architecture, (16, 32, 64), (64, 64, 64), 2)
        if again:
            recompute_activations(network)
        return network, *rest

    saved = [saved_bytes(*step(again), half=True) for again in (False, True)]
    assert saved[1] < 0.5 * saved[0]
    kept, recomputed = (trace_step(*step(again), half=True, kind="cuda") for again in (False, True))
    assert recomputed.peak_bytes < 0.75 * kept.peak_bytes
    # Forward twice: four thirds, but for the heads and what no gradient flows into.
    assert recomputed.flops == pytest.approx(4 / 3 * kept.flops, rel=0.02)


def test_a_network_that_cannot_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot"):
        recompute_activations(nn.Conv3d(1, 1, 1))
