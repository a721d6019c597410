"""Weights that go into a network with other labels, channels or kernels: what they say there."""

import pytest
import torch
from torch import Tensor, nn

from autoseg.errors import ModelError
from autoseg.networks.blocks import enlarge
from autoseg.networks.build import NETWORKS, build_network
from autoseg.networks.transfer import Interface, interface_axes, shared, transfer
from autoseg.records.plan import NetworkSpec
from tests.networks.test_build import make_spec

LIVER = Interface(("background", "liver", "tumour"), False, ("CT",))


def trained(spec: NetworkSpec, num_channels: int, num_heads: int) -> nn.Module:
    """A network whose biases and norms are not those of a fresh one."""
    network = build_network(spec, num_channels, num_heads, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return network.eval()


def moved(spec: NetworkSpec, network: nn.Module, known: Interface, wanted: Interface) -> nn.Module:
    fresh = build_network(spec, len(wanted.channels), len(wanted.heads), seed=9)
    fresh.load_state_dict(transfer(network.state_dict(), known, fresh, spec, wanted))
    return fresh.eval()


def image(num_channels: int) -> Tensor:
    return torch.randn(1, num_channels, 2, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("architecture", list(NETWORKS))
@pytest.mark.parametrize("dims", [2, 3])
def test_classes_of_the_same_name_say_what_they_said(architecture: str, dims: int) -> None:
    spec = make_spec(architecture, dims, 4)
    wanted = LIVER._replace(heads=("background", "spleen", "tumour", "kidney", "liver"))
    old = trained(spec, 1, 3)
    new = moved(spec, old, LIVER, wanted)
    x = image(1)
    before, after = old(x)[0], new(x)[0]
    torch.testing.assert_close(after[:, [0, 4, 2]], before)
    assert not torch.allclose(after[:, 1], before[:, 1])
    assert shared(LIVER, wanted) == (("background", "tumour", "liver"), ("CT",))


@pytest.mark.parametrize("architecture", list(NETWORKS))
def test_channels_of_the_same_name_keep_their_weights_and_others_begin_with_the_mean(architecture: str) -> None:
    spec = make_spec(architecture, 3, 4)
    known, wanted = LIVER._replace(channels=("T1", "T2")), LIVER._replace(channels=("FLAIR", "T2"))
    old = trained(spec, 2, 3)
    new = moved(spec, old, known, wanted)
    _, inputs = interface_axes(spec)
    (name,) = inputs
    first = old.state_dict()[name]
    torch.testing.assert_close(new.state_dict()[name], torch.stack([first.mean(1), first[:, 1]], dim=1))
    x = image(2)
    x[:, 1] = 0  # then only the first channel counts: with T1 alone in the old one
    assert not torch.allclose(new(x)[0], old(x)[0])
    same = moved(spec, old, known, LIVER._replace(channels=("T2", "T1")))
    x = image(2)
    torch.testing.assert_close(same(x.flip(1))[0], old(x)[0], atol=1e-4, rtol=1e-4)


def test_channels_of_one_name_are_told_apart_by_their_order() -> None:
    spec = make_spec()
    known = LIVER._replace(channels=("MRI", "MRI"))
    old = trained(spec, 2, 3)
    new = moved(spec, old, known, known._replace(channels=("MRI", "MRI", "MRI")))
    x = image(2)
    torch.testing.assert_close(new(torch.cat([x, torch.zeros_like(x[:, :1])], 1))[0], old(x)[0])


def test_regions_take_nothing_from_classes() -> None:
    spec = make_spec()
    wanted = Interface(("liver", "tumour"), True, ("CT",))
    old = trained(spec, 1, 3)
    new, fresh = moved(spec, old, LIVER, wanted).state_dict(), build_network(spec, 1, 2, seed=9).state_dict()
    assert torch.equal(new["heads.0.weight"], fresh["heads.0.weight"])
    assert torch.equal(new["encoder.0.0.conv.weight"], old.state_dict()["encoder.0.0.conv.weight"])
    assert shared(LIVER, wanted).heads == ()
    regions = Interface(("liver", "tumour", "all"), True, ("CT",))
    assert torch.equal(
        moved(spec, old, regions, wanted).state_dict()["heads.0.weight"], old.state_dict()["heads.0.weight"][:2]
    )


@pytest.mark.parametrize("dims", [2, 3])
def test_larger_kernels_are_interpolated(dims: int) -> None:
    spec = make_spec("mednext", dims).model_copy(update={"kernel_sizes": ((3,) * dims,) * 3})
    larger = spec.model_copy(update={"kernel_sizes": ((5,) * dims,) * 3})
    old = trained(spec, 1, 3)
    new = moved(larger, old, LIVER, LIVER).state_dict()
    for name, value in old.state_dict().items():
        if "depthwise.weight" in name:
            torch.testing.assert_close(new[name], enlarge(value, (5,) * dims))
        else:
            assert torch.equal(new[name], value)


def test_interpolation_by_hand() -> None:
    weight = torch.tensor([0.0, 1.0, 2.0])[None, None, None].expand(1, 1, 3, 3)
    # Voxel centres of 5 in 3: -0.2, 0.4, 1, 1.6, 2.2 voxels; the ends are clamped.
    torch.testing.assert_close(enlarge(weight, (5, 5))[0, 0, 2], torch.tensor([0.0, 0.4, 1.0, 1.6, 2.0]))


@pytest.mark.parametrize("changes", [{"features_per_stage": (4, 8, 12)}, {"blocks_per_stage": (1, 2, 3)}])
def test_other_networks_are_refused(changes: dict[str, object]) -> None:
    spec = make_spec()
    with pytest.raises(ModelError, match=r"of another network: encoder\.2"):
        moved(spec.model_copy(update=changes), trained(spec, 1, 3), LIVER, LIVER)


def test_smaller_kernels_are_refused() -> None:
    spec = make_spec("mednext").model_copy(update={"kernel_sizes": ((5, 5, 5),) * 3})
    smaller = spec.model_copy(update={"kernel_sizes": ((3, 3, 3),) * 3})
    with pytest.raises(ModelError, match="of another network"):
        moved(smaller, trained(spec, 1, 3), LIVER, LIVER)
