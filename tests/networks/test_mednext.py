"""MedNeXt's sizes against the published ones, and its blocks by hand."""

import pytest
import torch
import torch.nn.functional as F

from autoseg.networks.build import build_network
from autoseg.networks.cost import count_parameters
from autoseg.networks.mednext import Block, Up
from autoseg.planning.presets import PRESETS
from autoseg.records.plan import NetworkSpec
from tests.networks.test_build import make_spec

EXPANSIONS = {"S": (2, 2, 2, 2, 2), "B": (2, 3, 4, 4, 4), "L": (3, 4, 8, 8, 8)}
BLOCKS = {"S": (2,) * 5, "B": (2,) * 5, "L": (3, 4, 8, 8, 8)}


def published(kind: str, kernel: int) -> NetworkSpec:
    """Roy et al., 2023: 32 channels, five stages."""
    return NetworkSpec(
        architecture="mednext",
        features_per_stage=(32, 64, 128, 256, 512),
        strides=((1, 1, 1), *(((2, 2, 2),) * 4)),
        kernel_sizes=((kernel,) * 3,) * 5,
        blocks_per_stage=BLOCKS[kind],
        decoder_blocks_per_stage=BLOCKS[kind][:4],
        expansion_per_stage=EXPANSIONS[kind],
    )


@pytest.mark.parametrize(
    ("kind", "kernel", "millions"),
    # The authors' table; it says 5.9 for S with kernel 5, which is 5.98 (see the differential test).
    [("S", 3, 5.6), ("S", 5, 5.98), ("B", 3, 10.5), ("B", 5, 11.0), ("L", 3, 61.8), ("L", 5, 63.0)],
)
def test_as_many_parameters_as_published(kind: str, kernel: int, millions: float) -> None:
    with torch.device("meta"):
        number = count_parameters(build_network(published(kind, kernel), 1, 3, seed=0))
    assert number / 1e6 == pytest.approx(millions, abs=0.051)
    rule = PRESETS[f"mednext_{kind.lower()}"].network
    assert (rule.first_blocks, rule.expansions, rule.num_stages) == (BLOCKS[kind], EXPANSIONS[kind], 5)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_block_by_hand(dims: int) -> None:
    block = Block(4, (3,) * dims, 3)
    x = torch.randn(2, 4, *(5, 4, 6)[:dims], generator=torch.Generator().manual_seed(0))
    norm, expand, act, compress = block.inverted
    depthwise = (F.conv3d if dims == 3 else F.conv2d)(
        x, block.depthwise.weight, block.depthwise.bias, padding=1, groups=4
    )
    normalised = F.group_norm(depthwise, 4, norm.weight, norm.bias)
    torch.testing.assert_close(block(x), x + compress(F.gelu(expand(normalised))))
    assert expand.weight.shape[:2] == (12, 4)
    assert isinstance(act, torch.nn.GELU)


@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 2), (3, 1, 2)])
def test_what_a_block_up_misses_is_zero(stride: tuple[int, ...]) -> None:
    up = Up(4, 2, (3, 5, 3), stride, 2)
    y = up(torch.randn(1, 4, 3, 4, 2, generator=torch.Generator().manual_seed(0)))
    assert y.shape[2:] == (3 * stride[0], 4 * stride[1], 2 * stride[2])
    for axis, step in enumerate(stride, 2):
        if step > 1:
            assert not y.narrow(axis, 0, step - 1).any()
            assert y.narrow(axis, step - 1, 1).any()


def test_without_expansions_it_is_that_of_the_small_one() -> None:
    spec = make_spec("mednext")
    named = spec.model_copy(update={"expansion_per_stage": (2, 2, 2)})
    one, other = (build_network(s, 1, 2, seed=0).state_dict() for s in (spec, named))
    assert all(torch.equal(one[name], value) for name, value in other.items())


def test_even_kernels_and_short_lists_are_refused() -> None:
    content = make_spec("mednext").model_dump()
    with pytest.raises(ValueError, match="must be odd"):
        NetworkSpec.model_validate({**content, "kernel_sizes": ((4, 4, 4),) * 3})
    with pytest.raises(ValueError, match="expansion_per_stage"):
        NetworkSpec.model_validate({**content, "expansion_per_stage": (2, 2)})
