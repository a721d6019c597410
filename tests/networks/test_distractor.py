"""The distractor's head: what it adds to the background, what it takes from regions, and where it starts."""

import math

import pytest
import torch

from autoseg.errors import ModelError
from autoseg.networks.build import NETWORKS, build_network
from autoseg.networks.distractor import PRIOR, HidesDistractor, hide_distractor, widened
from autoseg.records.plan import NetworkSpec

FLAT = NetworkSpec(
    architecture="plain_unet",
    features_per_stage=(2, 3, 4),
    strides=((1, 1), (2, 2), (2, 2)),
    kernel_sizes=((3, 3),) * 3,
    blocks_per_stage=(1, 1, 1),
    decoder_blocks_per_stage=(1, 1),
)
SOLID = FLAT.model_copy(update={"strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)), "kernel_sizes": ((3, 3, 3),) * 3})


def test_the_background_gets_the_distractors_probability_by_hand() -> None:
    probabilities = torch.tensor([0.2, 0.3, 0.1, 0.4])  # background, two classes, distractor
    logits = (probabilities.log() + 1.7)[None, :, None, None, None]
    hidden = hide_distractor(logits, has_regions=False).softmax(1).flatten()
    assert torch.allclose(hidden, torch.tensor([0.6, 0.3, 0.1]))


def test_a_region_is_at_most_as_probable_as_no_distractor() -> None:
    regions, distractor = torch.tensor([[0.9, 0.9, 0.2], [0.6, 0.3, 0.7]]), torch.tensor([[0.7, 0.05, 0.1]])
    logits = torch.cat([regions, distractor]).logit()[None, :, None, None]
    hidden = hide_distractor(logits, has_regions=True).sigmoid()[0, :, 0, 0]
    assert torch.allclose(hidden, torch.tensor([[0.3, 0.9, 0.2], [0.3, 0.3, 0.7]]))


@pytest.mark.parametrize("spec", [FLAT, SOLID], ids=["2d", "3d"])
@pytest.mark.parametrize("architecture", ["plain_unet", "residual_unet", "mednext", "fpn", "fcn_32s"])
def test_a_widened_network_answers_as_before(architecture: str, spec: NetworkSpec) -> None:
    spec = spec.model_copy(update={"architecture": architecture})
    trained = build_network(spec, 1, 3, seed=1)
    with torch.no_grad():  # fresh biases are zero, trained ones are not
        for parameter in trained.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.1)
    wide = build_network(spec, 1, 4, seed=9)
    wide.load_state_dict(widened(trained.state_dict(), wide, has_regions=False))
    network = HidesDistractor(wide, has_regions=False)
    images = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(network.eval()(images)[0], trained.eval()(images)[0], atol=1e-5)
    outputs, ordinary = network.train()(images), trained.train()(images)
    assert [output.shape[1] for output in outputs] == [4] * len(ordinary)
    assert torch.allclose(outputs[0][:, 0], outputs[0][:, 3])


def test_a_summed_architecture_keeps_its_classes_apart() -> None:
    """The heads of `fcn` are added up, so the background alone is lowered too far: by log 2 in each but one."""
    spec = SOLID.model_copy(update={"architecture": "fcn"})
    trained, wide = build_network(spec, 1, 3, seed=1).eval(), build_network(spec, 1, 4, seed=9)
    wide.load_state_dict(widened(trained.state_dict(), wide, has_regions=False))
    images = torch.randn(1, 1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    difference = HidesDistractor(wide, has_regions=False).eval()(images)[0] - trained(images)[0]
    assert torch.allclose(difference[:, 1:], torch.zeros(()), atol=1e-5)
    assert torch.allclose(difference[:, 0], torch.tensor(-2 * math.log(2)), atol=1e-5)


def test_a_new_region_starts_rare_and_changes_no_decision() -> None:
    trained, wide = build_network(SOLID, 1, 2, seed=1), build_network(SOLID, 1, 3, seed=9)
    wide.load_state_dict(widened(trained.state_dict(), wide, has_regions=True))
    images = torch.randn(1, 1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    before, after = trained.eval()(images)[0], HidesDistractor(wide, has_regions=True).eval()(images)[0]
    assert torch.equal(before > 0, after > 0)
    assert torch.allclose(wide.eval()(images)[0][:, 2].sigmoid(), torch.tensor(PRIOR))


def test_weights_of_another_network_are_named() -> None:
    wide = build_network(SOLID, 1, 4, seed=0)
    with pytest.raises(ModelError, match="lack encoder"):
        widened({}, wide, has_regions=False)
    other = build_network(SOLID.model_copy(update={"features_per_stage": (2, 3, 5)}), 1, 3, seed=0)
    with pytest.raises(ModelError, match="has the shape"):
        widened(other.state_dict(), wide, has_regions=False)


def test_every_architecture_can_be_widened() -> None:
    for name in NETWORKS:
        spec = SOLID.model_copy(update={"architecture": name})
        wide = build_network(spec, 1, 4, seed=0)
        wide.load_state_dict(widened(build_network(spec, 1, 3, seed=1).state_dict(), wide, has_regions=False))
