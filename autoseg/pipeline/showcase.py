"""The demo and the benchmark: whole runs made to be looked at.

The demo writes its own dataset and cross-validates two configurations on two folds, every stage for real.
The benchmark cross-validates Decathlon-format folders at a stated budget beside published values.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg import console
from autoseg.datasets.phantoms import write_phantoms
from autoseg.pipeline.benchmark import BenchmarkTable, tabulate
from autoseg.pipeline.flow import (
    PrepareOptions,
    RunOptions,
    RunResult,
    TrainRequest,
    fold_names,
    prepare,
    run_dataset,
    train_folds,
    wanted_configurations,
)

DEMO_CASES = 12
DEMO_TRAINING_SECONDS = 240.0
"""Four trainings in four minutes: with data, selection and report the demo stays under six on two CPU cores."""


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


def run_demo(workspace: Path, *, seed: int, device: str) -> RunResult:
    """Write phantoms into the workspace and do everything with them."""
    from autoseg.devices import choose_device

    data = workspace / "demo_data" / "Phantoms"
    if not (data / "dataset.json").is_file():
        console.say(f"writing {DEMO_CASES} phantoms to {data}")
        write_phantoms(data, num_cases=DEMO_CASES, seed=seed)
    kind = choose_device(device).type
    options = RunOptions(
        prepare=PrepareOptions(configurations=("2d", "3d_fullres"), num_folds=2, device_kind=kind),
        budget_seconds=DEMO_TRAINING_SECONDS,
        device=device,
    )
    return run_dataset(str(data), workspace, options)


def run_benchmark(folders: Sequence[str], workspace: Path, options: BenchmarkOptions) -> BenchmarkTable:
    """Train the wanted folds of every dataset within the budget of each, and tabulate held-out scores."""
    done = []
    for folder in folders:
        started = time.monotonic()
        prepared = PrepareOptions(
            preset=options.preset,
            configurations=options.configurations,
            gpu_memory_gib=options.gpu_memory_gib,
            device_kind=options.device_kind,
        )
        paths, plan = prepare(folder, workspace, prepared)
        names = wanted_configurations(plan, options.configurations)
        folds = [str(f) for f in options.folds] if options.folds else fold_names(paths)
        jobs = [(name, fold) for name in names for fold in folds]
        for number, (name, fold) in enumerate(jobs):
            left = options.budget_seconds - (time.monotonic() - started)
            request = TrainRequest(
                configuration=name,
                fold=fold,
                budget_seconds=max(left, 1.0) / (len(jobs) - number),
                seed=options.seed,
                plan_name=plan.name,
                device=options.device,
            )
            train_folds(folder, workspace, request)
        done.append((paths, plan, names))
    return tabulate(done, budget_seconds=options.budget_seconds, reference=options.reference, output=options.output)
