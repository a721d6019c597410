"""Commands that only look: status of a dataset in the workspace, info on a model folder, doctor for the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoseg.cli import options as o
from autoseg.errors import UsageError

if TYPE_CHECKING:
    from autoseg.records.model_card import ModelCard
    from autoseg.records.workspace import Paths

_PACKAGES = ("torch", "numpy", "scipy", "SimpleITK", "nibabel", "blosc2", "pydantic", "safetensors", "scikit-learn")


def status(dataset: o.DatasetArgument, work: o.Work = None, as_json: o.Json = False, quiet: o.Quiet = False) -> None:
    """What is done for a dataset, and what comes next."""
    from autoseg.pipeline.ingest import locate
    from autoseg.records.base import read_record
    from autoseg.records.plan import Plan
    from autoseg.storage.locks import is_locked
    from autoseg.training.provenance import outdated_folds

    paths = locate(dataset, o.start(work, quiet))
    if not paths.dataset.is_file():
        raise UsageError(f"Nothing is done for {dataset} in {paths.folder} yet. Next: autoseg run {dataset}")
    plans = [read_record(path, Plan) for path in sorted(paths.plans.glob("*.json"))]
    outdated = {
        f"{plan.name}/{configuration}/fold_{fold}": changes
        for plan in plans
        for (configuration, fold), changes in outdated_folds(paths, plan).items()
    }
    models = paths.folder / "models"
    trained = sorted(p.parent for p in models.glob("*/*/fold_*/fold.json"))
    begun = sorted({p.parent for p in models.glob("*/*/fold_*/schedule.json")} - set(trained))
    steps: dict[str, bool | list[str]] = {
        "fingerprint": paths.fingerprint.is_file(),
        "plans": sorted(p.stem for p in paths.plans.glob("*.json")),
        "preprocessed": sorted(p.parent.name for p in (paths.folder / "preprocessed").glob("*/manifest.json")),
        "trained": [str(p.relative_to(models)) for p in trained],
        "begun": [f"{p.relative_to(models)} ({'running' if is_locked(p) else 'stopped'})" for p in begun],
        "selection": paths.selection.is_file(),
        "report": paths.report.is_file(),
    }
    rows = [f"{key:13s} {', '.join(value) if isinstance(value, list) else value}" for key, value in steps.items()]
    rows += [f"outdated      {fold} was trained on other data: {changes}" for fold, changes in outdated.items()]
    after = _next_command(paths, steps, held_out=any(folder.name != "fold_all" for folder in trained))
    o.show({**steps, "outdated": outdated, "next": after}, as_json, "\n".join([*rows, f"Next: {after}"]))


def _next_command(paths: Paths, steps: Mapping[str, object], held_out: bool) -> str:
    """The first step that is not done; `held_out` tells whether there is something to choose by."""
    from autoseg.records.base import read_record
    from autoseg.records.plan import Plan

    name = paths.folder.name
    plans = sorted(paths.plans.glob("*.json"))
    if not plans or not steps["preprocessed"]:
        return f"autoseg plan_and_preprocess {name}"
    if not steps["trained"]:
        return o.first_training(paths, read_record(plans[0], Plan))
    if held_out and not steps["selection"]:
        return f"autoseg select {name}"
    return f"autoseg predict -i IMAGES -o OUT {name}" if steps["report"] else f"autoseg report {name}"


def info(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A packed model (zip), a model folder, or that of one of its folds.")
    ],
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """What a model says about itself, wherever it was copied to: labels, channels, folds, origin, licence."""
    from autoseg.inference.model_card import describe_model
    from autoseg.inference.model_folders import open_configuration
    from autoseg.reporting.package import read_package, readme

    o.start(None, quiet)
    package = read_package(model)
    if package is not None:
        o.show(package.model_dump(mode="json"), as_json, "\n".join([readme(package), *_uses(model)]))
        return
    with open_configuration(model) as folder:
        card = describe_model(folder)
    o.show(card.model_dump(mode="json"), as_json, "\n".join([*_card_lines(card), *_uses(model)]))


def _card_lines(card: ModelCard) -> list[str]:
    targets = ", ".join(target.name for target in card.labels.targets)
    rows = {
        "trained on": f"{card.dataset}, plan {card.plan} (preset {card.preset}), {card.configuration}",
        "segments": targets,
        "needs": ", ".join(f"{number}: {name}" for number, name in enumerate(card.channel_names)),
        "sees": f"{_sizes(card.patch_size)} voxels of {_sizes(card.spacing_mm)} mm",
        "network": f"{card.architecture}, {card.num_parameters / 1e6:.2f} million parameters",
        "licence": card.licence or "not stated (whoever gives the model away writes it into model.json)",
        "written by": ", ".join(f"{name} {version}" for name, version in card.versions.items()),
    }
    if card.previous_stage is not None:
        rows["needs beside"] = f"the folder {card.previous_stage}"
    lines = [f"{key:13s} {value}" for key, value in rows.items()]
    for name, fold in card.folds.items():
        dice = "no case held out" if fold.mean_dice is None else f"mean Dice {fold.mean_dice:.4f}"
        held_out = f", {dice}" + (f" of {fold.num_validation_cases} held out" if fold.num_validation_cases else "")
        origin = "".join(f", from {earlier}" for earlier in reversed(fold.trained_from))
        steps = f"{fold.epochs} epochs of {fold.iterations_per_epoch} steps"
        lines.append(f"{'fold ' + name:13s} {fold.num_train_cases} cases, {steps}{held_out}{origin}")
    return lines


def _sizes(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:.3g}" for value in values)


def _uses(model: Path) -> list[str]:
    return [
        f"Next: autoseg predict --model {model} -i IMAGES -o OUT",
        f"   or fine-tune it: autoseg plan DATASET --like {model}",
    ]


def doctor(work: o.Work = None, as_json: o.Json = False, quiet: o.Quiet = False) -> None:
    """Check this machine: versions, devices, memory, disk, and that the workspace can be written to."""
    import torch

    from autoseg.devices import available_memory_bytes, choose_device, describe_device
    from autoseg.storage.atomic import write_text

    workspace = o.start(work, quiet)
    probe = workspace / ".doctor"
    write_text(probe, "written, verified and removed again\n")
    probe.unlink()
    found = {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        "device": describe_device(choose_device(None)),
        "cuda devices": torch.cuda.device_count(),
        "cores": os.cpu_count(),
        "free memory GiB": round(available_memory_bytes() / 2**30, 1),
        "workspace": str(workspace),
        "free disk GiB": round(shutil.disk_usage(workspace).free / 2**30, 1),
    }
    rows = [f"{key:16s} {value}" for key, value in found.items()]
    o.show(found, as_json, "\n".join([*rows, "Next: autoseg demo, or autoseg run DATASET"]))
    if torch.__version__.startswith("2.9."):
        typer.echo("warning: torch 2.9 computes 3-D convolutions several times slower; use another version", err=True)


COMMANDS = (status, info, doctor)
