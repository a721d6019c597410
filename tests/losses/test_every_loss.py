"""What every loss of the table must do in a training: any shape and type, no wait for the device, end at the truth."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoseg.losses.build import LOSSES, build_loss
from autoseg.losses.parameters import known_parameters
from autoseg.records.recipe import LossTerm, Recipe
from tests.losses.tiny import REGIONS, make_labels

NO_SMOOTH = {name: {"smooth": 0.0} for name, loss in LOSSES.items() if "smooth" in known_parameters(loss)}
"""A smooth of one voxel is half as much of two samples."""

Regions = tuple[tuple[int, ...], ...]


@pytest.mark.parametrize("name", list(LOSSES))
@pytest.mark.parametrize("regions", [(), REGIONS])
@pytest.mark.parametrize("shape", [(4, 8, 12), (1, 8, 12)])
def test_deep_supervision_in_half_precision(name: str, regions: Regions, shape: tuple[int, int, int]) -> None:
    labels = make_labels(3, True, regions)
    g = torch.Generator().manual_seed(0)
    target = torch.randint(0, 4, (2, *shape), generator=g).to(torch.uint8)
    z, y, x = shape
    sizes = [shape, (z, y // 2, x // 2), (-(-z // 2), y // 4, x // 4)]
    outputs = [torch.randn(2, labels.num_heads, *s, generator=g).bfloat16().requires_grad_() for s in sizes]
    loss = build_loss(Recipe(loss=(LossTerm(name=name),)), labels, batch_dice=True)(outputs, target)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    for gradient in torch.autograd.grad(loss, outputs):
        assert torch.isfinite(gradient).all()
        assert gradient.any()


@pytest.mark.parametrize("name", list(LOSSES))
@pytest.mark.parametrize("regions", [(), REGIONS])
@pytest.mark.parametrize("ignore", [False, True])
def test_no_value_is_fetched_from_the_device(name: str, regions: Regions, ignore: bool) -> None:
    # Tensors of the meta device have no values: whatever needs one (item, bool, a mask as an index) fails.
    labels = make_labels(3, ignore, regions)
    logits = torch.randn(2, labels.num_heads, 2, 6, 6, device="meta", requires_grad=True)
    target = torch.zeros(2, 2, 6, 6, dtype=torch.long, device="meta")
    terms = (LossTerm(name=name, class_weights=(1.0, 2.0, 3.0)[: labels.num_heads]),)
    loss = build_loss(Recipe(loss=terms), labels, batch_dice=False)([logits], target)
    assert loss.shape == ()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.shape == logits.shape


@pytest.mark.parametrize("name", list(LOSSES))
@pytest.mark.parametrize("regions", [(), REGIONS])
@given(seed=st.integers(0, 10**6), axis=st.sampled_from([1, 2, 3]), batch_dice=st.booleans())
@settings(max_examples=5, deadline=None)
def test_mirrored_and_repeated_samples_have_the_same_loss(
    name: str, regions: Regions, seed: int, axis: int, batch_dice: bool
) -> None:
    labels = make_labels(3, True, regions)
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, labels.num_heads, 3, 5, 6, generator=g, dtype=torch.float64)
    target = torch.randint(0, 4, (1, 3, 5, 6), generator=g)
    loss = build_loss(Recipe(loss=(LossTerm(name=name, parameters=NO_SMOOTH.get(name, {})),)), labels, batch_dice)
    expected = loss([logits], target)
    torch.testing.assert_close(loss([logits.flip(axis + 1)], target.flip(axis)), expected)
    torch.testing.assert_close(loss([logits.repeat(2, 1, 1, 1, 1)], target.repeat(2, 1, 1, 1)), expected)


HELPERS = ("boundary", "cl_dice")
"""Do not determine every voxel: the border's inner voxels have distance 0, a centre line says little of the rest."""


def descend(name: str, target: Tensor, regions: Regions) -> Tensor:
    """Logits after steps down the loss, from noise."""
    labels = make_labels(3, regions=regions)
    terms = [LossTerm(name=name, weight=0.1), LossTerm(name="soft_dice")] if name in HELPERS else [LossTerm(name=name)]
    loss = build_loss(Recipe(loss=tuple(terms)), labels, batch_dice=False)
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(1, labels.num_heads, *target.shape[1:], generator=g).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.2)
    for _ in range(100):
        optimizer.zero_grad()
        loss([logits], target).backward()
        optimizer.step()
    return logits.detach()


@pytest.mark.parametrize("name", list(LOSSES))
@pytest.mark.parametrize("regions", [(), REGIONS])
def test_its_minimum_is_the_truth(name: str, regions: Regions) -> None:
    target = torch.zeros(1, 1, 12, 12, dtype=torch.long)
    target[..., 2:9, 2:7], target[..., 4:7, 3:6] = 1, 2
    logits = descend(name, target, regions)
    if regions:
        found, truth = logits > 0, torch.stack([target > 0, target == 2], 1)
    else:
        found, truth = logits.argmax(1), target
    assert torch.equal(found, truth)
