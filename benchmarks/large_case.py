"""A CT of 1000x512x512 voxels segmented end to end by `autoseg predict` in less memory than its logits would take.

    python benchmarks/large_case.py [--slices 1000] [--ending .nii] [--limit-gib 8] [--group-gib 2] [--free-gib 0.1]
        [--threads 2] [--full]

The image (int16, air around a body; packed where its format packs) and a model with 5 heads (a plain U-Net of two
stages and random weights, patch 64x128x128, the image's own spacing) are made first. Prediction runs in a process of
its own whose data segment (`RLIMIT_DATA`: heap and anonymous maps, which is where arrays and tensors live) the system
limits, so an allocation beyond it fails; its peak resident memory is checked against the same limit. Without `--full`
it runs `--fast`. Prints one JSON line. The logits alone, held on the file's grid in float32, would be 5 values a voxel:
`logits_gib`.

--group-gib  run in a memory control group of the kernel's, where pages of files, mapped ones included, count too, and
             the image has to be read from the disk
--free-gib   put arrays into files as if no more memory were free: their pages are resident as long as nobody else needs
             the memory, but no part of the limit
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from made_case import CONFIGURATION, plan_of, write_case
from memory_group import forget_pages, memory_group

from autoseg.networks.build import build_network
from autoseg.records.base import write_record
from autoseg.records.plan import NetworkSpec
from autoseg.records.recipe import Mirroring, Recipe
from autoseg.records.results import TrainedFold
from autoseg.storage import tensors

HEADS = 5
NETWORK = NetworkSpec(
    architecture="plain_unet",
    features_per_stage=(2, 4),
    strides=((1, 1, 1), (2, 2, 2)),
    kernel_sizes=((1, 1, 1), (3, 3, 3)),
    blocks_per_stage=(1, 1),
    decoder_blocks_per_stage=(1,),
)


def write_model(folder: Path) -> None:
    """A finished fold with random weights."""
    plan = plan_of(HEADS, NETWORK, recipe=Recipe(mirroring=Mirroring(axes=(2,))))
    network = build_network(NETWORK, 1, HEADS, seed=1)
    tensors.save(folder / "weights", {"weights": network.state_dict()}, {})
    write_record(folder / "plan.json", plan)
    record = TrainedFold(
        plan=plan.name,
        configuration=CONFIGURATION,
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


def predict(folder: Path, options: argparse.Namespace) -> None:
    """In a process of its own: predict under the limit and print what it took."""
    from autoseg.cli.main import main as autoseg

    limit = int(options.limit_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    import torch

    if options.free_gib is not None:
        from autoseg.storage import large_arrays

        large_arrays.available_memory_bytes = lambda: int(options.free_gib * 2**30)
    torch.set_num_threads(options.threads)
    wall, cpu = time.perf_counter(), time.process_time()
    arguments = ["--model", str(folder / "model"), "-i", str(folder / "images"), "-o", str(folder / "out")]
    code = autoseg(["predict", *arguments, "--device", "cpu", "--quiet", *([] if options.full else ["--fast"])])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = {"seconds": round(time.perf_counter() - wall, 1), "cpu_seconds": round(time.process_time() - cpu, 1)}
    print(json.dumps({"code": code, "peak_bytes": peak, **seconds}))


def run(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Start that process, in a group if one is asked for, and check what came of it."""
    image = next((folder / "images").iterdir())
    command = [sys.executable, __file__, *sys.argv[1:], "--measure", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    asked = nullcontext(None) if options.group_gib is None else memory_group(int(options.group_gib * 2**30))
    with asked as group:
        if group is not None:
            forget_pages(image)
        join = None if group is None else group.join
        done = subprocess.run(command, env=environment, check=False, stdout=subprocess.PIPE, text=True, preexec_fn=join)
        peak = {} if group is None else {"group_gib": options.group_gib, "peak_group_gib": group.peak_gib()}
    assert done.returncode == 0, f"the process ended with {done.returncode} (-9: the kernel ended it)"
    took: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert took["code"] == 0, f"the case was not segmented: {took}"
    assert (folder / "out" / image.name).is_file(), "no segmentation was written"
    return {**took, **peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=1000)
    parser.add_argument("--ending", default=".nii", help="format of the image")
    parser.add_argument("--limit-gib", type=float, default=8.0)
    parser.add_argument("--group-gib", type=float, help="memory of the control group to run in")
    parser.add_argument("--free-gib", type=float, help="as if no more were free when arrays are made")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--full", action="store_true", help="with mirroring and all tiles")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        predict(options.measure, options)
        return
    shape = (options.slices, 512, 512)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model" / "fold_0")
        write_case(folder / "images" / f"case{options.ending}", shape)
        took = run(folder, options)
    kept_in_files = options.free_gib is not None or options.group_gib is not None
    if not kept_in_files:
        assert took["peak_bytes"] <= options.limit_gib * 2**30, f"{took['peak_bytes'] / 2**30:.2f} GiB were resident"
    line = {
        "name": f"{options.slices}x512x512{options.ending}, {HEADS} heads, {'full' if options.full else 'fast'}",
        "ours": took["cpu_seconds"],
        "unit": "CPU s",
        "wall_ours": took["seconds"],
        "rss_ours_gib": round(took["peak_bytes"] / 2**30, 2),
        "limit_gib": options.limit_gib,
        **{key: took[key] for key in ("group_gib", "peak_group_gib") if key in took},
        **({} if options.free_gib is None else {"as_if_free_gib": options.free_gib}),
        "logits_gib": round(4 * HEADS * math.prod(shape) / 2**30, 1),
        "threads": options.threads,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
