"""A plan and a device in, for people: about how long a step and the planned trainings take there, and where they will
hold their cases.

Nothing need be prepared for the times. A training measures its own steps before it begins (`training.probe`), which is
surer. Where the cases will be follows from the sizes of the preprocessed ones and from the memory that is free now.
"""

import math
from collections.abc import Mapping

import torch

from autoseg import console
from autoseg.devices import choose_device, describe_device
from autoseg.errors import UsageError
from autoseg.preprocessing import store
from autoseg.records.base import read_record
from autoseg.records.dataset import Folds
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Plan
from autoseg.records.results import Manifest
from autoseg.records.run import TrainingCount
from autoseg.records.workspace import Paths
from autoseg.training.step_time import STEP_TIME_ERROR, predict_step_time
from autoseg.training.task import planned_gpu_bytes, types_held
from autoseg.training.tiers import describe_tier, memory_bytes, tier_here


def describe_times(
    plan: Plan,
    counts: Mapping[str, TrainingCount],
    device: str,
    epochs: int | None = None,
    iterations: int | None = None,
    limit_seconds: float | None = None,
    until_plateau: bool = False,
) -> list[str]:
    """Lines with the time of a training step and of all trainings.

    Args:
        plan: has the configurations.
        counts: configuration -> its trainings (folds).
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`; measured for a second or two a configuration.
        epochs: instead of the plan's.
        iterations: steps an epoch instead of the plan's.
        limit_seconds: what all trainings together may take; None: no limit.
        until_plateau: whether trainings end earlier where they no longer gain.

    Returns:
        One line or more, whatever happens: that a time cannot be predicted is said, not raised.
    """
    if not any(count.left for count in counts.values()):
        return [f"Nothing is left to train: {_trainings(sum(count.done for count in counts.values()))} done already."]
    try:
        where = choose_device(device)
    except UsageError as error:  # a plan may be for another machine's GPU
        return [f"How long training takes is not predicted. {error}"]
    spread = f"+-{100 * STEP_TIME_ERROR:.0f} % on an idle machine"
    rows = [f"Predicted for {describe_device(where)}, {spread}, data not counted:"]
    seconds: list[float | None] = []
    for name, count in console.track(counts.items(), len(counts), "timing steps"):
        if not count.left:
            rows.append(f"  {name}: {_trainings(count.done)} done already")
            continue
        settings = plan.configurations[name]  # type: ignore[index]
        course = settings.recipe.schedule
        length = (epochs or course.epochs, iterations or course.iterations_per_epoch)
        told, taken = _describe_configuration(plan, name, count, where, length)
        rows.append(f"  {name}: {told}")
        seconds.append(taken)
    total = None if None in seconds else sum(filter(None, seconds))
    return [*rows, *_describe_end(total, limit_seconds, until_plateau)]


def describe_tiers(paths: Paths, plan: Plan, counts: Mapping[str, TrainingCount], device: str) -> list[str]:
    """Lines with where trainings will hold their cases, by the memory that is free now.

    Args:
        paths: of the dataset; the cases of the configurations are preprocessed.
        plan: has the configurations.
        counts: configuration -> its trainings (folds); those that have none left are passed over.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.

    Returns:
        Nothing where no training is left, or the device is of another machine, which `describe_times` says.
    """
    names = [name for name, count in counts.items() if count.left]
    try:
        where = choose_device(device)
        rows = [f"  {name}: {_describe_cases(paths, plan, name, where)}" for name in names]
    except UsageError:
        return []
    except RuntimeError as error:  # a GPU that others fill must not end what is done already
        return [f"Where trainings will hold their cases is not predicted: {str(error).splitlines()[0]}"]
    return ["Cases of the largest fold, with the memory that is free now:", *rows] if rows else []


def _describe_cases(paths: Paths, plan: Plan, name: str, where: torch.device) -> str:
    """Where a training of a configuration will hold its cases, for the fold that has most voxels to train on."""
    settings = plan.configurations[name]  # type: ignore[index]
    folder = paths.preprocessed(store.digest(plan, name, read_record(paths.fingerprint, Fingerprint)))
    cases = read_record(folder / store.MANIFEST, Manifest).cases
    folds = [fold.train for fold in read_record(paths.folds, Folds).folds] or [tuple(cases)]
    held, num_maps = types_held(settings, plan.labels), 1 if settings.previous_stage is None else 2
    sizes = []
    for fold in folds:
        shapes = [cases[case].shape for case in fold if case in cases]  # a training refuses what it lacks
        sizes.append((memory_bytes(shapes, len(plan.channel_names), num_maps, held), len(shapes)))
    num_bytes, num_cases = max(sizes)
    choice = tier_here(num_bytes, where, planned_gpu_bytes(plan.planned_for))
    return describe_tier(choice, num_cases, num_bytes, held, where)


def _describe_configuration(
    plan: Plan, name: str, count: TrainingCount, where: torch.device, length: tuple[int, int]
) -> tuple[str, float | None]:
    """About one configuration, for people, and the seconds of its trainings; None where they cannot be predicted.

    Args:
        plan: has the configuration.
        name: of the configuration.
        count: of its trainings; some are left.
        where: they are made.
        length: epochs, and steps an epoch.
    """
    try:
        step = predict_step_time(plan.configurations[name], plan.labels, len(plan.channel_names), where)  # type: ignore[index]
    except Exception as error:  # an installed network, or a GPU that others fill, must not end what is done already
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        return f"the time of a step cannot be predicted here: {first_line}", None
    if step is None:
        return "the time of a step cannot be predicted for this loss or network", None
    one = math.prod(length) * step.seconds
    return (
        f"about {step.seconds:.2g} s a step ({step.precision}), {console.duration(one)} for {length[0]} epochs of "
        f"{length[1]} steps, {console.duration(count.left * one)} for {_trainings(count.left)}"
        + (f" ({count.done} more done already)" if count.done else "")
    ), count.left * one


def _trainings(count: int) -> str:
    return "1 training" if count == 1 else f"{count} trainings"


def _describe_end(total_seconds: float | None, limit_seconds: float | None, until_plateau: bool) -> list[str]:
    """What ends the trainings before their planned length, if anything does."""
    limit = "" if limit_seconds is None else console.duration(limit_seconds)
    if not until_plateau:
        return [f"  they are fitted into the budget, which leaves {limit} for them"] if limit else []
    if not limit and total_seconds is None:
        return ["  how long it takes is open: each training ends at its plateau, or when all epochs are done"]
    most = limit or f"about {console.duration(total_seconds or 0.0)}, if all epochs are needed"
    return [f"  how long it takes is open: each training ends at its plateau; at most {most}"]
