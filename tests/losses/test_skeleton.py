"""The soft skeleton of shapes whose centre line is plain, and clDice by hand."""

import pytest
import torch

from autoseg.losses.build import LOSSES
from autoseg.losses.skeleton import soft_skeleton
from tests.losses.tiny import REGIONS, context_of


def test_a_line_is_its_own_skeleton() -> None:
    line = torch.zeros(1, 1, 5, 7, 7)
    line[..., 2, 3, 1:6] = 1
    assert torch.equal(soft_skeleton(line, None, 3), line)


def test_a_bar_shrinks_to_its_middle() -> None:
    bar = torch.zeros(1, 1, 1, 7, 15)
    bar[..., 2:5, 2:13] = 1
    middle = torch.zeros_like(bar)
    middle[..., 3, 3:12] = 1
    assert torch.equal(soft_skeleton(bar, None, 3), middle)
    # Where the radius is larger than the erosions nothing is left of it.
    assert not soft_skeleton(bar, None, 0).any()


def test_ignored_voxels_are_like_the_outside_of_the_image() -> None:
    g = torch.Generator().manual_seed(0)
    image = torch.rand(1, 2, 4, 6, 8, generator=g)
    valid = torch.ones(1, 1, 4, 6, 8, dtype=torch.bool)
    valid[..., 5:] = False
    whole = soft_skeleton(image * valid, valid, 2)
    torch.testing.assert_close(whole[..., :5], soft_skeleton(image[..., :5], None, 2))
    assert not whole[..., 5:].any()


def test_cl_dice_of_a_broken_line() -> None:
    target = torch.zeros(1, 1, 5, 9, dtype=torch.long)
    target[..., 2, 1:8] = 1  # seven voxels, of which the middle one is not found
    found = target.clone()
    found[..., 2, 4] = 0
    logits = (200.0 * torch.nn.functional.one_hot(found, 2).movedim(-1, 1) - 100).double()
    precision, sensitivity = 1.0, (6 + 1) / (7 + 1)
    expected = -2 * precision * sensitivity / (precision + sensitivity)
    assert LOSSES["cl_dice"](logits, target, context_of()).item() == pytest.approx(expected)


def test_batch_dice_adds_lines_up_first() -> None:
    target = torch.zeros(2, 1, 5, 9, dtype=torch.long)
    target[0, 0, 2, 1:8] = 1
    logits = torch.full((2, 2, 1, 5, 9), -100.0, dtype=torch.float64)  # two regions: only the first is there
    logits[0, 0, 0, 2, 1:4] = 100
    joined = LOSSES["cl_dice"](logits, target, context_of(3, regions=REGIONS, batch_dice=True)).item()
    precision, sensitivity = 1.0, (3 + 1) / (7 + 1)
    first = 2 * precision * sensitivity / (precision + sensitivity)
    assert joined == pytest.approx(-(first + 1) / 2)
    apart = LOSSES["cl_dice"](logits, target, context_of(3, regions=REGIONS)).item()
    assert apart == pytest.approx(-((first + 1) / 2 + 1) / 2)
