"""A plan and one of its configurations in, the plan with that configuration's fine-tuning with distractors out."""

import math

from autoseg.errors import UsageError
from autoseg.records.distractors import SUFFIX, Distractors
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import Configuration, Plan
from autoseg.records.recipe import LossTerm, Recipe, Sampling

RATE_FACTOR = 0.3
"""Of the base's learning rate; a tenth changed too little in as many steps (docs/experiments.md)."""

LENGTH_FACTOR = 0.25
"""Of the base's epochs."""


def plan_distractors(plan: Plan, configuration: str) -> tuple[Plan, str]:
    """Add `<configuration>_distractors` to a plan that does not have it yet.

    Returns:
        The plan, and the name of the configuration that learns distractors: `configuration` itself where it does.

    Raises:
        UsageError: the plan has no such configuration.
    """
    base = next((known for key, known in plan.configurations.items() if key == configuration), None)
    if base is None:
        raise UsageError(
            f"Plan {plan.name} has no configuration {configuration}; it has {', '.join(plan.configurations)}."
        )
    if base.recipe.distractors is not None:
        return plan, configuration
    name = configuration + SUFFIX
    if name in plan.configurations:
        return plan, name
    content = plan.model_dump()
    content["configurations"][name] = _fine_tuned(base, configuration, plan.labels).model_dump()
    content["reasons"][f"{name}.recipe"] = (
        f"that of {configuration} with false positives as a class: fine-tuned with {RATE_FACTOR:g} of its learning "
        f"rate for {LENGTH_FACTOR:g} of its epochs"
    )
    return Plan.model_validate(content), name


def without_distractors(plan: Plan) -> Plan:
    """The plan as it was before `plan_distractors` added to it."""
    added = {name for name, settings in plan.configurations.items() if settings.recipe.distractors is not None}
    configurations = {name: settings for name, settings in plan.configurations.items() if name not in added}
    reasons = {field: reason for field, reason in plan.reasons.items() if field.split(".")[0] not in added}
    return plan.model_copy(update={"configurations": configurations, "reasons": reasons})


def _fine_tuned(base: Configuration, name: str, labels: LabelScheme) -> Configuration:
    recipe = base.recipe
    changes = {
        "distractors": Distractors(base=name),
        "optimizer": recipe.optimizer.model_copy(
            update={"learning_rate": recipe.optimizer.learning_rate * RATE_FACTOR}
        ),
        "schedule": recipe.schedule.model_copy(update={"epochs": math.ceil(recipe.schedule.epochs * LENGTH_FACTOR)}),
        "sampling": _sampling(recipe.sampling),
        "loss": tuple(_with_weight(term, labels) for term in recipe.loss),
    }
    return base.model_copy(update={"recipe": Recipe.model_validate({**dict(recipe), **changes})})


def _sampling(sampling: Sampling) -> Sampling:
    """Weights of the targets with that of the distractor behind them: their mean."""
    weights = sampling.class_weights
    if weights is None:
        return sampling
    return sampling.model_copy(update={"class_weights": (*weights, round(sum(weights) / len(weights), 2))})


def _with_weight(term: LossTerm, labels: LabelScheme) -> LossTerm:
    """Weights of the heads with that of the distractor behind them: the background's, or 1 where there is none."""
    weights = term.class_weights
    if weights is None:
        return term
    return term.model_copy(update={"class_weights": (*weights, 1.0 if labels.has_regions else weights[0])})
