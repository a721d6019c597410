import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autoseg.networks.build import build_network
from autoseg.networks.norm import InstanceNorm
from autoseg.planning.memory import count_activations
from autoseg.records.plan import NetworkSpec


def _spec(architecture: str, blocks: tuple[int, ...], decoder: int, features: tuple[int, ...]) -> NetworkSpec:
    n = len(features)
    return NetworkSpec(
        architecture=architecture,
        features_per_stage=features,
        strides=((1, 1, 1),) + ((2, 2, 2),) * (n - 1),
        kernel_sizes=((3, 3, 3),) * n,
        blocks_per_stage=blocks,
        decoder_blocks_per_stage=(decoder,) * (n - 1),
    )


def test_two_stages_by_hand() -> None:
    # Encoder 2 x 4 x 8 + 2 x 8 x 1; decoder two convolutions and one transposed of 4 x 8; logits 3 x 8.
    assert count_activations(_spec("plain_unet", (2, 2), 2, (4, 8)), (2, 2, 2), 3) == 64 + 16 + 96 + 24
    # Stem 4 x 8, one block 2 x 4 x 8; three blocks 6 x 8 and a projection 8; decoder 2 x 4 x 8; logits.
    assert count_activations(_spec("residual_unet", (1, 3), 1, (4, 8)), (2, 2, 2), 3) == 32 + 64 + 48 + 8 + 64 + 24


def test_the_reference_network_of_nnunet() -> None:
    spec = _spec("plain_unet", (2,) * 6, 2, (32, 64, 128, 256, 320, 320))
    assert round(count_activations(spec, (128, 128, 128), 3) / 1e6) == 453


def test_one_stage_has_no_decoder_and_no_logits() -> None:
    assert count_activations(_spec("plain_unet", (2,), 2, (4,)), (2, 2, 2), 3) == 64


def _kept_values(network: torch.nn.Module, image: Tensor, monkeypatch: pytest.MonkeyPatch) -> int:
    """Distinct values that PyTorch keeps for the backward pass with its own normalisation, as on a GPU."""

    def forward(self: InstanceNorm, x: Tensor) -> Tensor:
        y = F.instance_norm(x, weight=self.weight, bias=self.bias)
        return y if self.slope == 1 else F.leaky_relu_(y, self.slope)

    monkeypatch.setattr(InstanceNorm, "forward", forward)
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = network.train()(image)
    assert outputs
    return sum(tensor.untyped_storage().nbytes() // 4 for tensor in kept.values())


@pytest.mark.parametrize("changes", [{}, {"architecture": "residual_unet"}])
def test_an_activation_means_the_same_for_both_networks(
    changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two kept values for one that is counted, within a tenth, so that one budget is right for all."""
    spec = _spec("plain_unet", (2, 2, 2), 2, (8, 16, 32)).model_copy(update=changes)
    kept = _kept_values(build_network(spec, 1, 3, seed=0), torch.randn(1, 1, 16, 16, 16), monkeypatch)
    assert kept / count_activations(spec, (16, 16, 16), 3) == pytest.approx(1.9, rel=0.1)
