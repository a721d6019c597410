"""Commands that look at data and decide: verify, fingerprint, plan, preprocess, phantoms."""

from pathlib import Path
from typing import Annotated

import typer

from autoseg.cli import options as o
from autoseg.errors import DataError, UsageError


def verify(dataset: o.DatasetArgument, work: o.Work = None, as_json: o.Json = False, quiet: o.Quiet = False) -> None:
    """Report all faults of a dataset in one run; exit code 3 if there are any."""
    from autoseg.pipeline.fingerprint import verify_only

    findings = verify_only(Path(dataset), workspace=o.start(work, quiet))
    faults = [finding for finding in findings if finding.is_fault]
    rows = [f"{'FAULT  ' if f.is_fault else 'warning'} {f.case or 'dataset'}: {f.message}" for f in findings]
    summary = f"{len(faults)} faults, {len(findings) - len(faults)} warnings"
    content = {
        "faults": len(faults),
        "findings": [
            {"case": f.case, "file": f.file, "kind": f.kind, "message": f.message, "is_fault": f.is_fault}
            for f in findings
        ],
    }
    after = "Mend or remove the cases above." if faults else f"Next: autoseg plan_and_preprocess {dataset}"
    o.show(content, as_json, "\n".join([*rows, summary, after]))
    if faults:
        raise typer.Exit(DataError.exit_code)


def fingerprint(
    dataset: o.DatasetArgument,
    patient_regex: o.PatientRegex = None,
    folds: o.NumFolds = None,
    workers: o.Workers = None,
    work: o.Work = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Check every case and measure the dataset."""
    from autoseg.pipeline.fingerprint import verify_and_fingerprint
    from autoseg.pipeline.ingest import ingest

    paths = ingest(dataset, o.start(work, quiet), patient_regex=patient_regex, num_folds=folds)
    record = verify_and_fingerprint(paths, num_workers=workers)
    o.show(
        record.model_dump(mode="json"),
        as_json,
        f"{paths.fingerprint} is written. Next: autoseg plan {paths.folder.name}",
    )


def plan(
    dataset: Annotated[str | None, typer.Argument(metavar="DATASET", help="Dataset folder or name.")] = None,
    from_fingerprint: Annotated[Path | None, typer.Option(help="Plan from this fingerprint file alone.")] = None,
    dataset_json: Annotated[
        Path | None, typer.Option(help="With --from-fingerprint: the dataset's dataset.json.")
    ] = None,
    preset: o.Preset = "auto",
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL", help="Plan the networks and spacing of this model (zip or folder), to fine-tune it."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the plan; default: the preset's.")] = None,
    set_: o.Settings = None,
    gpu_memory: o.GpuMemory = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a plan of this name that was edited.")] = False,
    device: o.Device = "auto",
    work: o.Work = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Decide patch, network, batch and recipe of every configuration."""
    from autoseg.pipeline import plan as stage

    workspace = o.start(work, quiet)
    options = stage.PlanOptions(preset, name, set_ or [], gpu_memory, o.device_kind(device))
    if from_fingerprint is not None:
        if dataset_json is None:
            raise UsageError("--from-fingerprint needs --dataset-json as well (labels and channel names).")
        if like is not None:
            raise UsageError("--like plans a DATASET; it cannot be used with --from-fingerprint.")
        record = stage.plan_from_files(from_fingerprint, dataset_json, options)
        o.show(record.model_dump(mode="json"), as_json, o.describe_plan(record))
        return
    if dataset is None:
        raise UsageError("name a DATASET, or give --from-fingerprint and --dataset-json.")
    from autoseg.pipeline.ingest import ingest

    paths = ingest(dataset, workspace)
    record = stage.plan(paths, options, overwrite=overwrite, like=like)
    following = f"autoseg preprocess {paths.folder.name}{o.plan_option(paths, record.name)}"
    if like is not None:
        following += f"   and   {o.first_training(paths, record)} --from {like}"
    text = f"{o.describe_plan(record)}\n{paths.plan(record.name)}\nNext: {following}"
    o.show(record.model_dump(mode="json"), as_json, text)


def preprocess(
    dataset: o.DatasetArgument,
    configurations: Annotated[list[str] | None, typer.Option("-c", "--configuration", help="Only these.")] = None,
    plan: o.PlanName = None,
    workers: o.Workers = None,
    device: o.Device = "auto",
    work: o.Work = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Bring all training cases onto the grids of the plan."""
    from autoseg.pipeline.ingest import ingest
    from autoseg.pipeline.plan import choose_plan
    from autoseg.pipeline.preprocess import preprocess as stage

    paths = ingest(dataset, o.start(work, quiet))
    record = choose_plan(paths, plan, o.device_kind(device))
    folders = stage(paths, record, configurations, num_workers=workers)
    o.show({name: str(folder) for name, folder in folders.items()}, as_json, o.next_training(paths, record))


def plan_and_preprocess(
    dataset: o.DatasetArgument,
    preset: o.Preset = "auto",
    name: Annotated[str | None, typer.Option(help="Name of the plan; default: the preset's.")] = None,
    set_: o.Settings = None,
    gpu_memory: o.GpuMemory = None,
    configurations: Annotated[list[str] | None, typer.Option("-c", "--configuration", help="Only these.")] = None,
    patient_regex: o.PatientRegex = None,
    folds: o.NumFolds = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a plan of this name that was edited.")] = False,
    workers: o.Workers = None,
    device: o.Device = "auto",
    work: o.Work = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Verify, fingerprint, plan, preprocess; say about how long training takes here and where it holds its cases."""
    from autoseg.pipeline.estimate import describe_tiers, describe_times
    from autoseg.pipeline.flow import PrepareOptions, prepare
    from autoseg.pipeline.trainings import count_trainings, wanted_configurations

    prepared = PrepareOptions(
        preset=preset,
        plan_name=name,
        settings=tuple(set_ or ()),
        gpu_memory_gib=gpu_memory,
        configurations=tuple(configurations or ()) or None,
        patient_regex=patient_regex,
        num_folds=folds,
        overwrite_plan=overwrite,
        num_workers=workers,
        device_kind=o.device_kind(device),
    )
    paths, record = prepare(dataset, o.start(work, quiet), prepared)
    predicted: list[str] = []
    if not as_json:
        counts = count_trainings(paths, record, wanted_configurations(record, configurations))
        predicted = [*describe_times(record, counts, device), *describe_tiers(paths, record, counts, device)]
    text = "\n".join([o.describe_plan(record), *predicted, o.next_training(paths, record)])
    o.show(record.model_dump(mode="json"), as_json, text)


def phantoms(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make; must not exist or be empty.")],
    cases: Annotated[int, typer.Option(min=1, help="Training cases.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same images.")] = 0,
    two_d: Annotated[bool, typer.Option("--two-d", help="Single slices instead of volumes.")] = False,
    quiet: o.Quiet = False,
) -> None:
    """Write a dataset of small CT-like phantoms with organs, lesions and distractors."""
    from autoseg.datasets.phantoms import write_phantoms

    o.start(None, quiet)
    write_phantoms(out, num_cases=cases, seed=seed, two_d=two_d)
    typer.echo(f"{out} holds {cases} training cases. Next: autoseg run {out}")


COMMANDS = (verify, fingerprint, plan, preprocess, plan_and_preprocess, phantoms)
