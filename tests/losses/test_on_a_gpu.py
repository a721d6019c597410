"""Every loss as on a GPU: nothing waits, nothing meets across devices, forward and backward."""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from autoseg.losses.build import LOSSES, build_loss
from autoseg.losses.sums import _SoftmaxSums
from autoseg.records.labels import LabelScheme
from autoseg.records.recipe import LossTerm, Recipe
from tests.fake_gpu import GPU, fake_gpu, forgetting
from tests.losses.schemes import CLASSES, IGNORING, REGIONS

SCHEMES = {"classes": CLASSES, "ignore": IGNORING, "regions": REGIONS}


def term_of(name: str, labels: LabelScheme) -> Recipe:
    return Recipe(loss=(LossTerm(name=name, class_weights=tuple(1.0 + n for n in range(labels.num_heads))),))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", LOSSES)
def test_losses_wait_for_nothing(name: str, scheme: str) -> None:
    """With deep supervision; the finest output in half precision, as autocast leaves it."""
    labels = SCHEMES[scheme]
    loss = build_loss(term_of(name, labels), labels, batch_dice=False)
    with fake_gpu() as watch:
        shapes = [(2, labels.num_heads, n, n, n) for n in (4, 2)]
        outputs = [torch.empty(shape, dtype=torch.bfloat16, device=GPU, requires_grad=True) for shape in shapes]
        target = torch.empty((2, 4, 4, 4), dtype=torch.int16, device=GPU)
        for _ in range(2):
            value = loss(outputs, target)
            assert (value.device, value.shape, value.dtype) == (GPU, (), torch.float32)
    assert len(watch.copies) <= 2, "class weights and the members of regions, once"


@pytest.mark.parametrize("scheme", ["ignore", "regions"])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_wait_for_nothing(name: str, scheme: str) -> None:
    """On the device that fake tensors have an autograd engine for."""
    labels = SCHEMES[scheme]
    loss = build_loss(term_of(name, labels), labels, batch_dice=True)
    with forgetting(), FakeTensorMode():
        shapes = [(2, labels.num_heads, n, n, n) for n in (4, 2)]
        outputs = [torch.empty(shape, device="meta", requires_grad=True) for shape in shapes]
        loss(outputs, torch.empty((2, 4, 4, 4), dtype=torch.int16, device="meta")).backward()
        assert [output.grad.shape for output in outputs] == [output.shape for output in outputs]


@pytest.mark.parametrize("ignores", [False, True])
def test_our_own_backward_stays_on_the_gpu(ignores: bool) -> None:
    """Called as the engine would call it."""
    kept = SimpleNamespace(mark_non_differentiable=lambda _: None)
    kept.save_for_backward = lambda *values: setattr(kept, "saved_tensors", values)
    with fake_gpu() as watch:
        logits = torch.empty((2, 3, 60), device=GPU)
        classes = torch.empty((2, 60), dtype=torch.int64, device=GPU)
        valid = torch.empty((2, 60), dtype=torch.bool, device=GPU) if ignores else None
        sums = _SoftmaxSums.forward(kept, logits, classes, valid)
        gradient, *none = _SoftmaxSums.backward(kept, *(torch.empty_like(one) for one in sums))
        assert (gradient.device, gradient.shape, none) == (GPU, logits.shape, [None, None])
    assert watch.copies == []
