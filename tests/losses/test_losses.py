"""Every loss by hand on tiny cases, its gradient against the numerical one, and what all have in common."""

import math
from importlib.metadata import EntryPoint, EntryPoints

import pytest
import torch
from torch import Tensor

from autoseg.errors import UsageError
from autoseg.losses.build import LOSSES, build_loss
from autoseg.losses.targets import LossContext, downsample
from autoseg.records.recipe import LossTerm, Recipe
from tests.losses.tiny import REGIONS, logits_of, make_labels, row


def test_cross_entropy_by_hand() -> None:
    logits = logits_of([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])
    context = LossContext(make_labels(), batch_dice=False)
    plain = LOSSES["cross_entropy"](logits, row(0, 1), context)
    assert plain.item() == pytest.approx(-(math.log(0.5) + math.log(0.8)) / 2)
    weighted = LossContext(make_labels(), batch_dice=False, class_weights=(1.0, 3.0, 0.0))
    value = LOSSES["cross_entropy"](logits, row(0, 1), weighted)
    assert value.item() == pytest.approx(-(math.log(0.5) + 3 * math.log(0.8)) / 4)


def test_soft_dice_by_hand() -> None:
    logits = logits_of([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])
    context = LossContext(make_labels(), batch_dice=False)
    # Class 1: inside 0.8, predicted 1.05, true 1. Class 2: absent but predicted 0.35.
    dice = (1.6 + 1e-5) / (2.05 + 1e-5), 1e-5 / (0.35 + 1e-5)
    assert LOSSES["soft_dice"](logits, row(0, 1), context).item() == pytest.approx(-sum(dice) / 2)
    weighted = LossContext(make_labels(), batch_dice=False, class_weights=(9.0, 3.0, 1.0))
    assert LOSSES["soft_dice"](logits, row(0, 1), weighted).item() == pytest.approx(-(3 * dice[0] + dice[1]) / 4)


def test_batch_dice_adds_samples_up_first() -> None:
    logits = torch.cat([logits_of([[0.5, 0.5]]), logits_of([[0.2, 0.8]])])
    target = torch.cat([row(1), row(0)])
    labels = make_labels(2)
    apart = LOSSES["soft_dice"](logits, target, LossContext(labels, batch_dice=False)).item()
    joined = LOSSES["soft_dice"](logits, target, LossContext(labels, batch_dice=True)).item()
    assert apart == pytest.approx(-((1 + 1e-5) / (1.5 + 1e-5) + 1e-5 / (0.8 + 1e-5)) / 2)
    assert joined == pytest.approx(-(1 + 1e-5) / (2.3 + 1e-5))


def test_tversky_by_hand() -> None:
    logits = logits_of([[0.4, 0.6], [0.9, 0.1]])
    value = LOSSES["tversky"](logits, row(1, 0), LossContext(make_labels(2), batch_dice=False)).item()
    assert value == pytest.approx(-(0.6 + 1e-5) / (0.6 + 0.3 * 0.1 + 0.7 * 0.4 + 1e-5))


def test_focal_by_hand() -> None:
    logits = logits_of([[0.4, 0.6], [0.9, 0.1]])
    value = LOSSES["focal"](logits, row(1, 0), LossContext(make_labels(2), batch_dice=False)).item()
    assert value == pytest.approx(-(0.4**2 * math.log(0.6) + 0.1**2 * math.log(0.9)) / 2)


def test_top_k_by_hand() -> None:
    truth = [0.9] * 18 + [0.2, 0.3]
    logits = logits_of([[p, 1 - p] for p in truth])
    context = LossContext(make_labels(2), batch_dice=False)
    value = LOSSES["top_k_cross_entropy"](logits, row(*[0] * 20), context).item()
    assert value == pytest.approx(-(math.log(0.2) + math.log(0.3)) / 2)
    # One voxel counts, two are asked for.
    ignored = LossContext(make_labels(2, ignore=True), batch_dice=False)
    value = LOSSES["top_k_cross_entropy"](logits, row(0, *[2] * 19), ignored).item()
    assert value == pytest.approx(-math.log(0.9))


def test_regions_are_sigmoids_by_hand() -> None:
    probabilities = torch.tensor([[0.7, 0.4], [0.2, 0.9]], dtype=torch.float64)  # voxel, region
    logits = probabilities.logit().T[None, :, None, None]
    context = LossContext(make_labels(3, regions=REGIONS), batch_dice=False)
    # Voxel 0 is class 1 (first region only), voxel 1 background.
    value = LOSSES["cross_entropy"](logits, row(1, 0), context).item()
    assert value == pytest.approx(-(math.log(0.7) + math.log(0.6) + math.log(0.8) + math.log(0.1)) / 4)
    value = LOSSES["soft_dice"](logits, row(1, 0), context).item()
    assert value == pytest.approx(-((1.4 + 1e-5) / (1.9 + 1e-5) + 1e-5 / (1.3 + 1e-5)) / 2)


@pytest.mark.parametrize("name", list(LOSSES))
@pytest.mark.parametrize("regions", [(), REGIONS])
@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch_dice", [False, True])
def test_gradient_is_the_numerical_one(
    name: str, regions: tuple[tuple[int, ...], ...], ignore: bool, weighted: bool, batch_dice: bool
) -> None:
    labels = make_labels(3, ignore, regions)
    context = LossContext(labels, batch_dice, (0.5, 2.0, 1.5)[: labels.num_heads] if weighted else None)
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, labels.num_heads, 1, 2, 3, generator=g, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 3 + ignore, (2, 1, 2, 3), generator=g)
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, target, context), logits)


@pytest.mark.parametrize("name", list(LOSSES))
@pytest.mark.parametrize("regions", [(), REGIONS])
def test_ignored_voxels_take_no_part(name: str, regions: tuple[tuple[int, ...], ...]) -> None:
    labels = make_labels(3, True, regions)
    context = LossContext(labels, batch_dice=False)
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(1, labels.num_heads, 1, 1, 40, generator=g, requires_grad=True)
    target = torch.randint(0, 3, (1, 1, 1, 40), generator=g)
    target[..., 20:] = 3
    with torch.no_grad():
        expected = LOSSES[name](logits[..., :20], target[..., :20], context)
    # The hardest tenth is one of all voxels: double those that count.
    if name != "top_k_cross_entropy":
        torch.testing.assert_close(LOSSES[name](logits, target, context), expected)
    (gradient,) = torch.autograd.grad(LOSSES[name](logits, target, context), logits)
    assert not gradient[..., 20:].any()
    assert gradient[..., :20].any()
    nothing = LOSSES[name](logits, torch.full_like(target, 3), context)
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert not gradient.any()
    assert torch.isfinite(nothing)


def test_outputs_weigh_half_as_much_at_each_resolution() -> None:
    labels = make_labels(2)
    recipe = Recipe(loss=(LossTerm(name="cross_entropy", weight=2.0), LossTerm(name="soft_dice")))
    g = torch.Generator().manual_seed(0)
    target = torch.randint(0, 2, (1, 4, 8, 8), generator=g).to(torch.uint8)
    outputs = [torch.randn(1, 2, 4 // z, 8 // s, 8 // s, generator=g) for z, s in ((1, 1), (1, 2), (2, 4))]

    def single(output: Tensor) -> Tensor:
        context, coarse = LossContext(labels, batch_dice=True), downsample(target, tuple(output.shape[2:]))
        return 2 * LOSSES["cross_entropy"](output, coarse, context) + LOSSES["soft_dice"](output, coarse, context)

    loss = build_loss(recipe, labels, batch_dice=True)
    first, second, third = (single(o) for o in outputs)
    torch.testing.assert_close(loss(outputs, target), (4 * first + 2 * second + third) / 7)
    torch.testing.assert_close(loss(outputs[:1], target), first)
    alone = build_loss(recipe.model_copy(update={"deep_supervision": False}), labels, batch_dice=True)
    torch.testing.assert_close(alone(outputs, target), first)


def test_coarse_targets_are_views_of_the_nearest_voxels() -> None:
    target = torch.randint(0, 9, (2, 12, 24, 8), generator=torch.Generator().manual_seed(0))
    for shape in ((12, 24, 8), (12, 12, 4), (4, 8, 2), (1, 3, 1)):
        nearest = torch.nn.functional.interpolate(target[None].double(), shape, mode="nearest-exact")[0].long()
        coarse = downsample(target, shape)
        assert torch.equal(coarse, nearest)
        assert coarse.untyped_storage().data_ptr() == target.untyped_storage().data_ptr()
    with pytest.raises(UsageError, match="whole factors"):
        downsample(target, (5, 24, 8))


def test_half_precision_and_autocast_give_the_float32_loss() -> None:
    labels = make_labels(3)
    loss = build_loss(Recipe(), labels, batch_dice=False)
    g = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (1, 4, 4, 4), generator=g).to(torch.int16)
    rough = torch.randn(1, 3, 4, 4, 4, generator=g).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss([rough], target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss([rough.float()], target))
    value.backward()
    assert rough.grad is not None
    assert rough.grad.dtype == torch.bfloat16


def _zero(logits: Tensor, target: Tensor, context: LossContext) -> Tensor:
    return logits.sum() * 0


def test_installed_losses_are_found_but_replace_none(monkeypatch: pytest.MonkeyPatch) -> None:
    points = EntryPoints(EntryPoint(name, f"{__name__}:_zero", "autoseg.losses") for name in ("zero", "focal"))
    monkeypatch.setattr("autoseg.extensions.entry_points", lambda group: points.select(group=group))
    labels, target = make_labels(2), torch.zeros(1, 1, 1, 4)
    for name, is_zero in (("zero", True), ("focal", False)):
        loss = build_loss(Recipe(loss=(LossTerm(name=name),)), labels, batch_dice=False)
        assert (loss([torch.ones(1, 2, 1, 1, 4)], target).item() == 0) == is_zero
    with pytest.raises(UsageError, match=r"'dice'.*cross_entropy, focal.*soft_dice.*zero"):
        build_loss(Recipe(loss=(LossTerm(name="dice"),)), labels, batch_dice=False)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 0.0, 0.0)])
def test_class_weights_that_do_not_fit_are_refused(weights: tuple[float, ...]) -> None:
    recipe = Recipe(loss=(LossTerm(name="soft_dice", class_weights=weights),))
    with pytest.raises(UsageError, match="class_weights of the loss 'soft_dice'"):
        build_loss(recipe, make_labels(3), batch_dice=False)
    with pytest.raises(UsageError, match="no term"):
        build_loss(Recipe(loss=()), make_labels(3), batch_dice=False)
