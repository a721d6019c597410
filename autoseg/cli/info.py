"""Commands that only look: status of a dataset in the workspace, doctor for the machine."""

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

import typer

from autoseg.cli import options as o
from autoseg.errors import UsageError

_PACKAGES = ("torch", "numpy", "scipy", "SimpleITK", "nibabel", "blosc2", "pydantic", "safetensors", "scikit-learn")


def status(dataset: o.DatasetArgument, work: o.Work = None, as_json: o.Json = False, quiet: o.Quiet = False) -> None:
    """What is done for a dataset, and what comes next."""
    from autoseg.records.workspace import Paths

    folder = o.start(work, quiet) / Path(dataset).name
    if not folder.is_dir():
        raise UsageError(f"{folder} does not exist yet. Next: autoseg run {dataset}")
    paths = Paths(folder=folder)
    name = paths.folder.name
    trained = sorted(p.parent for p in (paths.folder / "models").glob("*/*/fold_*/fold.json"))
    steps = {
        "fingerprint": paths.fingerprint.is_file(),
        "plans": sorted(p.stem for p in paths.plans.glob("*.json")),
        "preprocessed": sorted(p.parent.name for p in (paths.folder / "preprocessed").glob("*/manifest.json")),
        "trained": [str(p.relative_to(paths.folder / "models")) for p in trained],
        "selection": paths.selection.is_file(),
        "report": paths.report.is_file(),
    }
    rows = [f"{key:13s} {', '.join(value) if isinstance(value, list) else value}" for key, value in steps.items()]
    following = (
        (steps["preprocessed"], f"autoseg plan_and_preprocess {name}"),
        (steps["trained"], f"autoseg train {name} 3d_fullres"),
        (steps["selection"], f"autoseg select {name}"),
        (steps["report"], f"autoseg report {name}"),
    )
    after = next((command for done, command in following if not done), f"autoseg predict -i IMAGES -o OUT {name}")
    o.show({**steps, "next": after}, as_json, "\n".join([*rows, f"Next: {after}"]))


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
    o.show(found, as_json, "\n".join(f"{key:16s} {value}" for key, value in found.items()))
    if torch.__version__.startswith("2.9."):
        typer.echo("warning: torch 2.9 computes 3-D convolutions several times slower; use another version", err=True)


COMMANDS = (status, doctor)
