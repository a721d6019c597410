"""Images to segmentations by the command line with the same weights, `autoseg predict` beside `nnUNetv2_predict`.

    AUTOSEG_PEER_PYTHON=/path/to/python AUTOSEG_TEST_DATA=/path/to/data python benchmarks/predict.py
        [--only NAME] [--cases 3] [--repeats 1] [--threads 1] [--workers 3] [--steps 10]

nnU-Net's own trainer makes a model (a few steps on blobs of noise from random weights, so that classes have margins)
and `autoseg import nnunet` takes it over. `hippocampus` has nnU-Net's plan for the Decathlon's task 4: one patch of
40x56x40, full width. `ct` is made up: 200x256x256 at 1.5x1x1 mm, a noisy body in air; a plan at 4.5x3x3 mm, patch
48x64x64, narrow, as a CPU may get. Both sides mirror on all axes (8 passes a tile) and step by half a patch.

Every run is the whole command in a fresh process, once with n cases and once with 2n: the difference over n is what a
further case takes (`ours`, `peer`: CPU seconds of all its processes), and what is left of the shorter run is start and
loading (`start_*`). `wall_*` is the longer run from the first to the last moment. `pss_*_gib` is the largest sum over
the processes of a command of their proportional set sizes, in which a page that several share counts once; `identical`
is the share of voxels with the same label. nnU-Net runs with `--workers` processes to prepare and as many to export,
its default being 3. The line `help` is the command with `--help` alone.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for what the tests have to make models of nnU-Net

from autoseg.images.reading import read_label  # noqa: E402
from autoseg.images.writing import write_image  # noqa: E402
from autoseg.records.geometry import Geometry  # noqa: E402
from tests.differential import nnunet_models as nn  # noqa: E402

DATASET, CONFIGURATION = "Dataset901_Made", "3d_fullres"
CT_SHAPE, CT_SPACING_MM = (200, 256, 256), (1.5, 1.0, 1.0)
_SAMPLE_SECONDS = 1.0


class Plan(NamedTuple):
    """A configuration of nnU-Net."""

    channel: str
    scheme: str
    spacing_mm: tuple[float, ...]
    patch: tuple[int, ...]
    features: tuple[int, ...]


PLANS = {
    "hippocampus": Plan("MRI", "ZScoreNormalization", (1.0, 1.0, 1.0), (40, 56, 40), (32, 64, 128, 256)),
    "ct": Plan("CT", "CTNormalization", (4.5, 3.0, 3.0), (48, 64, 64), (8, 16, 32, 64)),
}


class Took(NamedTuple):
    """What one command took."""

    wall: float
    cpu: float
    """Of its processes together, seconds."""
    gib: float
    """Largest sum of their proportional set sizes."""


def run(command: Sequence[str], **environment: str) -> Took:
    """Run a command and watch its processes."""
    known = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with tempfile.TemporaryFile("w+") as said:
        started, peak = time.perf_counter(), 0
        due = started
        process = subprocess.Popen(command, env={**known, **environment}, stdout=said, stderr=said)
        while True:
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            if time.perf_counter() > due:
                peak, due = max(peak, _proportional_bytes(process.pid)), time.perf_counter() + _SAMPLE_SECONDS
            time.sleep(0.02)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{said.read()[-3000:]}")
    return Took(wall, usage.ru_utime + usage.ru_stime, peak / 2**30)


def _proportional_bytes(process: int) -> int:
    """Of a process and all that it started."""
    folder, total = Path(f"/proc/{process}"), 0
    try:
        lines = (folder / "smaps_rollup").read_text().splitlines()
        total = sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        children = [child for path in folder.glob("task/*/children") for child in path.read_text().split()]
    except OSError:  # it has just ended
        return total
    return total + sum(_proportional_bytes(int(child)) for child in children)


def ours(arguments: Sequence[str], threads: int) -> Took:
    """The command `autoseg`."""
    command = [sys.executable, "-m", "autoseg", *arguments]
    return run(command, PYTHONPATH=str(ROOT), OMP_NUM_THREADS=str(threads))


def peer(arguments: Sequence[str], threads: int, results: Path) -> Took:
    """The command `nnUNetv2_predict`."""
    script = str(Path(__file__).with_name("predict_peer.py"))
    command = [os.environ["AUTOSEG_PEER_PYTHON"], script, str(threads), *arguments]
    folders = {f"nnUNet_{kind}": str(results) for kind in ("raw", "preprocessed", "results")}
    return run(command, OMP_NUM_THREADS=str(threads), **folders)


def make_models(plan: Plan, folder: Path, steps: int) -> tuple[Path, Path]:
    """nnU-Net's results folder, and ours with the same weights."""
    count = len(plan.features)
    network = nn.architecture("PlainConvUNet", [[1] * 3, *[[2] * 3] * (count - 1)], [[3] * 3] * count)
    network["arch_kwargs"] |= {
        "features_per_stage": list(plan.features),
        "n_conv_per_stage": [2] * count,
        "n_conv_per_stage_decoder": [2] * (count - 1),
    }
    settings = nn.configuration(plan.spacing_mm, plan.patch, network, (plan.scheme,), use_mask_for_norm=[False])
    plans = {**nn.plans({CONFIGURATION: settings}), "dataset_name": DATASET}
    plans["foreground_intensity_properties_per_channel"] = {
        "0": {"max": 400.0, "mean": 40.0, "median": 40.0, "min": -200.0, "std": 120.0}
        | {"percentile_00_5": -200.0, "percentile_99_5": 300.0}
    }
    results = folder / "results"
    made = {"folder": str(results / DATASET / f"nnUNetTrainer__nnUNetPlans__{CONFIGURATION}"), "plans": plans}
    made |= {"dataset": nn.dataset(nn.LABELS, (plan.channel,)), "configuration": CONFIGURATION}
    nn.ask_peer([{"do": "make", "folds": [0], "seed": 7, "steps": steps, **made}], folder)
    ours(["import", "nnunet", str(results), "-o", str(folder / "ours"), "--quiet"], 1)
    return results, folder / "ours" / CONFIGURATION


def write_images(name: str, folder: Path, count: int) -> None:
    """The first `count` cases, named as nnU-Net has it."""
    folder.mkdir()
    if name == "hippocampus":
        data = Path(os.environ["AUTOSEG_TEST_DATA"]) / "Task04_Hippocampus" / "imagesTr"
        for path in sorted(data.glob("hippocampus_*.nii.gz"))[:count]:
            shutil.copy(path, folder / path.name.replace(".nii.gz", "_0000.nii.gz"))
        return
    z, y, x = CT_SPACING_MM
    geometry = Geometry(shape=CT_SHAPE, spacing_mm=CT_SPACING_MM, affine=((0, 0, x, 0), (0, y, 0, 0), (z, 0, 0, 0)))
    for seed in range(count):
        write_image(folder / f"ct_{seed}_0000.nii.gz", body(seed)[None], geometry)


def body(seed: int) -> np.ndarray:
    """A body of soft blobs and noise in air, int16 `Z Y X`."""
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    coarse = rng.normal(40, 200, [1 + n // 16 for n in CT_SHAPE]).astype(np.float32)
    blobs = ndimage.zoom(coarse, [n / c for n, c in zip(CT_SHAPE, coarse.shape, strict=True)], order=1)
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    inside = (y / 0.7) ** 2 + (x / 0.9) ** 2 < 1
    values = blobs + rng.normal(0, 20, CT_SHAPE).astype(np.float32)
    return np.where(inside, np.clip(values, -1000, 1500), -1000).astype(np.int16)


def identical(first: Path, second: Path) -> float:
    """Share of voxels with the same label in both folders; raises ValueError for predictions of one class."""
    same = count = 0
    for path in sorted(second.glob("*.nii.gz")):
        found, expected = read_label(first / path.name).array, read_label(path).array
        if len(np.unique(expected)) < 2:
            raise ValueError(f"{path.name}: a prediction of one class proves nothing")
        same, count = same + int(np.sum(found == expected)), count + expected.size
    return same / count


def compare(name: str, options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """One kind of image: both sides in turn, with n and with 2n cases, `repeats` times."""
    results, model = make_models(PLANS[name], folder, options.steps)
    count = options.cases if name == "hippocampus" else 1
    runs: dict[tuple[str, int], list[Took]] = {}
    own = ["predict", "--model", str(model), "--device", "cpu", "--quiet"]
    workers = ["-npp", str(options.workers), "-nps", str(options.workers)]
    theirs = ["-d", DATASET, "-c", CONFIGURATION, "-f", "0", "-device", "cpu", *workers]
    for size in (count, 2 * count):
        write_images(name, folder / f"images_{size}", size)
    for repeat in range(options.repeats):
        for size in (count, 2 * count):
            images, outputs = str(folder / f"images_{size}"), [folder / f"{side}_{size}_{repeat}" for side in "op"]
            took = ours([*own, "-i", images, "-o", str(outputs[0])], options.threads)
            runs.setdefault(("ours", size), []).append(took)
            took = peer([*theirs, "-i", images, "-o", str(outputs[1])], options.threads, results)
            runs.setdefault(("peer", size), []).append(took)
    line: dict[str, Any] = {"name": name, **figures(runs, count), "identical": round(identical(*outputs), 7)}
    return {**line, "cases": [count, 2 * count], "threads": options.threads, "workers": options.workers}


def figures(runs: dict[tuple[str, int], list[Took]], count: int) -> dict[str, float | str]:
    """Seconds a further case, seconds of start and loading, memory; medians over repeats."""

    def median(side: str, size: int, field: str) -> float:
        return statistics.median(getattr(took, field) for took in runs[side, size])

    found: dict[str, float | str] = {}
    for side in ("ours", "peer"):
        few, many = (median(side, size, "cpu") for size in (count, 2 * count))
        found |= {side: round((many - few) / count, 2), f"start_{side}": round(2 * few - many, 2)}
        found[f"wall_{side}"] = round(median(side, 2 * count, "wall"), 1)
        found[f"pss_{side}_gib"] = round(max(median(side, size, "gib") for size in (count, 2 * count)), 2)
    ratio = round(float(found["peer"]) / float(found["ours"]), 2)
    return {"ours": found.pop("ours"), "peer": found.pop("peer"), "unit": "CPU s a case", "ratio": ratio, **found}


def compare_help(repeats: int) -> dict[str, object]:
    """The commands with `--help` alone."""
    sides = {"ours": ours, "peer": lambda arguments, threads: peer(arguments, threads, Path(tempfile.gettempdir()))}
    runs = {
        side: [call(["predict", "--help"][side == "peer" :], 1) for _ in range(repeats)] for side, call in sides.items()
    }
    own, other = (statistics.median(took.cpu for took in runs[side]) for side in sides)
    walls = {f"wall_{side}": round(statistics.median(took.wall for took in runs[side]), 2) for side in sides}
    return {
        "name": "help",
        "ours": round(own, 2),
        "peer": round(other, 2),
        "unit": "CPU s",
        "ratio": round(other / own, 1),
        **walls,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("help", *PLANS))
    parser.add_argument("--cases", type=int, default=3, help="of Hippocampus; the CT is one")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="of training the model that both sides use")
    options = parser.parse_args()
    for name in [options.only] if options.only else ("help", *PLANS):
        if name == "help":
            print(json.dumps(compare_help(max(3, options.repeats))), flush=True)
            continue
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(compare(name, options, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
