import pytest
import torch
from torch import Tensor

from autoseg.losses.build import build_loss
from autoseg.losses.sums import class_sums
from autoseg.losses.targets import LossContext
from autoseg.records.labels import LabelScheme
from autoseg.records.recipe import LossTerm, Recipe


def _labels(num_classes: int, ignore: bool) -> LabelScheme:
    names = ("background", *(f"class {n}" for n in range(1, num_classes)))
    values = tuple(range(num_classes))
    ignored = num_classes if ignore else None
    return LabelScheme(class_names=names, class_values=values, num_entries=num_classes + ignore, ignore_value=ignored)


def _by_one_hot(
    outputs: list[Tensor], target: Tensor, num_classes: int, batch_dice: bool, class_weights: tuple[float, ...] | None
) -> Tensor:
    """Cross-entropy + soft Dice as the papers write them, by one-hot copies and autograd; labels beyond are ignored."""
    total, norm = outputs[0].new_zeros(()), sum(0.5**i for i in range(len(outputs)))
    for i, logits in enumerate(outputs):
        step = target.shape[1] // logits.shape[2]
        coarse = target[:, step // 2 :: step, step // 2 :: step, step // 2 :: step].long()
        valid = (coarse < num_classes).to(logits.dtype)
        one_hot = torch.nn.functional.one_hot(coarse % num_classes, num_classes).movedim(-1, 1) * valid.unsqueeze(1)
        weights = logits.new_tensor(class_weights or (1.0,) * num_classes)
        weighted = one_hot * weights.view(1, -1, 1, 1, 1)
        entropy = -(weighted * logits.log_softmax(1)).sum() / weighted.sum()
        probabilities = logits.softmax(1) * valid.unsqueeze(1)
        axes = (0, 2, 3, 4) if batch_dice else (2, 3, 4)
        both, parts = (probabilities * one_hot).sum(axes), (probabilities + one_hot).sum(axes)
        dice = ((2 * both + 1e-5) / (parts + 1e-5))[..., 1:].mean()
        total = total + 0.5**i / norm * (entropy - dice)
    return total


@pytest.mark.parametrize("num_classes", [2, 3, 24])
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
def test_dice_and_cross_entropy_are_those_of_one_hot_copies(
    num_classes: int, batch_dice: bool, ignore: bool, weighted: bool, dtype: torch.dtype, allowed: float
) -> None:
    random = torch.Generator().manual_seed(num_classes)
    labels = _labels(num_classes, ignore)
    weights = tuple(0.5 + n / num_classes for n in range(num_classes)) if weighted else None
    terms = (LossTerm(name="cross_entropy", class_weights=weights), LossTerm(name="soft_dice"))
    outputs = [3 * torch.randn(2, num_classes, n, n, n, generator=random, dtype=torch.float64) for n in (8, 4)]
    target = torch.randint(0, num_classes + ignore, (2, 8, 8, 8), generator=random)
    gradients, values = [], []
    for ours in (True, False):
        inputs = [one.to(dtype if ours else torch.float64, copy=True).requires_grad_() for one in outputs]
        if ours:
            value = build_loss(Recipe(loss=terms), labels, batch_dice)(inputs, target)
        else:
            value = _by_one_hot(inputs, target, num_classes, batch_dice, weights)
        value.backward()
        values.append(float(value.detach()))
        gradients.append(torch.cat([one.grad.flatten().double() for one in inputs if one.grad is not None]))
    assert values[0] == pytest.approx(values[1], rel=10 * allowed)
    assert float((gradients[0] - gradients[1]).norm() / gradients[1].norm()) < allowed


def test_terms_share_their_sums_and_an_output_has_its_own() -> None:
    labels = _labels(3, False)
    logits, target = torch.randn(1, 3, 4, 4, 4), torch.randint(0, 3, (1, 4, 4, 4))
    context = LossContext(labels=labels, batch_dice=False, shared={})
    first = class_sums(logits, target, context)
    assert class_sums(logits, target, context) is first
    alone = class_sums(logits, target, LossContext(labels=labels, batch_dice=False))
    assert alone is not first
    for one, other in zip(alone, first, strict=True):
        torch.testing.assert_close(one, other)


def test_a_class_number_beyond_a_byte() -> None:
    labels = _labels(300, False)
    logits = torch.randn(1, 300, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    target = torch.full((1, 2, 2, 2), 299)
    value = build_loss(Recipe(loss=(LossTerm(name="cross_entropy"),)), labels, False)([logits], target)
    torch.testing.assert_close(value, -logits.log_softmax(1)[:, 299].mean())
