"""A time budget and the measured cost of steps and validation (`probe`) in, the schedule that fits it out.

The number of steps is fixed once and written down: a machine that becomes slower later makes the training
longer, never different. So a margin is kept: steps are planned for `STEP_SHARE` of the time they could have.
"""

import math
import time

from autoseg import console
from autoseg.devices import describe_device
from autoseg.planning.step_cost import Kind, need_of_configuration
from autoseg.records.recipe import Schedule
from autoseg.training.probe import Costs, measure_costs, warm_learner
from autoseg.training.schedule import TrainingSchedule, TrainOptions
from autoseg.training.task import Task

STEP_SHARE = 0.95
"""Share of the time for steps that is planned with. In 24 trainings of one to twenty minutes on one and two CPU threads
a step took on average between 0.94 and 1.06 of what was measured before (docs/experiments.md); on a machine that others
use as well it may take any time."""
_EPOCH_SECONDS = 60.0
_MIN_EPOCHS = 50  # of a budget's training, so that poly's last rate is near zero
_FEW_EPOCHS = 10  # with fewer, poly's last rate is above an eighth of its first
_CHECKPOINT_SHARE = 0.03
_CLOSING_SECONDS = 2.0  # curve, final weights, records
_VALIDATION_MARGIN = 1.1
_WHERE = {"device": "the device's memory", "memory": "main memory", "disk": "files"}


def decide_schedule(task: Task, options: TrainOptions, started: float) -> TrainingSchedule:
    """Measure, fix the course of the training, and tell the user about it.

    Args:
        task: to be trained.
        options: what was asked for.
        started: `time.monotonic()` at which the budget began.
    """
    budget = options.budget_seconds
    learner = warm_learner(task)
    costs = measure_costs(task, learner, budget)
    left = None if budget is None else budget - (time.monotonic() - started)
    epochs, iterations = fit_length(task.configuration.recipe.schedule, options, costs, left)
    source = task.sampler.source
    console.say(
        f"{task.title}: {len(source.cases)} cases in {_WHERE[source.tier]}, {learner.precision} on "
        f"{describe_device(task.device)}"
    )
    kind: Kind = "cuda" if task.device.type == "cuda" else "cpu"
    need = need_of_configuration(task.configuration, task.plan.labels, len(task.plan.channel_names), kind)
    report_costs(costs, epochs * iterations, task.title, None if need is None else need.flops)
    return TrainingSchedule(
        epochs=epochs,
        iterations_per_epoch=iterations,
        seed=task.sampler.seed,
        precision=learner.precision,
        budget_seconds=budget,
        until_plateau=options.until_plateau or task.configuration.recipe.schedule.ends == "plateau",
        step_seconds=costs.step_seconds,
        validation_seconds=costs.validation_seconds,
        device=describe_device(task.device),
    )


def fit_length(recipe: Schedule, options: TrainOptions, costs: Costs, seconds_left: float | None) -> tuple[int, int]:
    """Epochs and iterations an epoch.

    Args:
        recipe: the plan's length, used without a budget.
        options: what was asked for; `epochs` and `iterations` are obeyed before all else.
        costs: measured.
        seconds_left: of the budget, from now to the end of the command; None without one.
    """
    iterations = options.iterations
    if seconds_left is None or (options.epochs and iterations):
        return options.epochs or recipe.epochs, iterations or recipe.iterations_per_epoch
    seconds = seconds_left - costs.validation_seconds * _VALIDATION_MARGIN - _CLOSING_SECONDS
    if seconds < costs.step_seconds:
        console.warn(
            f"The budget leaves {console.duration(max(seconds, 0))} for training beside a validation of about "
            f"{console.duration(costs.validation_seconds)}: one step is made, and the budget is exceeded."
        )
    if options.epochs:
        return options.epochs, max(1, _num_steps(seconds, options.epochs, costs) // options.epochs)
    if iterations:
        return _num_epochs(seconds, iterations, recipe, costs), iterations
    # Epochs of at most a minute, and enough of them for a smooth poly, but not so many that saving takes its toll.
    affordable = max(1, int(seconds * _CHECKPOINT_SHARE / max(costs.checkpoint_seconds, 1e-3)))
    epochs = min(max(math.ceil(seconds / _EPOCH_SECONDS), _MIN_EPOCHS), affordable, _num_steps(seconds, 0, costs))
    iterations = max(1, _num_steps(seconds, epochs, costs) // epochs)
    # What rounding the iterations down left over makes more epochs: of 70 seconds it was up to a fifth.
    return max(1, int(seconds / _epoch_seconds(iterations, costs))), iterations


def _num_steps(seconds: float, epochs: int, costs: Costs) -> int:
    """Steps that fit beside the checkpoints and looks of `epochs` epochs; at least one."""
    return max(1, int((seconds - epochs * costs.epoch_seconds) * STEP_SHARE / costs.step_seconds))


def _epoch_seconds(iterations: int, costs: Costs) -> float:
    """Of an epoch of so many steps with its checkpoint and looks, slower steps than measured included."""
    return iterations * costs.step_seconds / STEP_SHARE + costs.epoch_seconds


def _num_epochs(seconds: float, iterations: int, recipe: Schedule, costs: Costs) -> int:
    """Epochs of `iterations` steps and a checkpoint that fit; at least one. Too few for the recipe are warned of."""
    epoch_seconds = _epoch_seconds(iterations, costs)
    epochs = max(1, int(seconds / epoch_seconds))
    if epoch_seconds > seconds:
        console.warn(
            f"An epoch of {iterations} steps takes about {console.duration(epoch_seconds)}, the budget leaves "
            f"{console.duration(max(seconds, 0))}: one epoch is made, and the budget is exceeded. Ask for fewer "
            "--iterations, or for none."
        )
    elif recipe.name == "poly" and epochs < _FEW_EPOCHS:
        console.warn(
            f"The budget leaves {epochs} epochs of {iterations} steps, and poly lowers the learning rate once an "
            "epoch: it ends far above zero. Ask for fewer --iterations, or for none."
        )
    return epochs


def report_costs(costs: Costs, num_steps: int, title: str, flops: int | None) -> None:
    """Tell the user how long the training will take, what it needs, and how sure that is; `flops` are a step's."""
    speed = ""
    if flops is not None:
        speed = f" ({flops / 1e9:.3g} GFLOP, {flops / costs.step_seconds / 1e12:.2g} TFLOP/s)"
    training = num_steps * costs.step_seconds
    console.say(
        f"{title}: {num_steps} steps of {costs.step_seconds:.3g} s{speed}, "
        f"about {console.duration(training)} of training and "
        f"{console.duration(costs.validation_seconds)} of validation (+-{100 * costs.uncertainty:.0f} %, measured); "
        f"memory {costs.memory_bytes / 2**30:.1f} GiB, disk {costs.disk_bytes / 2**30:.2g} GiB at most"
    )
