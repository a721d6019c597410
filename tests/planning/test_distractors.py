"""The configuration that learns distractors: what it shares with its base, and what it weighs."""

import pytest
from pydantic import ValidationError

from autoseg.errors import UsageError
from autoseg.planning.build import make_plan
from autoseg.planning.distractors import plan_distractors, without_distractors
from autoseg.planning.settings import apply_settings
from autoseg.records.base import parse_record
from autoseg.records.plan import Plan
from tests.planning.examples import dataset, fingerprint, scheme

FEW, MANY = 0.01, 0.99


def make(**kinds: object) -> Plan:
    labels = scheme(("organ", "lesion"), **kinds)  # type: ignore[arg-type]
    return make_plan(fingerprint(fractions=(MANY, FEW)), dataset(labels), "default")


def test_it_is_the_base_but_for_its_recipe() -> None:
    plan = make()
    changed, name = plan_distractors(plan, "3d_fullres")
    assert name == "3d_fullres_distractors"
    base, tuned = plan.configurations["3d_fullres"], changed.configurations[name]
    assert tuned.model_copy(update={"recipe": base.recipe}) == base
    assert tuned.recipe.distractors.base == "3d_fullres"
    assert tuned.recipe.optimizer.learning_rate == pytest.approx(0.3 * base.recipe.optimizer.learning_rate)
    assert tuned.recipe.schedule.epochs == base.recipe.schedule.epochs / 4
    assert f"{name}.recipe" in changed.reasons
    assert parse_record(changed.model_dump(mode="json"), Plan, "plan") == changed
    assert without_distractors(changed) == plan


def test_it_is_added_once() -> None:
    changed, name = plan_distractors(make(), "2d")
    assert plan_distractors(changed, "2d") == (changed, name)
    assert plan_distractors(changed, name) == (changed, name)
    with pytest.raises(UsageError, match="no configuration 3d; it has"):
        plan_distractors(changed, "3d")


def test_the_distractor_gets_a_weight_behind_the_others() -> None:
    plan = make()
    changed, name = plan_distractors(plan, "3d_fullres")
    before, after = plan.configurations["3d_fullres"].recipe, changed.configurations[name].recipe
    weights = before.sampling.class_weights
    assert weights is not None, "the example is imbalanced"
    assert after.sampling.class_weights == (*weights, pytest.approx(sum(weights) / 2, abs=0.006))
    factors = before.loss[0].class_weights
    assert after.loss[0].class_weights == (*factors, factors[0])
    assert after.loss[1].class_weights is before.loss[1].class_weights is None


def test_regions_have_no_background_to_take_the_weight_of() -> None:
    plan = make(regions=[("whole", (1, 2)), ("lesion", (2,))])
    changed, name = plan_distractors(plan, "3d_fullres")
    factors = plan.configurations["3d_fullres"].recipe.loss[0].class_weights
    assert factors is not None
    assert changed.configurations[name].recipe.loss[0].class_weights == (*factors, 1.0)


def test_a_plan_in_which_base_and_distractors_do_not_go_together_is_refused() -> None:
    changed, name = plan_distractors(make(), "3d_fullres")
    with pytest.raises(UsageError, match=f"{name} is fine-tuned from 3d_fullres and must share its spacing_mm"):
        apply_settings(changed, ["3d_fullres.spacing_mm=[9, 9, 9]"])
    assert apply_settings(changed, ["all.batch_size=3"]).configurations[name].batch_size == 3
    for base in ("nowhere", name):
        content = changed.model_dump()
        content["configurations"][name]["recipe"]["distractors"]["base"] = base
        with pytest.raises(ValidationError, match="must be a configuration without"):
            Plan.model_validate(content)
