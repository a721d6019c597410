"""A CT of 1000x512x512 voxels segmented end to end by `autoseg predict` in less memory than its logits would take.

    python benchmarks/large_case.py [--slices 1000] [--size 512] [--limit-gib 8] [--threads 2] [--full]
    python benchmarks/large_case.py --slices 128 --size 256 --patch 16 --heads 30 --folds 2 --rule
    python benchmarks/large_case.py --slices 250 --zoom 0.8 --ending .nii.gz

The image (int16, air around a body of blocks of different brightness) and a model with random weights (a plain U-Net of
two stages, voxels `--zoom` times as long as the image's) are made first; with `--rule` the model has
learned post-processing that listens to the probabilities of each fold. Prediction runs in a process of its own whose
data segment (`RLIMIT_DATA`: heap and anonymous maps, which is where arrays and tensors live) the system limits, so an
allocation beyond it fails; its peak resident memory is checked against the same limit. Without `--full` and `--rule`
it runs `--fast`. Prints one JSON line: `rss_ours_gib` is the peak of all that was resident, `anonymous_gib` of what is
no file's (looked at every 10 ms), `bytes_a_voxel` the latter without what it was before prediction began. The logits
alone, held on the file's grid in float32, would be `logits_gib`.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
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
from autoseg.records.postprocessing import ComponentRule, ComponentSettings, LearningSettings, TargetRule
from autoseg.records.recipe import Mirroring, Recipe
from autoseg.records.results import PostprocessingRule, Selection, TrainedFold
from autoseg.records.workspace import Paths
from autoseg.storage import tensors

CONFIGURATION, SPACING_MM = "3d_fullres", (1.0, 0.8, 0.8)
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


def write_model(folder: Path, options: argparse.Namespace) -> None:
    """A dataset's folder with selected folds of random weights."""
    heads, patch, (z_mm, y_mm, x_mm) = options.heads, options.patch, (options.zoom * mm for mm in SPACING_MM)
    settings = Configuration(
        spacing_mm=(z_mm, y_mm, x_mm),
        patch_size=(patch, 2 * patch, 2 * patch),
        batch_size=2,
        median_shape=(300, 512, 512),
        normalization=("ct",),
        use_mask_for_norm=(False,),
        batch_dice=False,
        network=NETWORK,
        recipe=Recipe(mirroring=Mirroring(axes=(2,) if options.full else ())),
    )
    plan = Plan(
        name="large",
        preset="small",
        dataset="Large",
        channel_names=("CT",),
        labels=LabelScheme(
            class_names=("background", *(f"class {n}" for n in range(1, heads))),
            class_values=tuple(range(heads)),
            num_entries=heads,
        ),
        orientation="canonical",
        transpose=(0, 1, 2),
        intensities={"0": INTENSITIES},
        original_median_spacing_mm=SPACING_MM,
        configurations={CONFIGURATION: settings},
    )
    paths, folds = Paths(folder=folder), tuple(str(number) for number in range(options.folds))
    for fold in folds:
        write_fold(paths.fold(plan.name, CONFIGURATION, fold), plan, fold)
    chosen = Selection(plan=plan.name, configurations=(CONFIGURATION,), folds={CONFIGURATION: folds}, candidates=())
    write_record(paths.selection, chosen)
    rule = component_rule(plan.labels) if options.rule else None
    write_record(paths.postprocessing, PostprocessingRule(components=rule))


def component_rule(labels: LabelScheme) -> ComponentRule:
    """Removes components of every class that are small or unsure: all that a rule may listen to has to be computed."""
    targets = tuple(
        TargetRule(target=target.name, method="boosting", feature="probability_mean", minimum=0.2)
        for target in labels.targets
    )
    return ComponentRule(
        components=ComponentSettings(),
        learning=LearningSettings(),
        num_cases=10,
        num_groups=10,
        targets=targets,
        counts={},
        scores=(),
    )


def write_fold(folder: Path, plan: Plan, fold: str) -> None:
    """A finished fold with random weights."""
    network = build_network(NETWORK, 1, plan.labels.num_heads, seed=1 + int(fold))
    tensors.save(folder / "weights", {"weights": network.state_dict()}, {})
    write_record(folder / "plan.json", plan)
    record = TrainedFold(
        plan=plan.name,
        configuration=CONFIGURATION,
        fold=fold,
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


def write_case(path: Path, num_slices: int, size: int) -> int:
    """The image; returns its voxels."""
    shape, rng = (num_slices, size, size), np.random.default_rng(1)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    inside = (y / 0.7) ** 2 + (x / 0.9) ** 2 < 1
    blocks = np.kron(rng.normal(40, 200, (8, 8)), np.ones((-(-size // 8), -(-size // 8))))[:size, :size]
    noise = rng.normal(0, 10, (size, size))
    image = np.full((1, *shape), -1000, np.int16)
    for z in range(num_slices):  # rolled noise: drawing 262 million numbers would take longer than the rest
        bright = np.roll(blocks, (z // 32) * 7, 1) + np.roll(noise, (13 * z, 7 * z), (0, 1))
        image[0, z] = np.where(inside, bright, -1000)
    z_mm, y_mm, x_mm = SPACING_MM
    affine = ((0, 0, x_mm, 0), (0, y_mm, 0, 0), (z_mm, 0, 0, 0))
    write_image(path, image, Geometry(shape=shape, spacing_mm=SPACING_MM, affine=affine))
    return int(np.prod(shape))


def anonymous_bytes() -> int:
    """Resident memory of this process that is no file's."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


def predict(folder: Path, limit_bytes: int, threads: int, is_fast: bool) -> None:
    """In a process of its own: predict under the limit and print what it took."""
    from autoseg.cli.main import main as autoseg

    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
    import torch

    torch.set_num_threads(threads)
    before, done, highest = anonymous_bytes(), threading.Event(), [0]

    def watch() -> None:
        while not done.wait(0.01):
            highest[0] = max(highest[0], anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    wall, cpu = time.perf_counter(), time.process_time()
    arguments = ["--model", str(folder / "model"), "-i", str(folder / "images"), "-o", str(folder / "out")]
    code = autoseg(["predict", *arguments, "--device", "cpu", "--quiet", *(["--fast"] if is_fast else [])])
    seconds = {"seconds": round(time.perf_counter() - wall, 1), "cpu_seconds": round(time.process_time() - cpu, 1)}
    done.set()
    watcher.join()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"code": code, "peak_bytes": peak, "before": before, "anonymous": highest[0], **seconds}))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=1000)
    parser.add_argument("--size", type=int, default=512, help="voxels along y and x")
    parser.add_argument("--heads", type=int, default=5)
    parser.add_argument("--folds", type=int, default=1)
    parser.add_argument("--patch", type=int, default=64, help="voxels of a tile along z, half of those along y and x")
    parser.add_argument("--zoom", type=float, default=1.0, help="length of the network's voxels in the image's")
    parser.add_argument("--ending", default=".nii", help="of the image's file")
    parser.add_argument("--rule", action="store_true", help="with learned post-processing that hears each fold")
    parser.add_argument("--limit-gib", type=float, default=8.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--full", action="store_true", help="with mirroring and all tiles (with --rule: mirroring)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    is_full, limit = options.full or options.rule, int(options.limit_gib * 2**30)
    if options.measure:
        predict(options.measure, limit, options.threads, not is_full)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model", options)
        voxels = write_case(folder / "images" / f"case{options.ending}", options.slices, options.size)
        command = [sys.executable, __file__, "--measure", name, "--limit-gib", str(options.limit_gib)]
        command += ["--threads", str(options.threads), *(["--full"] if is_full else [])]
        environment = {"PYTHONPATH": str(Path(__file__).parents[1]), **os.environ}
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        took = json.loads(done.stdout.splitlines()[-1])
        written = (folder / "out" / f"case{options.ending}").is_file()
    assert took["code"] == 0, f"the case was not segmented: {took}"
    assert written, "no segmentation was written"
    assert took["peak_bytes"] <= limit, f"{took['peak_bytes'] / 2**30:.2f} GiB were resident"
    how = "rule" if options.rule else "full" if options.full else "fast"
    line = {
        "name": f"{options.slices}x{options.size}x{options.size}{options.ending}, {options.heads} heads, "
        f"{options.folds} folds, zoom {options.zoom:g}, {how}",
        "ours": took["cpu_seconds"],
        "unit": "CPU s",
        "wall_ours": took["seconds"],
        "rss_ours_gib": round(took["peak_bytes"] / 2**30, 2),
        "anonymous_gib": round(took["anonymous"] / 2**30, 2),
        "bytes_a_voxel": round((took["anonymous"] - took["before"]) / voxels, 2),
        "limit_gib": options.limit_gib,
        "logits_gib": round(4 * options.heads * voxels / 2**30, 1),
        "threads": options.threads,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
