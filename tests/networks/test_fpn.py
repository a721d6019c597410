"""The pyramid by hand: what its merged levels are, and how many parameters it has."""

import pytest
import torch
import torch.nn.functional as F

from autoseg.networks.build import build_network
from autoseg.networks.cost import count_parameters
from autoseg.networks.fpn import FeaturePyramid
from tests.networks.test_build import make_spec


@pytest.mark.parametrize("dims", [2, 3])
def test_outputs_are_the_shared_head_of_the_merged_levels(dims: int) -> None:
    network = build_network(make_spec("fpn", dims, 3), 1, 3, seed=0)
    assert isinstance(network, FeaturePyramid)
    x = torch.randn(1, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    folded = x[:, :, 0] if dims == 2 else x
    mode = "bilinear" if dims == 2 else "trilinear"
    fine = network.encoder[0](folded)
    middle = network.encoder[1](fine)
    coarse = network.encoder[2](middle)
    p2 = network.laterals[2](coarse)
    p1 = network.laterals[1](middle) + F.interpolate(p2, middle.shape[2:])
    p0 = network.laterals[0](fine) + F.interpolate(p1, fine.shape[2:])
    merged1 = network.smooth[1](p1) + F.interpolate(p2, middle.shape[2:], mode=mode)
    merged0 = network.smooth[0](p0) + F.interpolate(merged1, fine.shape[2:], mode=mode)
    first, second = network.train()(x)
    torch.testing.assert_close(
        first.squeeze(2), network.head(merged0).squeeze(2) if dims == 3 else network.head(merged0)
    )
    torch.testing.assert_close(second.flatten(), network.head(merged1).flatten())


def test_parameters_by_hand() -> None:
    spec = make_spec("fpn", 3, 2).model_copy(update={"blocks_per_stage": (1, 1), "decoder_blocks_per_stage": (1,)})
    encoder = (9 * 3 * 4 + 4) + (27 * 4 * 8 + 8) + 2 * (4 + 8)
    pyramid = (4 * 4 + 4) + (8 * 4 + 4) + (9 * 4 * 4 + 4) + 2 * 4
    assert count_parameters(build_network(spec, 3, 5, seed=0)) == encoder + pyramid + 4 * 5 + 5
