"""The fully convolutional networks by hand: which stages are scored, and how the scores are added."""

import pytest
import torch
import torch.nn.functional as F

from autoseg.networks.build import build_network
from tests.networks.test_build import make_spec

NUM_SCORED = {"fcn_32s": 1, "fcn_16s": 2, "fcn": 3}


@pytest.mark.parametrize("architecture", NUM_SCORED)
@pytest.mark.parametrize("num_stages", [2, 4])
def test_scores_of_the_coarsest_stages_are_added_coarse_to_fine(architecture: str, num_stages: int) -> None:
    network = build_network(make_spec(architecture, 3, num_stages), 1, 3, seed=0).eval()
    num_scored = min(NUM_SCORED[architecture], num_stages)
    assert [score.weight.shape[1] for score in network.scores] == [4 * 2**s for s in range(num_stages)][-num_scored:]
    image = torch.randn(2, 1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    maps = [network.encoder[0](image)]
    for stage in network.encoder[1:]:
        maps.append(stage(maps[-1]))
    scores = [score(features) for score, features in zip(network.scores, maps[-num_scored:], strict=True)]
    expected = scores.pop()
    for size in [score.shape[2:] for score in scores[::-1]]:
        expected = F.interpolate(expected, size, mode="trilinear", align_corners=False) + scores.pop()
    expected = F.interpolate(expected, image.shape[2:], mode="trilinear", align_corners=False)
    (found,) = network(image)
    torch.testing.assert_close(found, expected)
