"""A fold's folder and what is asked for now in, the schedule that it goes on with out: whether it may go on at all.

A training goes on only with the plan, cases, data and options that it was begun with: anything else would mix two
trainings under one name.
"""

from pathlib import Path
from typing import Any

import torch

from autoseg import console
from autoseg.devices import describe_device
from autoseg.errors import ModelError, UsageError
from autoseg.records.base import read_record
from autoseg.records.dataset import Fold
from autoseg.records.plan import Plan
from autoseg.records.provenance import TrainingInputs, describe_changes
from autoseg.records.results import TrainedFold
from autoseg.training.initial_weights import check_same_origin
from autoseg.training.schedule import SCHEDULE, TrainingSchedule, TrainOptions

_SAME_BUDGET = 0.05  # relative


def check_same_plan(folder: Path, plan: Plan, configuration: str) -> None:
    """Refuse to go on, or to call finished, what was begun with other values under the same name.

    Raises:
        ModelError: `folder` was begun with a plan that trains `configuration` otherwise, or its record is damaged.
    """
    if not (folder / "plan.json").is_file():
        return
    before = read_record(folder / "plan.json", Plan, ModelError)
    if _deciding(before, configuration) != _deciding(plan, configuration):
        raise ModelError(
            f"{folder} was begun with another content of the plan {plan.name!r}. Give the changed plan another name, "
            f"or delete {folder} to train it anew."
        )


def _deciding(plan: Plan, configuration: str) -> dict[str, Any]:
    """What of a plan decides the training of one configuration."""
    content = plan.model_dump(mode="json", exclude={"name", "preset", "reasons", "planned_for", "configurations"})
    settings = plan.configurations.get(configuration)  # type: ignore[call-overload]
    return {**content, "configuration": None if settings is None else settings.model_dump(mode="json")}


def _check_same_cases(folder: Path, before: Fold, now: Fold) -> None:
    """Refuse to go on, or to call finished, what was begun with other cases: its score would be of other cases too."""
    if (set(before.train), set(before.validation)) == (set(now.train), set(now.validation)):
        return
    changed = sorted(({*before.train} ^ {*now.train}) | ({*before.validation} ^ {*now.validation}))
    raise ModelError(
        f"{folder} was begun with other cases: {', '.join(changed[:10])}{' and others' if len(changed) > 10 else ''} "
        "came, went or changed sides since. Delete it to train it anew, or use another plan name to keep both."
    )


def trained_already(
    folder: Path, title: str, cases: Fold, inputs: TrainingInputs, options: TrainOptions
) -> TrainedFold:
    """The record of a finished fold; warns where other values are asked for now than it was trained with.

    Raises:
        ModelError: the fold was trained and held out other cases, or a record is damaged.
    """
    done = read_record(folder / "fold.json", TrainedFold, ModelError)
    _check_same_cases(folder, Fold(train=done.train_cases, validation=done.validation_cases), cases)
    budget = "" if done.budget_seconds is None else f", budget {console.duration(done.budget_seconds)}"
    course = f"{done.epochs} epochs of {done.iterations_per_epoch} steps{budget}"
    console.say(f"{title} is trained already ({course}); delete {folder} to train it anew.")
    if (folder / SCHEDULE).is_file():
        fixed = read_record(folder / SCHEDULE, TrainingSchedule, ModelError)
        for option, wanted, value in _other_values(options, fixed):
            console.warn(f"{option} {wanted} changes nothing: {title} was trained with {value}.")
        if inputs.origin is not None and (fixed.inputs is None or fixed.inputs.origin is None):
            console.warn(f"--from changes nothing: {title} was trained from its seed.")
        if fixed.inputs is not None and (changes := describe_changes(fixed.inputs, inputs)):
            console.warn(f"{title} was trained on other data than there is now: {'; '.join(changes)}.")
    return done


def _other_values(options: TrainOptions, fixed: TrainingSchedule) -> list[tuple[str, int, int]]:
    """(option, asked for, fixed) where they differ."""
    asked = (
        ("--epochs", options.epochs, fixed.epochs),
        ("--iterations", options.iterations, fixed.iterations_per_epoch),
        ("--seed", options.seed, fixed.seed),
    )
    return [(option, wanted, value) for option, wanted, value in asked if wanted is not None and wanted != value]


def warn_of_another_device(title: str, fixed: TrainingSchedule, device: torch.device) -> None:
    """Tell the user where an interrupted training goes on elsewhere: sums in another order are rounded otherwise."""
    here = describe_device(device)
    if fixed.device != here:
        console.warn(
            f"{title} was begun on {fixed.device} and goes on on {here}: its weights will not be those of an "
            "uninterrupted training bit for bit."
        )


def read_schedule(folder: Path, cases: Fold, inputs: TrainingInputs, options: TrainOptions) -> TrainingSchedule | None:
    """The schedule that an earlier call fixed; raises when other values are asked for now or the data are others.

    Another budget is only warned of: a command that shares one among its folds gives each another share when it is
    called again.

    Returns:
        None where the training has not begun.

    Raises:
        ModelError: it was begun with other cases, other data or from other weights, or the record is damaged.
        UsageError: it was begun with another length, seed or end.
    """
    if not (folder / SCHEDULE).is_file():
        return None
    fixed = read_record(folder / SCHEDULE, TrainingSchedule, ModelError)
    if fixed.cases is not None:
        _check_same_cases(folder, fixed.cases, cases)
    check_same_origin(folder, fixed.inputs or TrainingInputs(cases={}, preprocessing=""), inputs)
    if fixed.inputs is not None and (changes := describe_changes(fixed.inputs, inputs)):
        raise ModelError(
            f"{folder} was begun with other data: {'; '.join(changes)} since. Going on would mix both: delete it to "
            "train it anew."
        )
    for option, wanted, value in _other_values(options, fixed):
        raise UsageError(
            f"{option} {wanted}: this training was begun with {value}. Call it without {option} to go on, "
            f"or delete {folder} to start anew."
        )
    if options.until_plateau and not fixed.until_plateau:
        raise UsageError(f"--budget auto: this training was begun without. Call it without, or delete {folder}.")
    course = f"{fixed.epochs} epochs of {fixed.iterations_per_epoch} steps"
    console.say(f"going on with a training of {course}")
    budget, before = options.budget_seconds, fixed.budget_seconds
    if budget is not None and (before is None or abs(budget - before) > _SAME_BUDGET * before):
        what = "no budget" if before is None else f"a budget of {console.duration(before)}"
        console.warn(f"A budget of {console.duration(budget)} changes nothing: {course} were fixed with {what}.")
    return fixed
