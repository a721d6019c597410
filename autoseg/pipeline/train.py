"""Preprocessed cases and a plan's configuration in, one trained and validated fold out.

    lock -> same plan as before? -> open cases -> schedule (measured and fixed once) -> train -> weights -> validate

Called again, it goes on where it stopped; `fold.json`, written last, says that nothing is left to do. Images
are not read for training itself, only to score the held-out cases.
"""

import time
from pathlib import Path
from typing import Any

from autoseg import console
from autoseg.devices import choose_device, describe_device
from autoseg.errors import ModelError, UsageError
from autoseg.inference.model import WEIGHTS
from autoseg.networks.cost import count_parameters
from autoseg.preprocessing import store
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Dataset, Fold, Folds
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Plan
from autoseg.records.results import TrainedFold
from autoseg.records.workspace import Paths
from autoseg.storage import tensors
from autoseg.storage.locks import locked
from autoseg.training.budget import decide_schedule
from autoseg.training.checkpoint import remove_checkpoints
from autoseg.training.loop import final_weights, memory_errors, train_network
from autoseg.training.schedule import SCHEDULE, TrainingSchedule, TrainOptions
from autoseg.training.stopping import StopRequest, listening_for_stop
from autoseg.training.task import Task, new_learner, open_task
from autoseg.training.validation import validate

__all__ = ["TrainOptions", "is_trained", "train"]

ALL = "all"
"""Name of the fold that trains on every case and holds none out."""


def is_trained(paths: Paths, plan: Plan, configuration: str, fold: str) -> bool:
    """Whether the fold is trained and validated."""
    return (paths.fold(plan.name, configuration, fold) / "fold.json").is_file()


def train(
    paths: Paths, plan: Plan, configuration: str, fold: str, options: TrainOptions = TrainOptions()
) -> TrainedFold:
    """Train one fold and validate it on its held-out cases; go on where an earlier call stopped.

    Args:
        paths: of the dataset; its cases are preprocessed.
        plan: has the configuration.
        configuration: for example `3d_fullres`.
        fold: number of a cross-validation fold as text, or `all` to train on every case without validation.
        options: length, seed, budget and device, where they are not to be the plan's.

    Raises:
        UsageError: no such configuration or fold, or other options than the fold was begun with.
        DataError: another process trains this fold, or a preprocessed file is missing or damaged.
        ModelError: no checkpoint is whole, the fold was begun with another plan, or the loss is not finite.
        ResourceError: memory or disk are full.
        Preempted, KeyboardInterrupt: a signal asked to stop; the same call goes on.
    """
    started = time.monotonic() if options.started_seconds is None else options.started_seconds
    title, folder = f"{configuration} fold {fold}", paths.fold(plan.name, configuration, fold)
    if configuration not in plan.configurations:
        known = ", ".join(plan.configurations)
        raise UsageError(f"Plan {plan.name} has no configuration {configuration}; it has {known}.")
    cases = _cases_of(paths, fold)
    with locked(folder, f"training {title}"), listening_for_stop() as stop, memory_errors(title):
        _check_same_plan(folder, plan, configuration)
        if is_trained(paths, plan, configuration, fold):
            console.say(f"{title} is trained already; delete {folder} to train it anew.")
            return read_record(folder / "fold.json", TrainedFold, ModelError)
        schedule = _read_schedule(folder, options)
        task = _open(paths, plan, configuration, title, folder, cases, options)
        stop.raise_if_asked(title)
        if schedule is None:
            schedule = decide_schedule(task, options, started)
            write_record(folder / "plan.json", plan)
            write_record(folder / SCHEDULE, schedule)
        record = _train_and_validate(task, schedule, configuration, fold, stop)
        write_record(folder / "fold.json", record)
        remove_checkpoints(folder)
    score = "" if record.mean_dice is None else f", mean Dice {record.mean_dice:.4f} on whole held-out volumes"
    budget = "" if schedule.budget_seconds is None else f" (budget {console.duration(schedule.budget_seconds)})"
    console.say(f"{title}: done in {console.duration(time.monotonic() - started)}{budget}{score}")
    return record


def _train_and_validate(
    task: Task, schedule: TrainingSchedule, configuration: str, fold: str, stop: StopRequest
) -> TrainedFold:
    learner = new_learner(task, schedule.precision)
    history = train_network(learner, task.sampler, schedule, task.folder, stop, task.title)
    weights = final_weights(learner)
    learner.network.load_state_dict(weights)
    about = {"plan": task.plan.name, "configuration": configuration, "fold": fold, "steps": schedule.num_steps}
    tensors.save(task.folder / WEIGHTS, {WEIGHTS: weights}, about)
    evaluation = None
    if task.cases.validation:
        evaluation = validate(learner.network, task.validator, task.cases.validation, stop)
    if evaluation is not None:
        write_record(task.folder / "validation.json", evaluation)
    return TrainedFold(
        plan=task.plan.name,
        configuration=configuration,
        fold=fold,
        train_cases=task.cases.train,
        validation_cases=task.cases.validation,
        epochs=schedule.epochs,
        iterations_per_epoch=schedule.iterations_per_epoch,
        seconds=sum(epoch.seconds for epoch in history),
        num_parameters=count_parameters(learner.network),
        device=describe_device(task.device),
        budget_seconds=schedule.budget_seconds,
        mean_dice=None if evaluation is None else evaluation.foreground_mean["dice"].mean,
    )


def _open(
    paths: Paths, plan: Plan, configuration: str, title: str, folder: Path, cases: Fold, options: TrainOptions
) -> Task:
    settings = plan.configurations[configuration]  # type: ignore[index]
    digest = store.digest(plan, configuration, read_record(paths.fingerprint, Fingerprint))
    previous_folds: list[Path] = []
    if settings.previous_stage is not None:
        numbers = range(len(read_record(paths.folds, Folds).folds))
        previous_folds = [paths.fold(plan.name, settings.previous_stage, str(number)) for number in numbers]
    return open_task(
        title,
        folder,
        plan,
        configuration,
        cases,
        read_record(paths.dataset, Dataset),
        paths.preprocessed(digest),
        previous_folds,
        settings.recipe.seed if options.seed is None else options.seed,
        choose_device(options.device),
    )


def _cases_of(paths: Paths, fold: str) -> Fold:
    """Cases to train on and to hold out; raises UsageError for a fold that does not exist."""
    if fold == ALL:
        return Fold(train=tuple(case.id for case in read_record(paths.dataset, Dataset).training), validation=())
    folds = read_record(paths.folds, Folds).folds
    if not fold.isdecimal() or int(fold) >= len(folds):
        raise UsageError(f"There is no fold {fold!r}; there are 0 to {len(folds) - 1}, and {ALL!r} for all cases.")
    return folds[int(fold)]


def _check_same_plan(folder: Path, plan: Plan, configuration: str) -> None:
    """Refuse to go on, or to call finished, what was begun with other values under the same name."""
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


def _read_schedule(folder: Path, options: TrainOptions) -> TrainingSchedule | None:
    """The schedule that an earlier call fixed; raises UsageError when other values are asked for now."""
    if not (folder / SCHEDULE).is_file():
        return None
    fixed = read_record(folder / SCHEDULE, TrainingSchedule, ModelError)
    asked = {
        "--epochs": (options.epochs, fixed.epochs),
        "--iterations": (options.iterations, fixed.iterations_per_epoch),
        "--seed": (options.seed, fixed.seed),
    }
    for option, (wanted, value) in asked.items():
        if wanted is not None and wanted != value:
            raise UsageError(
                f"{option} {wanted}: this training was begun with {value}. Call it without {option} to go on, "
                f"or delete {folder} to start anew."
            )
    console.say(f"going on with a training of {fixed.epochs} epochs of {fixed.iterations_per_epoch} steps")
    return fixed
