"""Memory of one large case, stage by stage: read and prepared, exported and written, post-processed by a rule.

    python benchmarks/case_memory.py [--slices 250] [--size 512] [--heads 30] [--zoom 1.25] [--ending .nii.gz]
        [--free-gib 0.1] [--stages prepare export postprocess]

The case is a CT (int16, air around a body of blocks of different brightness); logits are made up row by row, so that
no network's time and memory is in it. Each stage runs in a process of its own whose resident memory that is no file's
is looked at every 5 ms: `anonymous_gib` is its peak without what was there before, `bytes_a_voxel` the same for a voxel
of the file. Prints one JSON line a stage. With `PYTHONPATH` another version of autoseg is measured.

prepare  read the file, turn, crop, normalise, bring to a grid whose voxels are `--zoom` times as long
export   logits of `--heads` heads on that grid to labels, and these to a file, which is read back and compared
postprocess  logits of two folds to labels after a rule of components that judges by each fold's probabilities;
         `all_heads_gib` is what the probabilities of one fold would take in float16
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from made_case import CONFIGURATION, SPACING_MM, geometry_of, plan_of, write_case

from autoseg.images.writing import write_label
from autoseg.records.geometry import IntTriple
from autoseg.records.plan import NetworkSpec
from autoseg.records.postprocessing import ComponentRule, ComponentSettings, LearningSettings, TargetRule
from autoseg.records.results import PostprocessingRule, PreprocessedCase
from autoseg.spatial.resampling import resampled_shape

STAGES = ("prepare", "export", "postprocess")
NETWORK = NetworkSpec(
    architecture="plain_unet",
    features_per_stage=(2,),
    strides=((1, 1, 1),),
    kernel_sizes=((3, 3, 3),),
    blocks_per_stage=(1,),
    decoder_blocks_per_stage=(),
)


def meta_of(shape: IntTriple, zoom: float) -> PreprocessedCase:
    z_mm, y_mm, x_mm = SPACING_MM
    after = (z_mm * zoom, y_mm * zoom, x_mm * zoom)
    return PreprocessedCase(
        id="case",
        geometry=geometry_of(shape),
        axes=(0, 1, 2),
        flips=(False, False, False),
        crop=tuple((0, n) for n in shape),
        shape_before_crop=shape,
        spacing_before_mm=SPACING_MM,
        shape=resampled_shape(shape, SPACING_MM, after),
        spacing_mm=after,
    )


def logit_rows(meta: PreprocessedCase, heads: int, seed: int) -> Iterator[Any]:
    """Rows `H n Y X`: a pattern of blobs, each of one class, and a little noise; 2 rows at a time."""
    import torch

    depth, height, width = meta.shape
    generator = torch.Generator().manual_seed(seed)
    classes = torch.from_numpy(np.random.default_rng(3).integers(0, heads, (depth // 32 + 1, 6, 6)))
    at_y, at_x = torch.arange(height) * 6 // height, torch.arange(width) * 6 // width
    noise = torch.randn((heads, 1, height, width), generator=generator)
    for start in range(0, depth, 2):
        rows = (noise.roll((7 * start, 3 * start), (2, 3))).repeat(1, min(2, depth - start), 1, 1)
        for number in range(rows.shape[1]):
            plane = classes[(start + number) // 32][at_y][:, at_x]
            rows[:, number].scatter_add_(0, plane[None], torch.full((1, height, width), 6.0))
        yield rows


def prepare(folder: Path, shape: IntTriple, options: argparse.Namespace) -> None:
    from autoseg.datasets.pairs import read_case_image
    from autoseg.preprocessing.prepare import crop_case, onto_grid
    from autoseg.records.dataset import Case

    name = f"case{options.ending}"
    plan = plan_of(options.heads, NETWORK, options.zoom)
    image = read_case_image(folder, Case(id="case", images=(name,)), 1)
    found = onto_grid(crop_case("case", image, None, plan), plan, CONFIGURATION)
    assert found.meta.geometry.shape == shape


def export(folder: Path, shape: IntTriple, options: argparse.Namespace) -> None:
    from autoseg.inference.export import native_windows
    from autoseg.inference.predictor import segmentation

    meta, labels = meta_of(shape, options.zoom), plan_of(options.heads, NETWORK, options.zoom).labels
    windows = native_windows(logit_rows(meta, options.heads, 1), meta)
    found = segmentation(((window,) for window in windows), meta, labels)
    write_label(folder / f"out{options.ending}", labels.to_file(found), meta.geometry)


def postprocess(folder: Path, shape: IntTriple, options: argparse.Namespace) -> None:
    import torch

    from autoseg.inference.export import native_windows, probability_depth
    from autoseg.postprocessing.case_grid import read_case_grid
    from autoseg.records.dataset import Case
    from autoseg.selection.case_segmentation import segment_case
    from autoseg.selection.predictor import Predictor

    meta, plan = meta_of(shape, options.zoom), plan_of(options.heads, NETWORK, options.zoom)
    targets = tuple(
        TargetRule(target=target.name, method="probability_mean", feature="probability_mean", minimum=0.5)
        for target in plan.labels.targets
    )
    components = ComponentRule(
        components=ComponentSettings(),
        learning=LearningSettings(),
        num_cases=10,
        num_groups=10,
        targets=targets,
        counts={},
        scores=(),
    )
    model: Any = SimpleNamespace(plan=plan, networks=(0, 1))  # all that is read of it after the networks ran
    predictor = Predictor((model,), PostprocessingRule(components=components), torch.device("cpu"))
    depth = probability_depth(options.heads, shape)
    folds = (native_windows(logit_rows(meta, options.heads, seed), meta, depth) for seed in (1, 2))
    case = Case(id="case", images=(f"case{options.ending}",))
    segment_case(
        predictor,
        meta,
        zip(*folds, strict=True),
        lambda: read_case_grid(folder, case, meta, plan, CONFIGURATION),
        folder,
        lambda _: None,
    )


def anonymous_bytes() -> int:
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


def measure(stage: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Run a stage in this process and watch it."""
    import torch

    if options.free_gib is not None:
        from autoseg.storage import large_arrays

        large_arrays.available_memory_bytes = lambda: int(options.free_gib * 2**30)
    torch.set_num_threads(options.threads)
    shape = (options.slices, options.size, options.size)
    before, done, highest = anonymous_bytes(), threading.Event(), [0]

    def watch() -> None:
        while not done.wait(0.005):
            highest[0] = max(highest[0], anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    cpu = time.process_time()
    {"prepare": prepare, "export": export, "postprocess": postprocess}[stage](folder, shape, options)
    cpu = time.process_time() - cpu
    done.set()
    watcher.join()
    peak = highest[0] - before
    return {
        "anonymous_gib": round(peak / 2**30, 3),
        "bytes_a_voxel": round(peak / np.prod(shape), 2),
        "cpu_seconds": round(cpu, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=250)
    parser.add_argument("--size", type=int, default=512, help="voxels along y and x")
    parser.add_argument("--heads", type=int, default=30)
    parser.add_argument("--zoom", type=float, default=1.25)
    parser.add_argument("--ending", default=".nii.gz")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--free-gib", type=float, help="as if no more were free when arrays are made")
    parser.add_argument("--stages", nargs="*", choices=STAGES, default=STAGES)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.stages[0], options.measure, options)))
        return
    shape = (options.slices, options.size, options.size)
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), **os.environ}
    with tempfile.TemporaryDirectory() as name:
        write_case(Path(name) / f"case{options.ending}", shape)
        for stage in options.stages:
            command = [sys.executable, __file__, *sys.argv[1:], "--stages", stage, "--measure", name]
            done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            title = f"{stage}: {'x'.join(map(str, shape))}{options.ending}, zoom {options.zoom:g}"
            if options.free_gib is not None:
                title += f", as if {options.free_gib:g} GiB were free"
            line = {"name": title, **json.loads(done.stdout.splitlines()[-1])}
            if stage != "prepare":
                line |= {"heads": options.heads, "all_heads_gib": round(2 * options.heads * np.prod(shape) / 2**30, 2)}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
