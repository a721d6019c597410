"""The demo, the benchmark and the comparison of ways against false positives: whole runs made to be looked at.

The demo writes its own dataset and cross-validates two configurations on two folds, every stage for real.
The benchmark cross-validates Decathlon-format folders at a stated budget beside published values. The comparison
trains what is missing of the ways it compares only when asked to.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoseg import console
from autoseg.datasets.phantoms import write_phantoms
from autoseg.errors import DataError, ModelError, PartialError, UsageError
from autoseg.pipeline import plan as planning
from autoseg.pipeline.benchmark import BenchmarkTable, tabulate
from autoseg.pipeline.compare_fp import base_configuration, compare_false_positives, rivals
from autoseg.pipeline.flow import PrepareOptions, RunOptions, prepare, run_dataset
from autoseg.pipeline.ingest import ingest
from autoseg.pipeline.trainings import TrainRequest, fold_names, train_jobs, wanted_configurations
from autoseg.planning.presets import resolve_preset
from autoseg.records.false_positives import FalsePositiveComparison
from autoseg.records.plan import Plan
from autoseg.records.postprocessing import LearningSettings
from autoseg.records.run import RunResult
from autoseg.records.workspace import Paths

DEMO_CASES = 12
DEMO_BUDGET_SECONDS = 270.0
"""Of which four trainings get four minutes: with the drawing of the data the demo stays under six on two CPU cores."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """What the command `benchmark` asks for."""

    budget_seconds: float
    configurations: tuple[str, ...] | None = None
    folds: tuple[int, ...] | None = None
    preset: str = "auto"
    gpu_memory_gib: float | None = None
    reference: Path | None = None
    output: Path | None = None
    seed: int | None = None
    device: str = "auto"
    device_kind: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """What the command `compare-fp` asks for."""

    configuration: str | None = None
    """Whose false positives; None: the selected one's."""
    train: bool = False
    """Whether ways that are not trained yet are trained; the other options but `plan_name` are for that."""
    budget_seconds: float | None = None
    epochs: int | None = None
    iterations: int | None = None
    seed: int | None = None
    plan_name: str | None = None
    device: str = "auto"
    started_seconds: float = field(default_factory=time.monotonic)
    """Value of `time.monotonic()` from which the budget counts."""
    learning: LearningSettings = field(default_factory=LearningSettings)
    """By what rules and classifiers choose their thresholds, and when a component is true."""


def run_demo(workspace: Path, *, seed: int, device: str) -> RunResult:
    """Write phantoms into the workspace, one dataset a seed, and do everything with them."""
    from autoseg.devices import choose_device

    kind = choose_device(device).type
    data = workspace / "demo_data" / ("Phantoms" if seed == 0 else f"Phantoms_seed{seed}")
    if not (data / "dataset.json").is_file():
        console.say(f"writing {DEMO_CASES} phantoms to {data}")
    write_phantoms(data, num_cases=DEMO_CASES, seed=seed)
    options = RunOptions(
        prepare=PrepareOptions(configurations=("2d", "3d_fullres"), num_folds=2, device_kind=kind),
        budget_seconds=DEMO_BUDGET_SECONDS,
        seed=seed,
        device=device,
    )
    return run_dataset(str(data), workspace, options)


def run_benchmark(folders: Sequence[str], workspace: Path, options: BenchmarkOptions) -> BenchmarkTable:
    """Train the wanted folds of every dataset within the budget of each, and tabulate held-out scores.

    Raises:
        PartialError: some datasets could not be used, and are named; the table of the others is written.
    """
    from autoseg.devices import choose_device

    choose_device(options.device)
    done: list[tuple[Paths, Plan, list[str]]] = []
    failed: dict[str, str] = {}
    for folder in folders:
        try:
            done.append(_cross_validate(folder, workspace, options))
        except (DataError, ModelError, UsageError) as error:
            if len(folders) == 1:
                raise
            console.warn(f"{folder} is left out: {error}")
            failed[folder] = str(error)
    reasons = "\n".join(f"  {folder}: {reason}" for folder, reason in failed.items())
    if not done:
        raise DataError(f"None of the datasets could be used:\n{reasons}")
    table = tabulate(
        done,
        budget_seconds=options.budget_seconds,
        folds=_fold_names(options),
        reference=options.reference,
        output=options.output,
    )
    if failed:
        where = table.folder / "benchmark.md"
        raise PartialError(f"{len(failed)} of {len(folders)} datasets are not in {where}:\n{reasons}")
    return table


def _cross_validate(folder: str, workspace: Path, options: BenchmarkOptions) -> tuple[Paths, Plan, list[str]]:
    """Train the wanted folds of one dataset; a plan for another memory has another name, so neither takes the other."""
    gib = options.gpu_memory_gib
    preset = resolve_preset(options.preset, options.device_kind, gib)
    prepared = PrepareOptions(
        preset=preset,
        plan_name=None if gib is None else f"{preset}_{gib:g}gib",
        configurations=options.configurations,
        gpu_memory_gib=gib,
        device_kind=options.device_kind,
    )
    request = RunOptions(
        prepare=prepared, budget_seconds=options.budget_seconds, seed=options.seed, device=options.device
    )
    paths, plan = prepare(folder, workspace, prepared)
    names = wanted_configurations(plan, options.configurations)
    jobs = [(name, fold) for name in names for fold in _fold_names(options) or fold_names(paths)]
    train_jobs(paths, plan, jobs, request)
    return paths, plan, names


def _fold_names(options: BenchmarkOptions) -> list[str] | None:
    return [str(fold) for fold in options.folds] if options.folds else None


def run_comparison(source: str, workspace: Path, options: CompareOptions) -> FalsePositiveComparison:
    """Compare the ways of reducing a configuration's false positives; with `train`, train first what is missing."""
    from autoseg.devices import choose_device

    paths = ingest(source, workspace)
    plan = planning.choose_plan(paths, options.plan_name, choose_device(options.device).type)
    base = base_configuration(paths, plan, options.configuration)
    if options.train:
        plan = _train_rivals(paths, plan, base, options)
    return compare_false_positives(paths, plan, base, options.learning)


def _train_rivals(paths: Paths, plan: Plan, base: str, options: CompareOptions) -> Plan:
    """Train the base and every way that needs a training, as far as they are missing; returns the plan with them."""
    from autoseg.pipeline.preprocess import preprocess

    if rivals(plan, base)["second_label"] is not None:
        plan, _ = planning.add_distractors(paths, plan, base)
    names = wanted_configurations(plan, [base, *(name for name in rivals(plan, base).values() if name is not None)])
    preprocess(paths, plan, names)
    request = TrainRequest(
        configuration=base,
        budget_seconds=options.budget_seconds,
        epochs=options.epochs,
        iterations=options.iterations,
        seed=options.seed,
        device=options.device,
        started_seconds=options.started_seconds,
    )
    train_jobs(paths, plan, [(name, fold) for name in names for fold in fold_names(paths)], request)
    return plan
