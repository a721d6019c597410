"""What the parts share: their options, the prepared fold, JSON lines on stdout, clocks that wait for the device."""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from autoseg.inference.sliding_window import SlidingWindow, predict_rows
from autoseg.pipeline.plan import choose_plan
from autoseg.preprocessing import store
from autoseg.records.base import read_record
from autoseg.records.dataset import Dataset, Folds
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Plan
from autoseg.records.workspace import Paths
from autoseg.training.out_of_fold import Earlier
from autoseg.training.task import Task, open_task

DATASET, PLAN, CONFIGURATION, FOLD = "Task04_Hippocampus", "default", "3d_fullres", "0"
"""What the parts take where they name nothing else."""
SMOKE_EDGE = 64
"""Longest edge of a patch in a smoke run; what five poolings divide."""
EPOCH_STEPS = 250
"""nnU-Net's epoch, for both sides."""


def options(
    about: str | None, add_arguments: Callable[[argparse.ArgumentParser], object] | None = None
) -> argparse.Namespace:
    """What `run.py` tells each part, and `seconds` that are left to it; a part may add arguments of its own."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="folder made by prepare.py")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run; holds the workspace")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--smoke", action="store_true", help="everything in small, to see that it runs")
    parser.add_argument("--ends", type=float, default=time.monotonic() + 60, help="when to be done, monotonic clock")
    if add_arguments is not None:
        add_arguments(parser)
    asked = parser.parse_args()
    asked.seconds = asked.ends - time.monotonic()
    return asked


def emit(name: str, ours: float | None, unit: str, **more: object) -> None:
    """One result of our side."""
    print(json.dumps({"name": name, "ours": ours, "unit": unit, **more}), flush=True)


def workspace(out: Path, dataset: str = DATASET) -> Paths:
    """Records of the dataset, in the folder of this run."""
    return Paths(folder=out / "work" / dataset)


def prepared_folder(paths: Paths, smoke: bool) -> tuple[Plan, Path]:
    """The plan `default` and the folder of its preprocessed cases."""
    plan = default_plan(paths, smoke)
    return plan, paths.preprocessed(store.digest(plan, CONFIGURATION, read_record(paths.fingerprint, Fingerprint)))


def default_plan(paths: Paths, smoke: bool) -> Plan:
    """The plan `default` as it was planned on this machine; for a smoke run with a net that a CPU trains in seconds."""
    plan = choose_plan(paths, PLAN)
    if not smoke:
        return plan
    settings = plan.configurations[CONFIGURATION]
    narrow = (2, 2, *(4,) * (len(settings.network.features_per_stage) - 2))
    network = settings.network.model_copy(update={"features_per_stage": narrow})
    patch = tuple(min(edge, SMOKE_EDGE) for edge in settings.patch_size)
    small = settings.model_copy(update={"network": network, "patch_size": patch, "batch_size": 2})
    return plan.model_copy(update={"configurations": {CONFIGURATION: small}})


def fold_task(out: Path, device: torch.device, smoke: bool, seed: int = 1) -> Task:
    """Fold 0 of the prepared dataset, ready to be trained on `device`."""
    paths = workspace(out)
    (plan, folder), dataset = prepared_folder(paths, smoke), read_record(paths.dataset, Dataset)
    cases = read_record(paths.folds, Folds).folds[int(FOLD)]
    return open_task("speed", out / "speed", plan, CONFIGURATION, cases, dataset, folder, Earlier(), None, seed, device)


def whole_logits(
    networks: Sequence[torch.nn.Module], image: Tensor, window: SlidingWindow, device: torch.device
) -> Tensor:
    """`H Z Y X` on the CPU: the rows of `predict_rows`, whose arguments these are, put together."""
    num_heads = window.labels.num_heads
    return torch.cat([rows[:num_heads] for rows in predict_rows(networks, image, window, device)], 1).cpu()


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call until the device has done it."""
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def median_ms(work: Callable[[], object], device: torch.device, limit_seconds: float, least: int = 3) -> float:
    """Median milliseconds of a call, after a first one; called until the limit is over, at least `least` times."""
    seconds_of(work, device)
    times: list[float] = []
    while len(times) < least or sum(times) < limit_seconds:
        times.append(seconds_of(work, device))
    return 1000 * median(times)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_gib(device: torch.device) -> float | None:
    """Most memory that tensors took on the GPU since the last reset."""
    return round(torch.cuda.max_memory_allocated(device) / 2**30, 3) if device.type == "cuda" else None
