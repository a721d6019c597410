"""A plan and a device in, for people: about how long a step and the planned trainings take there.

Nothing need be prepared for it. A training measures its own steps before it begins (`training.budget`), which is surer.
"""

from collections.abc import Mapping

from autoseg import console
from autoseg.devices import choose_device, describe_device
from autoseg.records.plan import Plan
from autoseg.training.step_time import STEP_TIME_ERROR, predict_step_time


def describe_times(
    plan: Plan,
    num_trainings: Mapping[str, int],
    device: str,
    epochs: int | None = None,
    iterations: int | None = None,
    limit_seconds: float | None = None,
    until_plateau: bool = False,
) -> list[str]:
    """Lines with the time of a training step and of all trainings.

    Args:
        plan: has the configurations.
        num_trainings: configuration -> trainings (folds) that are still to be made.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; measured for about a second a configuration.
        epochs: instead of the plan's.
        iterations: steps an epoch instead of the plan's.
        limit_seconds: what all trainings together may take; None: no limit.
        until_plateau: whether trainings end earlier where they no longer gain.
    """
    where = choose_device(device)
    rows, total = [f"Predicted for {describe_device(where)}, +-{100 * STEP_TIME_ERROR:.0f} %, data not counted:"], 0.0
    for name, number in num_trainings.items():
        settings = plan.configurations[name]  # type: ignore[index]
        step = predict_step_time(settings, plan.labels, len(plan.channel_names), where)
        if step is None:
            rows.append(f"  {name}: the time of a step cannot be predicted for this loss or network")
            continue
        course = settings.recipe.schedule
        num_epochs, per_epoch = epochs or course.epochs, iterations or course.iterations_per_epoch
        seconds = num_epochs * per_epoch * step.seconds
        total += number * seconds
        rows.append(
            f"  {name}: about {step.seconds:.2g} s a step ({step.precision}), {console.duration(seconds)} for "
            f"{num_epochs} epochs of {per_epoch} steps, {console.duration(number * seconds)} for {number} "
            + ("training" if number == 1 else "trainings")
        )
    limit = "" if limit_seconds is None else console.duration(limit_seconds)
    if until_plateau:
        most = limit or f"about {console.duration(total)}, if all epochs are needed"
        rows.append(f"  how long it takes is open: each training ends at its plateau; at most {most}")
    elif limit:
        rows.append(f"  they are fitted into the budget, which leaves {limit} for them")
    return rows
