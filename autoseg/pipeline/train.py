"""Preprocessed cases and a plan's configuration in, one trained and validated fold out.

    lock -> same plan as before? -> open cases -> schedule (measured and fixed once) -> train -> weights -> validate

Called again, it goes on where it stopped; `fold.json`, written last, says that nothing is left to do. Images
are not read for training itself, only to score the held-out cases.
"""

import time
from functools import partial

from autoseg import console
from autoseg.devices import choose_device, describe_device
from autoseg.errors import DataError, UsageError
from autoseg.inference.model import WEIGHTS
from autoseg.inference.model_card import write_card
from autoseg.networks.cost import count_parameters
from autoseg.preprocessing import store
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Dataset, Fold, Folds
from autoseg.records.distractors import DistractorCensus
from autoseg.records.fingerprint import Fingerprint, check_same_cases
from autoseg.records.plan import Plan
from autoseg.records.results import TrainedFold
from autoseg.records.workspace import Paths
from autoseg.storage import tensors
from autoseg.storage.locks import is_locked, locked
from autoseg.training.budget import decide_schedule
from autoseg.training.checkpoint import remove_checkpoints
from autoseg.training.compiling import undo_compilation
from autoseg.training.distractors import CENSUS, LEARNER
from autoseg.training.initial_weights import Start, find_start, report_start, start_of_base
from autoseg.training.learner import final_weights
from autoseg.training.loop import COOLDOWN_REQUEST, memory_errors, train_network
from autoseg.training.out_of_fold import find_out_of_fold
from autoseg.training.patch_growth import warn_of_idle_growth
from autoseg.training.provenance import learned_from, training_inputs
from autoseg.training.resuming import check_same_plan, read_schedule, trained_already, warn_of_another_device
from autoseg.training.schedule import SCHEDULE, TrainingSchedule, TrainOptions
from autoseg.training.stopping import StopRequest, listening_for_stop
from autoseg.training.task import Task, new_learner, open_task
from autoseg.training.validation import validate
from autoseg.training.watching import warn_of_few_looks, watched_dice

__all__ = ["TrainOptions", "is_trained", "request_cooldown", "train"]

_REMEDY = "Prepare the dataset first: `autoseg plan_and_preprocess DATASET`."
ALL = "all"
"""Name of the fold that trains on every case and holds none out."""


def is_trained(paths: Paths, plan: Plan, configuration: str, fold: str) -> bool:
    """Whether the fold is trained and validated."""
    return (paths.fold(plan.name, configuration, _fold_name(fold)) / "fold.json").is_file()


def request_cooldown(paths: Paths, plan: Plan, configuration: str, fold: str) -> bool:
    """Ask the training of a fold to cool down now; it takes note within seconds, or when it is called again.

    Returns:
        Whether a process is training it at this moment.

    Raises:
        UsageError: it was never begun.
    """
    fold = _fold_name(fold)
    folder = paths.fold(plan.name, configuration, fold)
    if not (folder / SCHEDULE).is_file():
        raise UsageError(f"{_title(configuration, fold)} cannot cool down: its training has not begun.")
    if is_trained(paths, plan, configuration, fold):
        return False
    (folder / COOLDOWN_REQUEST).touch()
    return is_locked(folder)


def train(
    paths: Paths, plan: Plan, configuration: str, fold: str, options: TrainOptions = TrainOptions()
) -> TrainedFold:
    """Train one fold and validate it on its held-out cases; go on where an earlier call stopped.

    Args:
        paths: of the dataset; its cases are preprocessed.
        plan: has the configuration.
        configuration: for example `3d_fullres`.
        fold: number of a cross-validation fold as text, or `all` to train on every case without validation.
        options: length, seed, budget, device and start, where they are not to be the plan's.

    Raises:
        UsageError: no such configuration or fold, other options than the fold was begun with, another process
            trains this fold, the dataset is not preprocessed, or the model to start from does not fit.
        DataError: the dataset's cases changed since it was preprocessed, or a preprocessed file is damaged.
        ModelError: no checkpoint is whole, the fold was begun with another plan, other cases or other data, or the
            loss is not finite.
        ResourceError: memory or disk are full.
        Preempted, KeyboardInterrupt: a signal asked to stop; the same call goes on.
    """
    started = time.monotonic() if options.started_seconds is None else options.started_seconds
    fold = _fold_name(fold)
    title, folder = _title(configuration, fold), paths.fold(plan.name, configuration, fold)
    if configuration not in plan.configurations:
        known = ", ".join(plan.configurations)
        raise UsageError(f"Plan {plan.name} has no configuration {configuration}; it has {known}.")
    cases = _cases_of(paths, fold)
    with locked(folder, f"training {title}"), listening_for_stop() as stop, memory_errors(title):
        check_same_plan(folder, plan, configuration)
        fingerprint = read_record(paths.fingerprint, Fingerprint, remedy=_REMEDY)
        inputs = training_inputs(paths, plan, configuration, fingerprint, (*cases.train, *cases.validation))
        start = _find_start(plan, configuration, fold, cases, options)
        inputs = inputs.model_copy(update={"origin": None if start is None else start.origins[-1].weights})
        if is_trained(paths, plan, configuration, fold):
            return trained_already(folder, title, cases, inputs, options)
        schedule = read_schedule(folder, cases, inputs, options)
        seed = _seed(plan, configuration, options, schedule)
        if schedule is None and options.until_plateau:
            check_can_plateau(plan, configuration)
        task = _open(paths, plan, configuration, fold, cases, fingerprint, options, start, seed)
        stop.raise_if_asked(title)
        if start is not None:
            report_start(start, plan, task.configuration, title)
        if task.census is not None:
            write_record(folder / CENSUS, task.census)
            _report_distractors(task.census, title)
        if schedule is None:
            warn_of_idle_growth(task.sampler, task.configuration.recipe)
            schedule = decide_schedule(task, options, started).model_copy(update={"cases": cases, "inputs": inputs})
            if schedule.until_plateau:
                warn_of_few_looks(schedule.epochs, task.configuration.recipe.watch)
            write_record(folder / "plan.json", plan)
            write_record(folder / SCHEDULE, schedule)
        else:
            warn_of_another_device(title, schedule, task.device)
        record = _train_and_validate(task, schedule, configuration, fold, stop)
        write_record(folder / "fold.json", record)
        write_card(folder.parent)
        remove_checkpoints(folder)
    score = "" if record.mean_dice is None else f", mean Dice {record.mean_dice:.4f} on whole held-out volumes"
    budget = "" if schedule.budget_seconds is None else f" (budget {console.duration(schedule.budget_seconds)})"
    console.say(f"{title}: done in {console.duration(time.monotonic() - started)}{budget}{score}")
    return record


def _train_and_validate(
    task: Task, schedule: TrainingSchedule, configuration: str, fold: str, stop: StopRequest
) -> TrainedFold:
    learner = new_learner(task, schedule.precision)
    look = partial(watched_dice, validator=task.validator, cases=task.watched) if task.watched else None
    history = train_network(learner, task.sampler, schedule, task.folder, stop, task.title, look)
    undo_compilation(learner.network)
    weights = final_weights(learner)
    learner.network.load_state_dict(weights)
    about = {"plan": task.plan.name, "configuration": configuration, "fold": fold, "steps": history[-1].steps}
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
        watched_cases=task.watched,
        epochs=len(history),
        iterations_per_epoch=schedule.iterations_per_epoch,
        seconds=sum(epoch.seconds for epoch in history),
        num_parameters=count_parameters(learner.network),
        device=describe_device(task.device),
        budget_seconds=schedule.budget_seconds,
        mean_dice=None if evaluation is None else evaluation.foreground_mean["dice"].mean,
        origins=() if task.start is None else task.start.origins,
    )


def _open(
    paths: Paths,
    plan: Plan,
    configuration: str,
    fold: str,
    cases: Fold,
    fingerprint: Fingerprint,
    options: TrainOptions,
    start: Start | None,
    seed: int,
) -> Task:
    settings = plan.configurations[configuration]  # type: ignore[index]
    dataset = read_record(paths.dataset, Dataset, remedy=_REMEDY)
    check_same_cases(fingerprint, (case.id for case in dataset.training), dataset.name)
    if settings.recipe.distractors is not None:
        start = _start_of_base(paths, plan, configuration, settings.recipe.distractors.base, fold)
    prepared = paths.preprocessed(store.digest(plan, configuration, fingerprint))
    if not (prepared / store.MANIFEST).is_file():
        raise UsageError(
            f"The cases are not preprocessed for {configuration} of plan {plan.name}. Next: autoseg preprocess "
            f"{paths.folder.name} --plan {plan.name} -c {configuration}"
        )
    return open_task(
        _title(configuration, fold),
        paths.fold(plan.name, configuration, fold),
        plan,
        configuration,
        cases,
        dataset,
        prepared,
        learned_from(paths, plan, configuration),
        start,
        seed,
        choose_device(options.device),
    )


def _seed(plan: Plan, configuration: str, options: TrainOptions, schedule: TrainingSchedule | None) -> int:
    """The seed that the training was begun with, else the one asked for, else the plan's."""
    if schedule is not None:
        return schedule.seed
    planned = plan.configurations[configuration].recipe.seed  # type: ignore[index]
    return planned if options.seed is None else options.seed


def _find_start(plan: Plan, configuration: str, fold: str, cases: Fold, options: TrainOptions) -> Start | None:
    """The other model's weights to start from, where one was named."""
    if options.start is None:
        return None
    distractors = plan.configurations[configuration].recipe.distractors  # type: ignore[index]
    if distractors is not None:
        raise UsageError(
            f"{configuration} starts from the weights of {distractors.base}; fine-tune that one from another model "
            "instead, and train it with distractors then."
        )
    return find_start(options.start, plan, configuration, fold, cases)


def _start_of_base(paths: Paths, plan: Plan, configuration: str, base: str, fold: str) -> Start:
    """The weights that a training with distractors refines."""
    refined = paths.fold(plan.name, base, fold)
    for trained in (refined, *learned_from(paths, plan, configuration).base):
        check_same_plan(trained, plan, base)
    return start_of_base(refined)


def check_can_plateau(plan: Plan, configuration: str) -> None:
    """Raise UsageError where a training cannot end at its plateau: the rate is not constant, or no case is watched."""
    recipe = plan.configurations[configuration].recipe  # type: ignore[index]
    if recipe.schedule.name != "wsd" or not recipe.watch.cases:
        raise UsageError(
            "--budget auto trains at a constant rate until the Dice of watched cases no longer rises. "
            f"{configuration} of the plan {plan.name} has the schedule {recipe.schedule.name} and watches "
            f"{recipe.watch.cases} cases; plan it so: autoseg plan DATASET --name auto --set "
            "all.recipe.schedule.name=wsd --set all.recipe.watch.cases=4"
        )


def check_base(paths: Paths, plan: Plan, configuration: str) -> None:
    """Raise UsageError unless all folds are trained whose false positives `configuration` is taught."""
    find_out_of_fold(learned_from(paths, plan, configuration).base, (), LEARNER)


def _report_distractors(census: DistractorCensus, title: str) -> None:
    """Say what there is to learn from."""
    having = sum(case.components > 0 for case in census.cases.values())
    if having:
        counted = f"{census.num_components} false-positive components in {having} of {len(census.cases)} training cases"
        console.say(f"{title}: {counted} are taught as distractors")
    else:
        console.warn(
            f"{title}: no training case has a false-positive component out of fold, so there is no distractor to "
            "learn; the network is only trained on."
        )


def _title(configuration: str, fold: str) -> str:
    return f"{configuration} fold {fold}"


def _fold_name(fold: str) -> str:
    """The one way in which a fold is written: `00` and `0` are the same fold and have one folder."""
    return str(int(fold)) if fold.isdecimal() else fold


def _cases_of(paths: Paths, fold: str) -> Fold:
    """Cases to train on and to hold out; raises UsageError for a fold that does not exist."""
    known = tuple(case.id for case in read_record(paths.dataset, Dataset, remedy=_REMEDY).training)
    if fold == ALL:
        return Fold(train=known, validation=())
    folds = read_record(paths.folds, Folds, remedy=_REMEDY).folds
    if not fold.isdecimal() or int(fold) >= len(folds):
        numbers = f"there are 0 to {len(folds) - 1}, and" if folds else "the cases are too few for folds, there is"
        raise UsageError(f"There is no fold {fold!r}; {numbers} {ALL!r} for all cases.")
    cases = folds[int(fold)]
    if unknown := sorted({*cases.train, *cases.validation} - set(known)):
        raise DataError(
            f"{paths.folds}, fold {fold}: no such training cases: {', '.join(unknown[:10])}. Delete the file to have "
            "the cases divided anew."
        )
    return cases
