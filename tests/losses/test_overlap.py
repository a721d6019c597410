"""Overlap losses by hand, from the two voxels of which each count is known, and what absent classes do to them."""

import math

import pytest
import torch
from torch import Tensor

from autoseg.losses.build import LOSSES
from tests.losses.tiny import REGIONS, context_of, logits_of, make_labels, region_logits_of, row

# Class 1: both 0.6 (first voxel), predicted 0.6 + 0.1, true 1. Background: both 0.9, predicted 0.4 + 0.9, true 1.
LOGITS, TARGET = logits_of([[0.4, 0.6], [0.9, 0.1]]), row(1, 0)
BOTH, FALSE_POSITIVE, FALSE_NEGATIVE = 0.6, 0.1, 0.4
SMOOTH = 1e-5


def value(name: str, logits: Tensor = LOGITS, target: Tensor = TARGET, **parameters: float) -> float:
    return float(LOSSES[name](logits, target, context_of(logits.shape[1]), **parameters))


def test_jaccard() -> None:
    assert value("jaccard") == pytest.approx(-(BOTH + SMOOTH) / (0.6 + 0.1 + 0.4 + SMOOTH))


def test_tversky_weighs_as_it_is_told() -> None:
    expected = -(BOTH + SMOOTH) / (BOTH + 2 * FALSE_POSITIVE + 3 * FALSE_NEGATIVE + SMOOTH)
    assert value("tversky", alpha=2.0, beta=3.0) == pytest.approx(expected)
    assert value("tversky", alpha=0.5, beta=0.5, smooth=0.0) == pytest.approx(value("soft_dice", smooth=0.0))


def test_focal_tversky() -> None:
    index = (BOTH + SMOOTH) / (BOTH + 0.3 * FALSE_POSITIVE + 0.7 * FALSE_NEGATIVE + SMOOTH)
    assert value("focal_tversky") == pytest.approx((1 - index) ** 0.75)
    assert value("focal_tversky", gamma=1.0) == pytest.approx(1 + value("tversky"))


def test_asymmetric_similarity_is_the_f_score() -> None:
    precision, recall = 0.6 / 0.7, 0.6 / 1
    f_score = (1 + 1.5**2) * precision * recall / (1.5**2 * precision + recall)
    assert value("asymmetric_similarity", smooth=0.0) == pytest.approx(-f_score)
    assert value("asymmetric_similarity", beta=1.0) == pytest.approx(value("soft_dice"), abs=1e-5)


def test_generalised_dice_weighs_by_inverse_squared_volume() -> None:
    # Volumes 3, 1 and none: class 2 weighs as much as class 1.
    probabilities = [[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.8, 0.1, 0.1], [0.3, 0.6, 0.1]]
    logits, target = logits_of(probabilities), row(0, 0, 0, 1)
    overlap = 2.0 / 9 + 0.6
    sums = (3 + 2.3) / 9 + (1 + 1.2) + 0.5
    expected = -(2 * overlap + SMOOTH) / (sums + SMOOTH)
    assert value("generalised_dice", logits, target) == pytest.approx(expected)
    loss = 1 + expected
    assert value("penalty_generalised_dice", logits, target) == pytest.approx(loss / (1 + 2.5 * (1 - loss)))
    assert value("penalty_generalised_dice", logits, target, k=0.0) == pytest.approx(loss)


def test_generalised_dice_of_nothing_there_pushes_predictions_down() -> None:
    logits = region_logits_of([[0.7, 0.4], [0.2, 0.9]]).requires_grad_()
    loss = LOSSES["generalised_dice"](logits, row(0, 0), context_of(3, regions=REGIONS))
    assert loss.item() == pytest.approx(-SMOOTH / (2.2 + SMOOTH))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient > 0).all()


def test_generalised_dice_a_sample_or_a_batch() -> None:
    logits = torch.cat([logits_of([[0.4, 0.6], [0.9, 0.1]]), logits_of([[0.2, 0.8], [0.3, 0.7]])])
    target = torch.cat([row(1, 0), row(1, 1)])
    apart = [LOSSES["generalised_dice"](logits[[i]], target[[i]], context_of()).item() for i in range(2)]
    each = LOSSES["generalised_dice"](logits, target, context_of()).item()
    assert each == pytest.approx(sum(apart) / 2)
    # Background 1 voxel of 4, class 1 three: weights 1 and 1/9.
    both, predicted = (0.9, 0.6 + 0.8 + 0.7), (0.4 + 0.9 + 0.2 + 0.3, 0.6 + 0.1 + 0.8 + 0.7)
    numerator = 2 * (both[0] + both[1] / 9) + SMOOTH
    denominator = (1 + predicted[0]) + (3 + predicted[1]) / 9 + SMOOTH
    joined = LOSSES["generalised_dice"](logits, target, context_of(batch_dice=True)).item()
    assert joined == pytest.approx(-numerator / denominator)


def test_sensitivity_specificity() -> None:
    inside, outside = 0.4**2 / (1 + SMOOTH), 0.1**2 / (1 + SMOOTH)
    assert value("sensitivity_specificity") == pytest.approx(0.05 * inside + 0.95 * outside)
    assert value("sensitivity_specificity", sensitivity=1.0) == pytest.approx(inside)
    absent = 0.95 * (0.6**2 + 0.1**2) / (2 + SMOOTH)
    assert value("sensitivity_specificity", target=row(0, 0)) == pytest.approx(absent)


def test_exponential_logarithmic() -> None:
    dice = (2 * 0.6 + 1) / (0.7 + 1 + 1)
    voxels = [-math.log(0.6), -math.log(0.9)]
    expected = 0.8 * (-math.log(dice)) ** 0.3 + 0.2 * sum(v**0.3 for v in voxels) / 2
    assert value("exponential_logarithmic") == pytest.approx(expected)
    assert value("exponential_logarithmic", dice_weight=0.0, gamma=1.0) == pytest.approx(value("cross_entropy"))


def test_regions_are_sigmoids() -> None:
    logits, target = region_logits_of([[0.7, 0.4], [0.2, 0.9]]), row(1, 0)
    context = context_of(3, regions=REGIONS)
    jaccard = (0.7 + SMOOTH) / (1.2 + SMOOTH), SMOOTH / (1.3 + SMOOTH)
    assert LOSSES["jaccard"](logits, target, context).item() == pytest.approx(-sum(jaccard) / 2)
    first = 0.05 * 0.3**2 / (1 + SMOOTH) + 0.95 * 0.2**2 / (1 + SMOOTH)
    second = 0.95 * (0.4**2 + 0.9**2) / (2 + SMOOTH)
    found = LOSSES["sensitivity_specificity"](logits, target, context).item()
    assert found == pytest.approx((first + second) / 2)


PERFECT = {
    "soft_dice": -1,
    "jaccard": -1,
    "tversky": -1,
    "focal_tversky": 0,
    "asymmetric_similarity": -1,
    "generalised_dice": -1,
    "penalty_generalised_dice": 0,
    "sensitivity_specificity": 0,
    "exponential_logarithmic": 0,
    "cl_dice": -1,
    "lovasz": 0,
    "lovasz_hinge": 0,
    "hausdorff": 0,
    "cross_entropy": 0,
    "focal": 0,
    "top_k_cross_entropy": 0,
    "distance_penalised_cross_entropy": 0,
}


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "boundary"])
@pytest.mark.parametrize("regions", [(), REGIONS])
def test_a_perfect_answer_has_the_stated_value_and_no_gradient(name: str, regions: tuple[tuple[int, ...], ...]) -> None:
    labels = make_labels(3, regions=regions)
    target = torch.zeros(1, 4, 6, 6, dtype=torch.long)
    target[:, 1:3, 1:4, 1:5] = 1  # class 2 is absent, and not predicted
    if regions:
        logits = torch.stack([torch.where(target == 1, 50.0, -50.0), torch.full(target.shape, -50.0)], 1)
    else:
        logits = 100.0 * torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    logits.requires_grad_()
    loss = LOSSES[name](logits, target, context_of(3, regions=regions))
    # The powers of exponential losses end at 1e-6 ** 0.3, a flat floor.
    assert loss.item() == pytest.approx(PERFECT[name], abs=0.02 if name == "exponential_logarithmic" else 1e-4)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() < 1e-4
    assert labels.num_heads == logits.shape[1]


@pytest.mark.parametrize("name", list(LOSSES))
@pytest.mark.parametrize("regions", [(), REGIONS])
def test_confident_mistakes_have_finite_gradients(name: str, regions: tuple[tuple[int, ...], ...]) -> None:
    target = torch.zeros(2, 1, 6, 6, dtype=torch.long)  # of one slice
    target[0, :, 1:4, 1:5] = 2
    heads = make_labels(3, regions=regions).num_heads
    logits = torch.full((2, heads, 1, 6, 6), -100.0)
    logits[:, -1, :, :2] = 100.0
    logits.requires_grad_()
    loss = LOSSES[name](logits, target, context_of(3, regions=regions))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()
