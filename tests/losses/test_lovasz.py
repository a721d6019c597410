"""Lovasz losses against the definition: one Jaccard index a voxel, computed from sets."""

import pytest
import torch
from torch import Tensor

from autoseg.losses.build import LOSSES
from tests.losses.tiny import REGIONS, context_of, logits_of, region_logits_of, row


def jaccard_loss(wrong: set[int], truth: set[int]) -> float:
    """1 - Jaccard of the prediction that errs at exactly these voxels."""
    union = truth | wrong
    return len(wrong) / len(union) if union else 0.0


def extension(errors: list[float], truth: set[int]) -> float:
    """The paper's definition 2: each error times what its voxel adds to the loss of all with larger ones."""
    order = sorted(range(len(errors)), key=lambda i: -errors[i])
    total = 0.0
    for place, voxel in enumerate(order):
        grown, before = set(order[: place + 1]), set(order[:place])
        total += max(errors[voxel], 0.0) * (jaccard_loss(grown, truth) - jaccard_loss(before, truth))
    return total


def by_definition(errors: Tensor, truth: Tensor) -> float:
    """Of one head: V errors, V truths."""
    return extension(errors.tolist(), {i for i, inside in enumerate(truth.tolist()) if inside})


def test_by_hand() -> None:
    # Errors 0.4 (truth), 0.1: losses 1 after the first, then 1 (two wrong of two).
    logits, target = logits_of([[0.4, 0.6], [0.9, 0.1]]), row(1, 0)
    foreground = 0.4 * 1 + 0.1 * 0
    background = 0.4 * 0.5 + 0.1 * 0.5  # the worst voxel is not its own: 1/2; then both wrong: 1
    value = LOSSES["lovasz"](logits, target, context_of()).item()
    assert value == pytest.approx((foreground + background) / 2)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["lovasz", "lovasz_hinge"])
def test_classes_equal_the_definition(name: str, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, 2, 3, 3, generator=g, dtype=torch.float64) * 2
    target = torch.randint(0, 3, (2, 2, 3, 3), generator=g)  # class 3 is absent
    expected = 0.0
    for sample, classes in zip(logits.flatten(2), target.flatten(1), strict=True):
        losses = []
        for number in classes.unique().tolist():
            truth, probability = classes == number, sample.softmax(0)[number]
            if name == "lovasz":
                errors = torch.where(truth, 1 - probability, probability)
            else:
                odds = probability.logit()
                errors = 1 - torch.where(truth, odds, -odds)
            losses.append(by_definition(errors, truth))
        expected += sum(losses) / len(losses) / 2
    assert LOSSES[name](logits, target, context_of(4)).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["lovasz", "lovasz_hinge"])
@pytest.mark.parametrize("batch_dice", [False, True])
def test_regions_equal_the_definition(name: str, batch_dice: bool) -> None:
    g = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 2, 1, 4, 4, generator=g, dtype=torch.float64) * 2
    target = torch.randint(0, 2, (2, 1, 4, 4), generator=g)  # the second region is absent
    truth = torch.stack([target == 1, target == 2], 1)
    errors = (
        1 - torch.where(truth, logits, -logits) if name == "lovasz_hinge" else (truth.double() - logits.sigmoid()).abs()
    )
    samples = [(errors[:, h].flatten(), truth[:, h].flatten()) for h in range(2)]
    if not batch_dice:
        samples = [(errors[n, h].flatten(), truth[n, h].flatten()) for n in range(2) for h in range(2)]
    expected = sum(by_definition(e, t) for e, t in samples) / len(samples)
    context = context_of(3, regions=REGIONS, batch_dice=batch_dice)
    assert LOSSES[name](logits, target, context).item() == pytest.approx(expected)
    # An absent region costs its worst error.
    assert by_definition(errors[0, 1].flatten(), truth[0, 1].flatten()) == pytest.approx(errors[0, 1].max().item())


def test_hard_answers_cost_one_minus_their_jaccard() -> None:
    logits = region_logits_of([[0.999999999]] * 3 + [[1e-9]] * 2)
    value = LOSSES["lovasz"](logits, row(1, 1, 0, 1, 0), context_of(regions=((1,),))).item()
    assert value == pytest.approx(1 - 2 / 4)


def test_class_weights_weigh_the_mean_over_classes() -> None:
    logits, target = logits_of([[0.4, 0.6], [0.9, 0.1]]), row(1, 0)
    value = LOSSES["lovasz"](logits, target, context_of(class_weights=(0.0, 2.0))).item()
    assert value == pytest.approx(0.4)


def test_certain_mistakes_keep_their_gradient() -> None:
    logits = torch.tensor([[30.0, 0.0]]).view(1, 2, 1, 1, 1).requires_grad_()
    loss = LOSSES["lovasz_hinge"](logits, row(1), context_of())
    assert loss.item() == pytest.approx(31)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient.flatten(), torch.tensor([1.0, -1.0]))
