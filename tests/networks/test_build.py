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


OUTPUTS = {"plain_unet": 2, "residual_unet": 2, "mednext": 3, "fpn": 3}  # of four stages; the others have one


@pytest.mark.parametrize("architecture", list(NETWORKS))
@pytest.mark.parametrize("dims", [2, 3])
def test_forward_gives_logits_finest_first(architecture: str, dims: int) -> None:
    network = build_network(make_spec(architecture, dims, num_stages=4), 2, 5, seed=0)
    x = torch.randn(2, 2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    outputs = network.train()(x)
    sizes = [(3, 16 // 2**s, 24 // 2**s) for s in range(OUTPUTS.get(architecture, 1))]
    assert [tuple(o.shape) for o in outputs] == [(2, 5, *s) for s in sizes]
    (alone,) = network.eval()(x)
    torch.testing.assert_close(alone, outputs[0])
    sum(o.square().mean() for o in outputs).backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None]
    assert silent == (["heads.2.weight", "heads.2.bias"] if architecture.endswith("unet") else [])


STRIDES = ((1, 1, 1), (1, 2, 2), (2, 1, 2), (2, 2, 1), (3, 1, 2))
KERNELS = ((1, 3, 3), (3, 3, 3), (5, 3, 3), (3, 3, 3), (3, 1, 3))


@pytest.mark.parametrize("architecture", list(NETWORKS))
@pytest.mark.parametrize("num_stages", [2, 3, 4, 5])
@pytest.mark.parametrize("dims", [2, 3])
def test_any_strides_and_depths(architecture: str, num_stages: int, dims: int) -> None:
    """Every output has the size that the strides say, and every parameter but an unused head gets a gradient."""
    spec = make_spec(architecture, dims, 3).model_copy(
        update={
            "features_per_stage": (4, 6, 5, 7, 8)[:num_stages],
            "strides": tuple(s[-dims:] for s in STRIDES[:num_stages]),
            "kernel_sizes": tuple(k[-dims:] for k in KERNELS[:num_stages]),
            "blocks_per_stage": (1, 2, 1, 2, 1)[:num_stages],
            "decoder_blocks_per_stage": (2, 1, 1, 2)[: num_stages - 1],
        }
    )
    network = build_network(spec, 2, 3, seed=0).train()
    patch = (12, 4, 16)
    x = torch.randn(1, 2, *patch, generator=torch.Generator().manual_seed(0))
    outputs = network(x)
    size = list(patch)
    for output, stride in zip(outputs, STRIDES, strict=False):
        size = [edge // step for edge, step in zip(size, stride if dims == 3 else (1, *stride[1:]), strict=True)]
        assert tuple(output.shape) == (1, 3, *size)
    sum(o.square().sum() for o in outputs).backward()
    silent = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    if architecture == "residual_unet":  # blocks begin as their shortcuts
        silent = {name for name in silent if ".conv1." not in name and ".conv2.conv" not in name}
    unused = f"heads.{num_stages - 2}"
    is_unet = architecture.endswith("unet") and num_stages > 2
    # A bias before an instance normalisation moves nothing, so its gradient is zero but for rounding.
    silent = {name for name in silent if not name.endswith("bias") or name.startswith("heads")}
    assert silent == ({f"{unused}.weight", f"{unused}.bias"} if is_unet else set())


@pytest.mark.parametrize("architecture", list(NETWORKS))
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_traced_network_says_the_same_of_another_image(architecture: str, dims: int) -> None:
    network = build_network(make_spec(architecture, dims, 4), 1, 3, seed=0).eval()
    first, other = torch.randn(2, 1, 1, 2, 16, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.trace(network, first)(other)[0], network(other)[0])


@pytest.mark.slow
@pytest.mark.parametrize("architecture", list(NETWORKS))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_networks_can_be_exported_whole(architecture: str) -> None:
    """`torch.export` refuses whatever depends on the values of an image."""
    network = build_network(make_spec(architecture, 3, 3), 1, 3, seed=0).eval()
    first, other = torch.randn(2, 1, 1, 2, 16, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exported = torch.export.export(network, (first,)).module()
        torch.testing.assert_close(exported(other)[0], network(other)[0])


@pytest.mark.parametrize("architecture", ["plain_unet", "residual_unet", "fcn", "mednext", "fpn"])
def test_two_stages_give_one_output_and_one_stage_none_missing(architecture: str) -> None:
    network = build_network(make_spec(architecture, 3, num_stages=2), 1, 2, seed=0).train()
    outputs = network(torch.zeros(1, 1, 2, 8, 8))
    assert [tuple(o.shape) for o in outputs] == [(1, 2, 2, 8, 8)]


@pytest.mark.parametrize("architecture", list(NETWORKS))
@pytest.mark.parametrize("dims", [2, 3])
def test_one_stage_is_a_network_too(architecture: str, dims: int) -> None:
    """Images of under 8 voxels along each axis are planned so."""
    network = build_network(make_spec(architecture, dims, num_stages=1), 1, 2, seed=0).train()
    image = torch.randn(2, 1, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    (output,) = network(image)
    assert output.shape == (2, 2, 3, 5, 6)
    output.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    (alone,) = network.eval()(image)
    torch.testing.assert_close(alone, output)


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
    with pytest.raises(UsageError, match=r"'unett'.*plain_unet, residual_unet, mednext, fpn, fcn.*tiny"):
        build_network(make_spec("unett"), 1, 2, seed=0)
