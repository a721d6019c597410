"""The folds that are asked for in, trained in the order that they need one another, out.

Like `flow` it calls stages and knows their order; none of them knows another.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoseg.errors import UsageError
from autoseg.pipeline import plan as planning
from autoseg.pipeline.ingest import ingest
from autoseg.planning.distractors import plan_distractors
from autoseg.records.base import read_record
from autoseg.records.dataset import Folds
from autoseg.records.distractors import SUFFIX
from autoseg.records.plan import Plan
from autoseg.records.results import TrainedFold
from autoseg.records.run import TrainingCount
from autoseg.records.workspace import Paths

# A cascade is trained on its previous stage's held-out predictions, and distractors are those of their base: what is
# learned from comes first.
_BASES = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")
_TRAINING_ORDER = (*_BASES, *(name + SUFFIX for name in _BASES))


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """How one or several folds are trained."""

    until_plateau: bool = False
    """Whether trainings end when their watched cases no longer gain."""
    budget_seconds: float | None = None
    """Of all of them together."""
    epochs: int | None = None
    iterations: int | None = None
    seed: int | None = None
    device: str = "auto"
    started_seconds: float = field(default_factory=time.monotonic)
    """Value of `time.monotonic()` from which the budget counts."""


@dataclass(frozen=True, kw_only=True)
class TrainRequest(JobOptions):
    """What the command `train` asks for. `fold` None: every fold in turn, and the budget is shared by all."""

    configuration: str
    fold: str | None = None
    plan_name: str | None = None
    distractors: bool = False
    """Whether the configuration is fine-tuned with its own false positives as a class."""
    start: Path | None = None
    """A packed model (zip), a model's folder or that of one of its folds, whose weights are fine-tuned."""
    cooldown: bool = False
    """Whether the training of the fold, running or stopped, is to cool down from now on."""


def wanted_configurations(plan: Plan, names: Sequence[str] | None) -> list[str]:
    """The named configurations (default: all of the plan) in the order in which they must be trained.

    A cascade brings its previous stage with it, a configuration with distractors its base.

    Raises:
        UsageError: a name is not in the plan.
    """
    unknown = [name for name in names or () if name not in plan.configurations]
    if unknown:
        known = ", ".join(plan.configurations)
        raise UsageError(f"Plan {plan.name} has no configuration {', '.join(unknown)}; it has {known}.")
    needed = set(names or plan.configurations)
    for name in reversed(_TRAINING_ORDER):  # what is needed comes before what needs it
        if name in needed:
            settings = plan.configurations[name]  # type: ignore[index]
            base = settings.recipe.distractors and settings.recipe.distractors.base
            needed |= {earlier for earlier in (settings.previous_stage, base) if earlier}
    return [name for name in _TRAINING_ORDER if name in needed]


def train_folds(source: str, workspace: Path, request: TrainRequest) -> list[TrainedFold]:
    """Train the requested fold, or all folds in turn with the time that is left shared equally.

    Returns:
        What was trained; nothing where a running training was asked to cool down.
    """
    from autoseg.devices import choose_device

    paths = ingest(source, workspace)
    plan = planning.choose_plan(paths, request.plan_name, choose_device(request.device).type)
    wanted_configurations(plan, [request.configuration])
    configuration = request.configuration
    if request.distractors and request.start is not None:
        raise UsageError("--distractors refines the configuration's own weights: leave --from out.")
    if request.distractors:
        plan, configuration = _with_distractors(paths, plan, configuration)
    folds = [request.fold] if request.fold is not None else fold_names(paths)
    if request.cooldown and _cools_down(paths, plan, configuration, request.fold):
        return []
    jobs = [(configuration, fold) for fold in folds]
    return train_jobs(paths, plan, jobs, request, request.start)


def _cools_down(paths: Paths, plan: Plan, configuration: str, fold: str | None) -> bool:
    """Ask the training of a fold to cool down; whether a running process will see to it."""
    from autoseg.pipeline.train import request_cooldown

    if fold is None:
        raise UsageError("--cooldown is for the training of one fold: name it, for example 0.")
    return request_cooldown(paths, plan, configuration, fold)


def _with_distractors(paths: Paths, plan: Plan, configuration: str) -> tuple[Plan, str]:
    """The plan on disk with a configuration that learns distractors; raises UsageError if its base is not trained."""
    from autoseg.pipeline.train import check_base

    check_base(paths, *plan_distractors(plan, configuration))
    return planning.add_distractors(paths, plan, configuration)


def fold_names(paths: Paths) -> list[str]:
    """The cross-validation folds of a dataset, as the commands name them; `all` alone where no case can be held out."""
    return [str(number) for number in range(len(read_record(paths.folds, Folds).folds))] or ["all"]


def count_trainings(paths: Paths, plan: Plan, configurations: Sequence[str]) -> dict[str, TrainingCount]:
    """Configuration -> how many of its folds' trainings are to be made, and how many are done."""
    from autoseg.pipeline.train import is_trained

    folds = fold_names(paths)
    done = {name: sum(is_trained(paths, plan, name, fold) for fold in folds) for name in configurations}
    return {name: TrainingCount(left=len(folds) - number, done=number) for name, number in done.items()}


def train_jobs(
    paths: Paths, plan: Plan, jobs: Sequence[tuple[str, str]], request: JobOptions, start: Path | None = None
) -> list[TrainedFold]:
    """Train every (configuration, fold), from the weights in `start` if given; each gets an equal share of what is left
    of the budget when it begins."""
    from autoseg.pipeline.train import TrainOptions, is_trained, train

    trained = []
    num_waiting = sum(not is_trained(paths, plan, *job) for job in jobs)
    for configuration, fold in jobs:
        now = time.monotonic()
        share = None
        if request.budget_seconds is not None:
            share = max(request.budget_seconds - (now - request.started_seconds), 1.0) / max(num_waiting, 1)
        options = TrainOptions(
            epochs=request.epochs,
            iterations=request.iterations,
            seed=request.seed,
            budget_seconds=share,
            until_plateau=request.until_plateau,
            device=request.device,
            start=start,
            started_seconds=now,
        )
        num_waiting -= not is_trained(paths, plan, configuration, fold)
        trained.append(train(paths, plan, configuration, fold, options))
    return trained
