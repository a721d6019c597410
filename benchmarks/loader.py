"""Milliseconds a training sample from the loaders: read, crop and augment, ours beside nnU-Net's, one CPU thread.

    AUTOSEG_PEER_PYTHON=/path/to/python python benchmarks/loader.py [--repeats 2] [--samples 50] [--only NAME]

Both sides get the same made-up volumes, each in its own preprocessed format (nnU-Net's by its own `save_case`), and the
same list of patches: case, centre, and whether it is rotated and scaled, in nnU-Net's shares exactly (16 % each alone,
4 % both), so that luck decides neither side's time. All else is drawn by each side as in a training. nnU-Net's side is
its `nnUNetDataLoader` with its default trainer's transforms; ours is timed from the files and from memory, where a
training holds its cases if they fit. Files are in the page cache. Fresh processes take turns; a figure is the median
over the repeats of the mean CPU time a sample, the memory the peak of the process (with torch; from memory: with all
cases). Prints one JSON line a case.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from both_sides import in_fresh_process, run_in_turn, sides


class Case(NamedTuple):
    patch: tuple[int, int, int]
    shape: tuple[int, int, int]
    num_labels: int
    """Background included."""
    channels: int = 1
    is_cascade: bool = False
    share: float = 1.0
    """Of the samples that were asked for."""


CASES = {
    "hippocampus 40x56x40": Case((40, 56, 40), (36, 50, 36), 3, share=4.0),
    "cube 128, 3 labels": Case((128, 128, 128), (160, 208, 208), 3),
    "cube 128, 20 labels": Case((128, 128, 128), (160, 208, 208), 20),
    "cube 128, 60 labels": Case((128, 128, 128), (160, 208, 208), 60, share=0.5),
    "cube 128, 4 channels": Case((128, 128, 128), (144, 176, 144), 4, channels=4),
    "dummy-2d 20x320x256": Case((20, 320, 256), (24, 380, 340), 3, share=2.0),
    "cube 128, cascade, 3 labels": Case((128, 128, 128), (160, 208, 208), 3, is_cascade=True, share=0.5),
}
NUM_VOLUMES = 2
# Of 25 samples: rotated alone, scaled alone, both; nnU-Net's odds of 0.2 each.
ROTATED, SCALED, BOTH, OUT_OF = 4, 4, 1, 25

Patch = tuple[int, tuple[int, int, int], bool, bool]
"""Number of the volume, centre, whether rotated, whether scaled."""


def make_volumes(case: Case, folder: Path) -> None:
    """Float32 noise with an ellipsoid of each class, and labels of a previous stage, moved by two voxels."""
    for number in range(NUM_VOLUMES):
        rng = np.random.default_rng(number)
        labels = np.zeros(case.shape, dtype=np.int16)
        axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in case.shape]
        for label in range(1, case.num_labels):
            centre, radius = rng.uniform(-0.6, 0.6, size=3), rng.uniform(0.15, 0.4, size=3)
            z, y, x = (((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radius, strict=True))
            labels[z[:, None, None] + y[:, None] + x < 1] = label
        noise = rng.standard_normal((case.channels, *case.shape), dtype=np.float32)
        np.save(folder / f"image_{number}.npy", noise + labels)
        np.save(folder / f"labels_{number}.npy", labels)
        np.save(folder / f"previous_{number}.npy", np.roll(labels, 2, axis=2))


def volumes(folder: Path) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    names = ("image", "labels", "previous")
    return [tuple(np.load(folder / f"{name}_{number}.npy") for name in names) for number in range(NUM_VOLUMES)]


def plan_patches(case: Case, count: int) -> list[Patch]:
    """Patches inside the volume; where that is smaller, in its middle."""
    rng = np.random.default_rng(1)
    kinds = np.array([i % OUT_OF for i in range(count)])
    rng.shuffle(kinds)
    patches = []
    for kind in kinds:
        rooms = [max(n - p, 0) for n, p in zip(case.shape, case.patch, strict=True)]
        low = [(n - p) // 2 if n < p else 0 for n, p in zip(case.shape, case.patch, strict=True)]
        start = [first + int(rng.integers(room + 1)) for first, room in zip(low, rooms, strict=True)]
        z, y, x = (s + p // 2 for s, p in zip(start, case.patch, strict=True))
        both = kind >= OUT_OF - BOTH
        patches.append(
            (
                int(rng.integers(NUM_VOLUMES)),
                (z, y, x),
                bool(kind < ROTATED or both),
                bool(ROTATED <= kind < ROTATED + SCALED or both),
            )
        )
    return patches


def mean_ms(make: Callable[[int, Patch], object], patches: Sequence[Patch]) -> float:
    """Mean CPU milliseconds of a sample, after one of each kind that does not count."""
    for kind in {patch[2:]: patch for patch in patches}.values():
        make(0, kind)
    started = time.process_time()
    for number, patch in enumerate(patches):
        make(number, patch)
    return 1e3 * (time.process_time() - started) / len(patches)


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def prepare_ours(case: Case, folder: Path) -> None:
    from autoseg.preprocessing import store
    from autoseg.preprocessing.locations import draw_locations
    from autoseg.records.geometry import Geometry
    from autoseg.records.results import PreprocessedCase
    from autoseg.storage.arrays import write_array

    stored = []
    for number, (image, labels, previous) in enumerate(volumes(folder)):
        rows = ((0.0, 0.0, 1.0, 0.0), (0.0, 1.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0))
        locations, counts = draw_locations(f"case_{number}", labels, our_labels(case))
        meta = PreprocessedCase(
            id=f"case_{number}",
            geometry=Geometry(shape=case.shape, spacing_mm=(1, 1, 1), affine=rows),
            axes=(0, 1, 2),
            flips=(False, False, False),
            crop=tuple((0, n) for n in case.shape),
            shape_before_crop=case.shape,
            spacing_before_mm=(1, 1, 1),
            shape=case.shape,
            spacing_mm=(1, 1, 1),
            foreground_voxels=counts,
        )
        stored.append(store.write_case(folder / "ours", image, labels, locations, meta, case.patch))
        write_array(folder / "ours" / f"previous_{number}.b2nd", previous, case.patch)
    store.write_manifest(folder / "ours", {}, stored)


def our_labels(case: Case):
    from autoseg.records.labels import LabelScheme

    values = tuple(range(case.num_labels))
    return LabelScheme(
        class_names=tuple(f"class {v}" for v in values), class_values=values, num_entries=case.num_labels
    )


def run_ours(case: Case, folder: Path, patches: Sequence[Patch]) -> dict[str, float]:
    from dataclasses import replace

    import torch

    from autoseg import console
    from autoseg.augmentation.policies import nnunet_augmentation
    from autoseg.preprocessing import store
    from autoseg.records.recipe import Recipe
    from autoseg.training.batches import Sampler, assemble, draw_batch, read_draw
    from autoseg.training.source import open_source
    from autoseg.training.tiers import held_types

    torch.set_num_threads(1)
    console.configure(quiet=True)
    manifest, device, labels = store.open_store(folder / "ours"), torch.device("cpu"), our_labels(case)
    ids = sorted(manifest.cases)
    previous = {name: folder / "ours" / f"previous_{number}.b2nd" for number, name in enumerate(ids)}
    policy = nnunet_augmentation(False, case.patch)

    def recipe(rotates: bool, scales: bool) -> Recipe:
        odds = {"rotation_probability": float(rotates), "scaling_probability": float(scales)}
        spatial = policy.spatial.model_copy(update=odds)
        return Recipe(augmentation=policy.model_copy(update={"spatial": spatial}))

    found = {}
    for tier in ("disk", "memory"):  # in this order: the peak grows only
        source = open_source(
            folder / "ours",
            manifest,
            ids,
            case.channels,
            device,
            previous if case.is_cascade else None,
            tier,
            held=held_types(["zscore"], case.num_labels),
        )
        samplers = {
            (rotates, scales): Sampler(
                source, recipe(rotates, scales), labels, case.patch, 1, 0, device, labels if case.is_cascade else None
            )
            for rotates in (False, True)
            for scales in (False, True)
        }

        def make(number: int, patch: Patch, samplers=samplers) -> object:
            sampler, place = samplers[patch[2:]], (0, number)
            draw = replace(draw_batch(sampler, place)[0], case=patch[0], centre=patch[1])
            return assemble(sampler, place, [(draw, read_draw(sampler, draw))])

        found[f"ms_{tier}"] = mean_ms(make, patches)
        found[f"rss_{tier}"] = peak_gib()
    return found


def prepare_peer(case: Case, folder: Path) -> None:
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    (folder / "peer").mkdir()
    (folder / "peer_previous").mkdir()
    for number, (image, labels, previous) in enumerate(volumes(folder)):
        labels, previous = labels[None], previous.astype(np.uint8)
        classes = list(range(1, case.num_labels))
        properties = {"class_locations": DefaultPreprocessor._sample_foreground_locations(labels, classes)}
        blocks, chunks = comp_blosc2_params(image.shape, case.patch, image.itemsize)
        blocks_seg, chunks_seg = comp_blosc2_params(labels.shape, case.patch, labels.itemsize)
        name = f"case_{number}"
        nnUNetDatasetBlosc2.save_case(
            image, labels, properties, str(folder / "peer" / name), chunks, blocks, chunks_seg, blocks_seg
        )
        nnUNetDatasetBlosc2.save_seg(
            previous, str(folder / "peer_previous" / name), tuple(chunks_seg[1:]), tuple(blocks_seg[1:])
        )


def run_peer(case: Case, folder: Path, patches: Sequence[Patch]) -> dict[str, float]:
    import torch
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.set_num_threads(1)
    np.random.seed(0)  # noqa: NPY002 - the peer draws from the global generator
    torch.manual_seed(0)
    flat = max(case.patch) / case.patch[0] > 3
    limit = np.deg2rad(180 if flat else 30)
    angles, foreground = (-limit, limit), list(range(1, case.num_labels))
    enlarged = [int(n) for n in get_patch_size(case.patch, angles, angles, angles, (0.85, 1.25))]
    if flat:
        enlarged[0] = case.patch[0]
    transforms = nnUNetTrainer.get_training_transforms(
        case.patch, angles, None, (0, 1, 2), flat, is_cascaded=case.is_cascade, foreground_labels=foreground
    )
    spatial = next(one for one in transforms.transforms if isinstance(one, SpatialTransform))
    previous = str(folder / "peer_previous") if case.is_cascade else None
    dataset = nnUNetDatasetBlosc2(str(folder / "peer"), folder_with_segs_from_previous_stage=previous)
    labels = SimpleNamespace(all_labels=foreground, has_ignore_label=False)
    loader = nnUNetDataLoader(dataset, 1, enlarged, case.patch, labels, 0.33, transforms=transforms)

    def make(number: int, patch: Patch) -> object:  # noqa: ARG001
        volume, centre, rotates, scales = patch
        spatial.p_rotation, spatial.p_scaling = float(rotates), float(scales)
        start = [c - size // 2 for c, size in zip(centre, enlarged, strict=True)]
        stop = [first + size for first, size in zip(start, enlarged, strict=True)]
        loader.get_indices = lambda: [dataset.identifiers[volume]]
        loader.get_bbox = lambda *_: (start, stop)
        return loader.generate_train_batch()

    return {"ms": mean_ms(make, patches), "rss": peak_gib()}


WORKERS = {"ours": run_ours, "peer": run_peer}
PREPARE = {"ours": prepare_ours, "peer": prepare_peer}


def compare(name: str, repeats: int, samples: int) -> dict[str, object]:
    count = max(OUT_OF, round(samples * CASES[name].share / OUT_OF) * OUT_OF)
    with tempfile.TemporaryDirectory() as folder:
        make_volumes(CASES[name], Path(folder))

        def arguments(task: str) -> list[object]:
            return ["--worker", task, name, folder, "--samples", count]

        for side in sides():
            in_fresh_process(__file__, side, arguments(f"prepare-{side}"), threads=1)
        runs = run_in_turn(__file__, arguments, repeats, threads=1)

    def figure(side: str, key: str) -> float | None:
        return statistics.median(run[key] for run in runs[side]) if side in runs else None

    ours, disk, peer = figure("ours", "ms_memory"), figure("ours", "ms_disk"), figure("peer", "ms")
    return {
        "name": f"loader {name}",
        "unit": "ms CPU a sample, 1 thread",
        "samples": count,
        "ours": round(ours, 2),
        "ours_disk": round(disk, 2),
        "peer": peer and round(peer, 2),
        "ratio": peer and round(peer / ours, 2),
        "ratio_disk": peer and round(peer / disk, 2),
        "rss_ours_gib": round(figure("ours", "rss_memory"), 2),
        "rss_ours_disk_gib": round(figure("ours", "rss_disk"), 2),
        "rss_peer_gib": peer and round(figure("peer", "rss"), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--samples", type=int, default=50, help="of a case (some take a multiple); rounded to 25")
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--worker", nargs=3, metavar=("TASK", "CASE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        task, name, folder = arguments.worker
        case, where = CASES[name], Path(folder)
        if task.startswith("prepare-"):
            PREPARE[task.removeprefix("prepare-")](case, where)
            print("{}")
        else:
            print(json.dumps(WORKERS[task](case, where, plan_patches(case, arguments.samples))))
        return
    for name in [arguments.only] if arguments.only else CASES:
        found = compare(name, arguments.repeats, arguments.samples)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
