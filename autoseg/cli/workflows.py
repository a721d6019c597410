"""Commands that do everything: run, demo, benchmark."""

import time
from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli import options as o


def demo(
    seed: Annotated[int, typer.Option(min=0, help="Of the images and of the training.")] = 0,
    device: o.Device = "auto",
    work: o.Work = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Make a small dataset and do everything with it, in minutes on two CPU cores."""
    from autoseg.pipeline.showcase import run_demo

    result = run_demo(o.start(work, quiet), seed=seed, device=device)
    o.show(result.as_json(), as_json, result.as_text())


def run(
    dataset: o.DatasetArgument,
    preset: o.Preset = "auto",
    plan_name: Annotated[str | None, typer.Option(help="Name of the plan; default: the preset's.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Time for the whole command, e.g. 15m, 2h. Training is fitted into it; a tenth, at most 5 minutes, is "
            "kept for model choice, test cases and report. auto: each training ends when it no longer gains; "
            "auto:2h: and by then at the latest."
        ),
    ] = None,
    configurations: Annotated[list[str] | None, typer.Option("-c", "--configuration", help="Only these.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the plan's.")] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Steps an epoch, instead of the plan's.")] = None,
    set_: o.Settings = None,
    gpu_memory: o.GpuMemory = None,
    patient_regex: o.PatientRegex = None,
    folds: o.NumFolds = None,
    seed: o.Seed = None,
    workers: o.Workers = None,
    device: o.Device = "auto",
    work: o.Work = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Everything on your own data: verify to report; called again, it goes on where it stopped."""
    started = time.monotonic()
    from autoseg.pipeline.flow import PrepareOptions, RunOptions, run_dataset

    until_plateau, seconds = o.parse_budget(budget)
    request = RunOptions(
        prepare=PrepareOptions(
            preset=preset,
            plan_name=plan_name,
            settings=tuple(set_ or ()),
            gpu_memory_gib=gpu_memory,
            configurations=tuple(configurations or ()) or None,
            patient_regex=patient_regex,
            num_folds=folds,
            num_workers=workers,
            device_kind=o.device_kind(device),
        ),
        until_plateau=until_plateau,
        budget_seconds=seconds,
        epochs=epochs,
        iterations=iterations,
        seed=seed,
        device=device,
        started_seconds=started,
    )
    result = run_dataset(dataset, o.start(work, quiet), request)
    o.show(result.as_json(), as_json, result.as_text())


def benchmark(
    folders: Annotated[list[str], typer.Argument(metavar="FOLDER...", help="Decathlon-format folders.")],
    budget: Annotated[str, typer.Option(help="Time for each dataset, e.g. 1h.")] = "1h",
    configurations: Annotated[list[str] | None, typer.Option("-c", "--configuration", help="Only these.")] = None,
    fold: Annotated[list[int] | None, typer.Option("--fold", min=0, help="Only these folds.")] = None,
    preset: o.Preset = "auto",
    gpu_memory: o.GpuMemory = None,
    reference: Annotated[Path | None, typer.Option(help="JSON of published per-case Dice to pair with.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for the table (Markdown, JSON).")
    ] = None,
    seed: o.Seed = None,
    device: o.Device = "auto",
    work: o.Work = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Cross-validate at a stated budget and compare with published values."""
    from autoseg.pipeline.showcase import BenchmarkOptions, run_benchmark

    seconds = o.parse_duration(budget)
    assert seconds is not None
    request = BenchmarkOptions(
        budget_seconds=seconds,
        configurations=tuple(configurations or ()) or None,
        folds=tuple(fold or ()) or None,
        preset=preset,
        gpu_memory_gib=gpu_memory,
        reference=reference,
        output=output,
        seed=seed,
        device=device,
        device_kind=o.device_kind(device),
    )
    table = run_benchmark(folders, o.start(work, quiet), request)
    o.show(table.as_json(), as_json, f"{table.as_text()}\nNext: autoseg report {folders[0]}")


COMMANDS = (demo, run, benchmark)
