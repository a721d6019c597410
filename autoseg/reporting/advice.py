"""What exists of a dataset's stages in, the commands that made it and those that would go further out."""

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata

from autoseg.console import duration
from autoseg.records.dataset import Dataset
from autoseg.records.distractors import SUFFIX
from autoseg.records.plan import Plan
from autoseg.records.results import Evaluation, Selection, TrainedFold
from autoseg.reporting.describe import Runs
from autoseg.reporting.html import Fact

_PACKAGES = ("autoseg-medical", "torch", "numpy", "scipy", "SimpleITK", "nibabel")


def headline(
    dataset: Dataset, runs: Mapping[str, Runs], selection: Selection | None, evaluation: Evaluation | None
) -> tuple[Fact, ...]:
    """The few numbers at the top of the page; `evaluation` is the best configuration's."""
    finished = [run for plan in runs.values() for folds in plan.values() for run, _ in folds.values() if run]
    facts = [
        Fact(str(len(dataset.training)), "training cases"),
        Fact(str(len(dataset.labels.targets)), "regions" if dataset.labels.has_regions else "classes"),
        Fact(str(len(finished)), "trained folds"),
    ]
    if finished:
        facts.append(Fact(duration(sum(run.seconds for run in finished)), "of training"))
    if selection is not None and selection.candidates and selection.candidates[0].dice.mean is not None:
        facts.append(Fact(f"{selection.candidates[0].dice.mean:.3f}", "mean Dice, chosen model"))
    elif evaluation is not None and (mean := evaluation.foreground_mean["dice"].mean) is not None:
        facts.append(Fact(f"{mean:.3f}", "mean Dice, best so far"))
    return tuple(facts)


def commands_of_making(
    dataset: Dataset, plans: Sequence[Plan], runs: Mapping[str, Runs], selection: Selection | None, num_folds: int
) -> list[tuple[str, str]]:
    """Commands that make the same again: (command, why). Edits of a plan by hand are in the plan file."""
    commands = []
    for plan in plans:
        commands.append((f"autoseg plan_and_preprocess {dataset.name} --preset {plan.preset} --name {plan.name}", ""))
        for configuration, folds in runs[plan.name].items():
            lengths = {fold: _length(run) for fold, (run, _) in folds.items()}
            if len(folds) == num_folds and "all" not in folds and len(set(lengths.values())) == 1:
                lengths = {"": next(iter(lengths.values()))}  # one command trains every fold in turn
            for fold, length in lengths.items():
                base, is_second = configuration.removesuffix(SUFFIX), configuration.endswith(SUFFIX)
                where = " ".join(part for part in (dataset.name, base, fold) if part)
                option = " --distractors" if is_second else ""
                commands.append((f"autoseg train {where} --plan {plan.name}{option}{length}", ""))
    if selection is not None:
        commands.append((f"autoseg select {dataset.name} --plan {selection.plan}", ""))
    return commands


def facts_of_making(plans: Sequence[Plan], runs: Mapping[str, Runs]) -> list[tuple[str, str]]:
    """Devices of training and versions of the software that made the page."""
    trained = [run for plan in runs.values() for folds in plan.values() for run, _ in folds.values() if run]
    devices = sorted({run.device for run in trained})
    budgets = sorted({run.budget_seconds for run in trained if run.budget_seconds})
    facts = [("Plan for", ", ".join(f"{plan.name}: {plan.planned_for}" for plan in plans) or "none yet")]
    if devices:
        facts.append(("Trained on", ", ".join(devices)))
    if budgets:
        facts.append(("Budget of a fold", ", ".join(dict.fromkeys(duration(seconds) for seconds in budgets))))
    facts.append(("Python", platform.python_version()))
    return [*facts, *installed_versions(_PACKAGES).items()]


def next_steps(
    dataset: Dataset,
    plans: Sequence[Plan],
    runs: Mapping[str, Runs],
    selection: Selection | None,
    num_predictions: int,
) -> list[tuple[str, str]]:
    """What to do now, most useful first: (command, why)."""
    name = dataset.name
    if not plans:
        return [(f"autoseg plan_and_preprocess {name}", "Measure the dataset, make a plan and preprocess the cases:")]
    waiting = [
        (plan.name, configuration)
        for plan in plans
        for configuration in plan.configurations
        if not any(run for run, _ in runs[plan.name].get(configuration, {}).values())
    ]
    steps = [
        (f"autoseg train {name} {configuration} --plan {plan}", "Not trained yet:") for plan, configuration in waiting
    ]
    if len(waiting) == sum(len(plan.configurations) for plan in plans):
        return steps
    held_out = any(
        run.validation_cases
        for run_of in runs.values()
        for folds in run_of.values()
        for run, _ in folds.values()
        if run
    )
    if selection is None and held_out:
        return [(f"autoseg select {name}", "Compare what is trained and choose:"), *steps]
    if dataset.test and not num_predictions:
        steps.insert(0, (f"autoseg predict -i IMAGES -o OUT {name}", "Segment the test cases:"))
    steps.append((f"autoseg predict -i IMAGES -o OUT {name}", "Segment other images with the chosen model:"))
    return list(dict.fromkeys(steps))


def _length(run: TrainedFold | None) -> str:
    return "" if run is None else f" --epochs {run.epochs} --iterations {run.iterations_per_epoch}"


def installed_versions(packages: Sequence[str]) -> dict[str, str]:
    """Package -> installed version, `not installed` for one that runs from a source folder."""
    return {package: _version(package) for package in packages}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
