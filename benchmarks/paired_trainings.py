"""What the benchmarks share that train variants of one plan with several seeds and compare them case by case."""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from autoseg.datasets.phantoms import write_phantoms
from autoseg.pipeline.train import TrainOptions, is_trained, train
from autoseg.records.plan import Plan
from autoseg.records.results import Aggregate, TrainedFold
from autoseg.records.workspace import Paths


def add_options(parser: argparse.ArgumentParser, name: str, iterations: int = 2000) -> None:
    """What each of them asks for; `name` is the folder of its workspace."""
    parser.add_argument("--cases", type=int, default=40, help="phantoms that are drawn")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--iterations", type=int, default=iterations, help="steps of each training")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--fold", default="0")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--work", type=Path, default=Path("autoseg_work") / name)


def phantoms(options: argparse.Namespace, seed: int = 1) -> Path:
    """Phantoms with a rare class, drawn if they are not there."""
    name = f"Phantoms{options.cases}" + (f"_seed{seed}" if seed != 1 else "")
    return write_phantoms(options.work / "data" / name, options.cases, seed=seed)


def train_counted(
    paths: Paths, plan: Plan, options: argparse.Namespace, epochs: int, iterations: int, seed: int
) -> tuple[TrainedFold, float]:
    """Train a fold, or go on with it; what was trained, and the CPU seconds of all calls that it took."""
    length = TrainOptions(epochs=epochs, iterations=iterations, seed=seed, device=options.device)
    folder = paths.fold(plan.name, options.configuration, options.fold)
    cost, is_new = folder / "cpu_seconds.json", not is_trained(paths, plan, options.configuration, options.fold)
    spent: float = json.loads(cost.read_text()) if cost.is_file() else 0.0
    started = time.process_time()
    try:
        trained = train(paths, plan, options.configuration, options.fold, length)
    finally:
        if is_new and folder.is_dir():
            spent += time.process_time() - started
            cost.write_text(json.dumps(spent))
    return trained, spent


def mean_over_seeds(results: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Case id -> mean over the seeds in which it is defined; `results` is one mapping a seed."""
    means: dict[str, float | None] = {}
    for case in sorted(results[0]):
        values = [value for result in results if (value := result[case]) is not None]
        means[case] = sum(values) / len(values) if values else None
    return means


def rounded(value: float | None) -> float | None:
    """For a JSON line."""
    return None if value is None else round(value, 5)


def numbers(values: Aggregate) -> dict[str, float | int | None]:
    """An aggregate for a JSON line."""
    content = {"mean": values.mean, "low": values.low, "high": values.high}
    return {**{key: rounded(value) for key, value in content.items()}, "cases": values.num_cases}
