import numpy as np
import pytest

from autoseg.planning.imbalance import adapt_to_imbalance
from autoseg.records.recipe import LossTerm, Recipe
from autoseg.training.batches import wants_foreground
from tests.planning.examples import fingerprint, scheme


def test_balanced_classes_change_nothing() -> None:
    assert adapt_to_imbalance(Recipe(), scheme(), fingerprint(fractions=(0.9, 0.1))) == (Recipe(), {})


def test_nnunets_fingerprint_changes_nothing() -> None:
    assert adapt_to_imbalance(Recipe(), scheme(), fingerprint(with_cases=False)) == (Recipe(), {})


@pytest.mark.parametrize(("share", "fraction"), [(0.02, 0.33), (0.005, 0.5), (0.0005, 0.67)])
def test_little_foreground_is_visited_more_often(share: float, fraction: float) -> None:
    recipe, reasons = adapt_to_imbalance(Recipe(), scheme(), fingerprint(foreground_share=share, fractions=(0.5, 0.5)))
    assert recipe.sampling.foreground_fraction == fraction
    assert ("sampling.foreground_fraction" in reasons) == (fraction != 0.33)
    rng = np.random.default_rng(0)
    drawn = [wants_foreground(recipe.sampling, 2, number, rng) for _ in range(2000) for number in range(2)]
    # Unchanged, nnU-Net's rounding takes one of two.
    assert np.mean(drawn) == pytest.approx(fraction if reasons else 0.5, abs=0.03)


def test_rare_classes_are_drawn_more_often_and_cost_more() -> None:
    labels = scheme(("liver", "vessel", "lesion"))
    recipe, reasons = adapt_to_imbalance(Recipe(), labels, fingerprint(fractions=(0.8, 0.16, 0.04)))
    # sqrt(0.16 / own): 0.447 raised to 0.5, 1, 2; in the loss the root of that, from 1 upwards.
    assert recipe.sampling.class_weights == (0.5, 1.0, 2.0)
    assert recipe.loss == (
        LossTerm(name="cross_entropy", class_weights=(1.0, 1.0, 1.0, 1.41)),
        LossTerm(name="soft_dice"),
    )
    assert set(reasons) == {"sampling.class_weights", "loss"}
    assert "20 times" in reasons["loss"]


def test_weights_are_bounded_and_absent_classes_neutral() -> None:
    labels = scheme(("a", "b", "c", "d"))
    recipe, _ = adapt_to_imbalance(Recipe(), labels, fingerprint(fractions=(0.9, 0.0999, 0.0001, 0.0)))
    assert recipe.sampling.class_weights == (0.5, 1.0, 4.0, 1.0)
    assert recipe.loss[0].class_weights == (1.0, 1.0, 1.0, 2.0, 1.0)


def test_regions_get_one_weight_each_and_no_background() -> None:
    labels = scheme(("edema", "core"), regions=[("whole", (1, 2)), ("core", (2,))])
    recipe, _ = adapt_to_imbalance(Recipe(), labels, fingerprint(fractions=(0.96, 0.04)))
    assert recipe.sampling.class_weights is not None
    assert len(recipe.sampling.class_weights) == 2
    assert recipe.sampling.class_weights[1] > recipe.sampling.class_weights[0]
    assert recipe.loss[0].class_weights is not None
    assert len(recipe.loss[0].class_weights) == 2
