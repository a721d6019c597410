"""Parameters of losses come from the recipe, and what does not fit is refused with all that would."""

import re
from pathlib import Path

import pytest
import torch

from autoseg.errors import UsageError
from autoseg.losses.build import LOSSES, build_loss
from autoseg.losses.parameters import known_parameters
from autoseg.records.recipe import LossTerm, Recipe
from tests.losses.tiny import context_of, make_labels

LOGITS = torch.randn(1, 2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
TARGET = (LOGITS[:, 1] + LOGITS[:, 0].roll(1, -1) > 0).long()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("focal", {"gamma": 3.0}),
        ("tversky", {"alpha": 0.6, "smooth": 0.5}),
        ("hausdorff", {"alpha": 1.0}),
        ("top_k_cross_entropy", {"share": 0.5}),
        ("cl_dice", {"iterations": 0.0}),
    ],
)
def test_recipe_gives_them(name: str, parameters: dict[str, float]) -> None:
    recipe = Recipe(loss=(LossTerm(name=name, parameters=parameters),))
    found = build_loss(recipe, make_labels(2), batch_dice=False)([LOGITS], TARGET)
    direct = {key: int(value) if key == "iterations" else value for key, value in parameters.items()}
    torch.testing.assert_close(found, LOSSES[name](LOGITS, TARGET, context_of(), **direct))
    assert found.item() != pytest.approx(LOSSES[name](LOGITS, TARGET, context_of()).item())


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("focal", {"gama": 2.0}, r"'focal': there is no 'gama' \(did you mean 'gamma'\?\); it has gamma \(default 2\)"),
        ("boundary", {"alpha": 2.0}, "there is no 'alpha'; it has none"),
        ("focal_tversky", {"gamma": 0.0, "beta": -1.0}, "gamma must be a number above 0.*beta must be a number from 0"),
        ("focal_tversky", {"gamma": float("nan")}, "got nan"),
        ("top_k_cross_entropy", {"share": 10.0}, "share must be a number above 0 and at most 1, got 10"),
        ("cl_dice", {"iterations": 2.5}, "iterations must be a whole number, got 2.5"),
        ("sensitivity_specificity", {"sensitivity": 1.1}, "at most 1"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, parameters: dict[str, float], message: str) -> None:
    recipe = Recipe(loss=(LossTerm(name=name, parameters=parameters),))
    with pytest.raises(UsageError, match=message):
        build_loss(recipe, make_labels(2), batch_dice=False)


@pytest.mark.parametrize("name", list(LOSSES))
def test_every_default_is_a_value_that_a_recipe_may_give(name: str) -> None:
    defaults = known_parameters(LOSSES[name])
    recipe = Recipe(loss=(LossTerm(name=name, parameters=defaults),))
    found = build_loss(recipe, make_labels(2), batch_dice=False)([LOGITS], TARGET)
    torch.testing.assert_close(found, LOSSES[name](LOGITS, TARGET, context_of()))


def test_the_documents_name_every_loss_with_its_defaults() -> None:
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "choose_a_loss.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", text, re.MULTILINE)
    expected = [
        (name, ", ".join(f"{key}={value:.4g}" for key, value in known_parameters(loss).items()))
        for name, loss in LOSSES.items()
    ]
    assert [(name, parameters.strip()) for name, parameters in rows] == expected


def test_every_sum_of_the_documents_can_be_built() -> None:
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "choose_a_loss.md").read_text("utf-8")
    sums = re.findall(r"\| `([^`]*)` \|", text) + re.findall(r'recipe\.loss=([^"]*)"', text)
    sums = [entry for entry in sums if "+" in entry]
    assert len(sums) >= 10
    for entry in sums:
        build_loss(Recipe.model_validate({"loss": entry}), make_labels(2), batch_dice=False)
