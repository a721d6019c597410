from importlib.metadata import EntryPoint, EntryPoints

import pytest
import torch
from torch import nn

from autoseg.errors import UsageError
from autoseg.networks.blocks import ResidualBlock
from autoseg.networks.build import NETWORKS, build_network
from autoseg.records.plan import NetworkSpec


def make_spec(architecture: str = "plain_unet", dims: int = 3, num_stages: int = 3) -> NetworkSpec:
    return NetworkSpec(
        architecture=architecture,
        features_per_stage=tuple(4 * 2**s for s in range(num_stages)),
        strides=((1,) * dims, *(((1, 2, 2)[-dims:],) * (num_stages - 1))),
        kernel_sizes=(((1, 3, 3)[-dims:]), *(((3,) * dims,) * (num_stages - 1))),
        blocks_per_stage=(1, 2, 2, 2)[:num_stages],
        decoder_blocks_per_stage=(2, 1, 1)[: num_stages - 1],
    )


@pytest.mark.parametrize("architecture", list(NETWORKS))
@pytest.mark.parametrize("dims", [2, 3])
def test_forward_gives_logits_finest_first(architecture: str, dims: int) -> None:
    network = build_network(make_spec(architecture, dims, num_stages=4), 2, 5, seed=0)
    x = torch.randn(2, 2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    outputs = network.train()(x)
    sizes = [(3, 16 // s, 24 // s) for s in ((1, 2) if architecture.endswith("unet") else (1,))]
    assert [tuple(o.shape) for o in outputs] == [(2, 5, *s) for s in sizes]
    (alone,) = network.eval()(x)
    torch.testing.assert_close(alone, outputs[0])
    sum(o.square().mean() for o in outputs).backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None]
    assert silent == (["heads.2.weight", "heads.2.bias"] if architecture.endswith("unet") else [])


@pytest.mark.parametrize("architecture", ["plain_unet", "residual_unet", "fcn"])
def test_two_stages_give_one_output_and_one_stage_none_missing(architecture: str) -> None:
    network = build_network(make_spec(architecture, 3, num_stages=2), 1, 2, seed=0).train()
    outputs = network(torch.zeros(1, 1, 2, 8, 8))
    assert [tuple(o.shape) for o in outputs] == [(1, 2, 2, 8, 8)]


def test_slices_of_a_2d_network_are_independent() -> None:
    network = build_network(make_spec(dims=2), 1, 2, seed=0).eval()
    x = torch.randn(2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    (whole,) = network(x)
    (single,) = network(x[1:, :, 2:])
    torch.testing.assert_close(whole[1:, :, 2:], single)


def test_seed_decides_the_weights_and_leaves_global_randomness_alone() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (build_network(make_spec(), 1, 2, seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["encoder.0.0.conv.weight"], other["encoder.0.0.conv.weight"])


def test_initial_weights_follow_he_and_blocks_start_as_shortcuts() -> None:
    spec = make_spec("residual_unet").model_copy(update={"features_per_stage": (32, 64, 128)})
    network = build_network(spec, 1, 2, seed=0)
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            fan_in = module.weight[0].numel()
            if module.weight.numel() > 10000:
                assert module.weight.std().item() == pytest.approx((2 / (1 + 0.01**2) / fan_in) ** 0.5, rel=0.02)
            assert module.bias is None or not module.bias.any()
        if isinstance(module, ResidualBlock):
            assert not module.conv2.norm.weight.any()
            assert (module.conv1.norm.weight == 1).all()


def _tiny(spec: NetworkSpec, num_input_channels: int, num_heads: int) -> nn.Module:
    return nn.Conv3d(num_input_channels, num_heads, 1)


def test_installed_networks_are_found_but_replace_none(monkeypatch: pytest.MonkeyPatch) -> None:
    points = EntryPoints(EntryPoint(name, f"{__name__}:_tiny", "autoseg.networks") for name in ("tiny", "plain_unet"))
    monkeypatch.setattr("autoseg.extensions.entry_points", lambda group: points.select(group=group))
    assert isinstance(build_network(make_spec("tiny"), 1, 2, seed=0), nn.Conv3d)
    assert not isinstance(build_network(make_spec("plain_unet"), 1, 2, seed=0), nn.Conv3d)
    with pytest.raises(UsageError, match=r"'unett'.*plain_unet, residual_unet, fcn.*tiny"):
        build_network(make_spec("unett"), 1, 2, seed=0)
