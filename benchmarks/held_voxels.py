"""What voxels lose when a training holds them in two bytes: float16 beside int16 with a scale and an offset a channel.

    python benchmarks/held_voxels.py DATASET [DATASET ...] [--work FOLDER] [--cases 20]

Each dataset is preprocessed as the small preset's 3d_fullres, or what was preprocessed in --work is used. Of the first
--cases cases every channel is rounded both ways; int16 gets the smallest and the largest voxel of the case and channel
as its ends, which is the best it can do. Errors are in standard deviations of the image (over its voxels), those of CT
also in the file's units. Then both are turned back into float32 as a patch would be, one crop of 128x128x128 (or what
the largest image has of it) at a time, on one CPU thread: CPU milliseconds a million voxels, the fastest of many. No
peer: nnU-Net holds float32.
Prints one JSON line a dataset and channel.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoseg.pipeline.flow import PrepareOptions, prepare
from autoseg.preprocessing import store
from autoseg.records.base import read_record
from autoseg.records.fingerprint import Fingerprint

EDGE = 128
REPEATS = 20
LEVELS = 2**16 - 1


def as_float16(image: Tensor) -> Callable[[], Tensor]:
    """What gives the voxels back as float32."""
    held = image.half()
    return held.float


def as_int16(image: Tensor) -> Callable[[], Tensor]:
    """The same by whole numbers between the smallest and the largest voxel."""
    low, high = float(image.min()), float(image.max())
    step = max(high - low, 1e-12) / LEVELS
    held = ((image.double() - low) / step).round().sub(LEVELS // 2 + 1).to(torch.int16)
    offset = low + (LEVELS // 2 + 1) * step
    return lambda: held.float().mul_(step).add_(offset)


KINDS = {"float16": as_float16, "int16": as_int16}


def errors(image: Tensor, back: Tensor) -> tuple[float, float]:
    """Root mean square and largest, in standard deviations of the image."""
    away = (back.double() - image.double()).abs() / image.double().std()
    return float(away.square().mean().sqrt()), float(away.max())


def fastest_ms(give_back: Callable[[], Tensor]) -> float:
    """CPU milliseconds a million voxels."""
    times = []
    for _ in range(REPEATS):
        started = time.process_time()
        num_voxels = give_back().numel()
        times.append((time.process_time() - started) / num_voxels)
    return 1e9 * min(times)


def channel_line(images: list[npt.NDArray[np.float32]], name: str, kind: str, unit: float | None) -> dict[str, object]:
    """One line of results; `unit` is the file's units in one of the preprocessed image, for CT."""
    line: dict[str, object] = {"name": name, "normalization": kind, "cases": len(images)}
    for held, hold in KINDS.items():
        found = [errors(torch.from_numpy(image), hold(torch.from_numpy(image))()) for image in images]
        line[f"{held}_rms"] = float(np.sqrt(np.mean([rms**2 for rms, _ in found])))
        line[f"{held}_largest"] = max(largest for _, largest in found)
        if unit is not None:
            spread = [float(image.std()) * unit for image in images]
            both = list(zip(found, spread, strict=True))
            line[f"{held}_rms_units"] = float(np.sqrt(np.mean([(rms * units) ** 2 for (rms, _), units in both])))
            line[f"{held}_largest_units"] = max(largest * units for (_, largest), units in both)
        largest_image = max(images, key=lambda image: image.size)
        line[f"{held}_ms"] = fastest_ms(hold(torch.from_numpy(largest_image[:EDGE, :EDGE, :EDGE].copy())))
    return {key: float(f"{value:.3g}") if isinstance(value, float) else value for key, value in line.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=Path(__file__).name)
    parser.add_argument("datasets", nargs="+", type=Path)
    parser.add_argument("--work", type=Path, help="workspace; default: a folder that is removed afterwards")
    parser.add_argument("--cases", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        for dataset in options.datasets:
            wanted = PrepareOptions(preset="small", configurations=("3d_fullres",), num_workers=1)
            paths, plan = prepare(str(dataset), options.work or Path(scratch), wanted)
            fingerprint = read_record(paths.fingerprint, Fingerprint)
            folder = paths.preprocessed(store.digest(plan, "3d_fullres", fingerprint))
            ids = sorted(store.open_store(folder).cases)[: options.cases]
            for number, kind in enumerate(plan.configurations["3d_fullres"].normalization):
                images = [store.read_image(folder, case)[number] for case in ids]
                unit = plan.intensities[str(number)].std if kind == "ct" else None
                name = f"{dataset.name}, {plan.channel_names[number]}"
                print(json.dumps(channel_line(images, name, kind, unit)), flush=True)


if __name__ == "__main__":
    main()
