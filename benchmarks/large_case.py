"""A CT of 1000x512x512 voxels segmented end to end by `autoseg predict` in less memory than its logits would take.

    python benchmarks/large_case.py [--slices 1000] [--limit-gib 8] [--threads 2] [--full]

The image (int16, air around a noisy body) and a model with 5 heads (a plain U-Net of two stages and random weights,
patch 64x128x128, the image's own spacing) are made first. Prediction runs in a process of its own whose data segment
(`RLIMIT_DATA`: heap and anonymous maps, which is where arrays and tensors live) the system limits, so an allocation
beyond it fails; its peak resident memory is checked against the same limit. Without `--full` it runs `--fast`.
Prints one JSON line. The logits alone, held on the file's grid in float32, would be 5 values a voxel: `logits_gib`.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from autoseg.images.writing import write_image
from autoseg.networks.build import build_network
from autoseg.records.base import write_record
from autoseg.records.fingerprint import IntensityStatistics
from autoseg.records.geometry import Geometry
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import Configuration, NetworkSpec, Plan
from autoseg.records.recipe import Mirroring, Recipe
from autoseg.records.results import TrainedFold
from autoseg.storage import tensors

HEADS, SPACING_MM = 5, (1.0, 0.8, 0.8)
LABELS = LabelScheme(class_names=("background", "a", "b", "c", "d"), class_values=(0, 1, 2, 3, 4), num_entries=HEADS)
NETWORK = NetworkSpec(
    architecture="plain_unet",
    features_per_stage=(2, 4),
    strides=((1, 1, 1), (2, 2, 2)),
    kernel_sizes=((1, 1, 1), (3, 3, 3)),
    blocks_per_stage=(1, 1),
    decoder_blocks_per_stage=(1,),
)


INTENSITIES = IntensityStatistics(
    mean=0, median=0, std=300, min=-1000, max=1000, percentile_00_5=-1000, percentile_99_5=1000
)


def write_model(folder: Path) -> None:
    """A finished fold with random weights."""
    settings = Configuration(
        spacing_mm=SPACING_MM,
        patch_size=(64, 128, 128),
        batch_size=2,
        median_shape=(300, 512, 512),
        normalization=("ct",),
        use_mask_for_norm=(False,),
        batch_dice=False,
        network=NETWORK,
        recipe=Recipe(mirroring=Mirroring(axes=(2,))),
    )
    plan = Plan(
        name="large",
        preset="small",
        dataset="Large",
        channel_names=("CT",),
        labels=LABELS,
        orientation="canonical",
        transpose=(0, 1, 2),
        intensities={"0": INTENSITIES},
        original_median_spacing_mm=SPACING_MM,
        configurations={"3d_fullres": settings},
    )
    network = build_network(NETWORK, 1, HEADS, seed=1)
    tensors.save(folder / "weights", {"weights": network.state_dict()}, {})
    write_record(folder / "plan.json", plan)
    record = TrainedFold(
        plan=plan.name,
        configuration="3d_fullres",
        fold="0",
        train_cases=("none",),
        validation_cases=(),
        epochs=1,
        iterations_per_epoch=1,
        seconds=1.0,
        num_parameters=sum(p.numel() for p in network.parameters()),
        device="cpu",
        mean_dice=None,
    )
    write_record(folder / "fold.json", record)


def write_case(path: Path, num_slices: int) -> int:
    """The image; returns its voxels."""
    shape, rng = (num_slices, 512, 512), np.random.default_rng(1)
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    inside = (y / 0.7) ** 2 + (x / 0.9) ** 2 < 1
    noise = rng.normal(40, 120, (512, 512)).astype(np.int16)
    image = np.full((1, *shape), -1000, np.int16)
    for z in range(num_slices):  # rolled noise: drawing 262 million numbers would take longer than the rest
        image[0, z] = np.where(inside, np.roll(noise, (13 * z, 7 * z), (0, 1)), -1000)
    z_mm, y_mm, x_mm = SPACING_MM
    affine = ((0, 0, x_mm, 0), (0, y_mm, 0, 0), (z_mm, 0, 0, 0))
    write_image(path, image, Geometry(shape=shape, spacing_mm=SPACING_MM, affine=affine))
    return int(np.prod(shape))


def predict(folder: Path, limit_bytes: int, threads: int, is_fast: bool) -> None:
    """In a process of its own: predict under the limit and print what it took."""
    from autoseg.cli.main import main as autoseg

    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
    import torch

    torch.set_num_threads(threads)
    wall, cpu = time.perf_counter(), time.process_time()
    arguments = ["--model", str(folder / "model"), "-i", str(folder / "images"), "-o", str(folder / "out")]
    code = autoseg(["predict", *arguments, "--device", "cpu", "--quiet", *(["--fast"] if is_fast else [])])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = {"seconds": round(time.perf_counter() - wall, 1), "cpu_seconds": round(time.process_time() - cpu, 1)}
    print(json.dumps({"code": code, "peak_bytes": peak, **seconds}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=1000)
    parser.add_argument("--limit-gib", type=float, default=8.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--full", action="store_true", help="with mirroring and all tiles")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    limit = int(options.limit_gib * 2**30)
    if options.measure:
        predict(options.measure, limit, options.threads, not options.full)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model" / "fold_0")
        voxels = write_case(folder / "images" / "case.nii", options.slices)
        command = [sys.executable, __file__, "--measure", name, "--limit-gib", str(options.limit_gib)]
        command += ["--threads", str(options.threads), *(["--full"] if options.full else [])]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        took = json.loads(done.stdout.splitlines()[-1])
        written = (folder / "out" / "case.nii").is_file()
    assert took["code"] == 0, f"the case was not segmented: {took}"
    assert written, "no segmentation was written"
    assert took["peak_bytes"] <= limit, f"{took['peak_bytes'] / 2**30:.2f} GiB were resident"
    line = {
        "name": f"{options.slices}x512x512, {HEADS} heads, {'full' if options.full else 'fast'}",
        "ours": took["cpu_seconds"],
        "unit": "CPU s",
        "wall_ours": took["seconds"],
        "rss_ours_gib": round(took["peak_bytes"] / 2**30, 2),
        "limit_gib": options.limit_gib,
        "logits_gib": round(4 * HEADS * voxels / 2**30, 1),
        "threads": options.threads,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
