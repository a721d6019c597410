"""Milliseconds of augmentation a sample, ours beside nnU-Net's (batchgeneratorsv2), one CPU thread each.

    AUTOSEG_PEER_PYTHON=/path/to/python python benchmarks/augmentation.py [--repeats 3] [--only NAME]

Both sides draw nnU-Net's default policy and are given the same volumes in memory. Ours cuts each patch out of the
volume; nnU-Net's gets its enlarged patch ready cut, outside the clock. Ours is run alone when no peer is named. The
sides take turns, each time in a fresh process; the figure is the median over the repeats of the mean CPU time over
the samples. Prints one JSON line a case, the memory being the peak of the whole process.
"""

import argparse
import json
import resource
import statistics
import time

import numpy as np
from both_sides import run_in_turn

CASES = {
    # name: (patch z y x, volume z y x, number of classes, samples)
    "hippocampus 40x56x40": ((40, 56, 40), (73, 81, 73), 3, 150),
    "cube 128, 3 labels": ((128, 128, 128), (205, 205, 205), 3, 24),
    "cube 128, 20 labels": ((128, 128, 128), (205, 205, 205), 20, 24),
    "dummy-2d 20x320x256": ((20, 320, 256), (20, 430, 430), 3, 40),
}


def make_case(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Image 1 Z Y X and labels Z Y X: noise with ellipsoids of each class."""
    _, shape, num_classes, _ = CASES[name]
    rng = np.random.default_rng(0)
    labels = np.zeros(shape, dtype=np.int16)
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in shape]
    for label in range(1, num_classes):
        centre, radius = rng.uniform(-0.6, 0.6, size=3), rng.uniform(0.15, 0.4, size=3)
        z, y, x = (((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radius, strict=True))
        labels[z[:, None, None] + y[:, None] + x < 1] = label
    image = rng.normal(size=shape).astype(np.float32) + labels
    return image[None], labels


def time_samples(name: str, prepare, augment) -> dict[str, float]:
    """Mean CPU milliseconds of `augment(prepare(i))` and the peak memory of this process."""
    augment(prepare(0))
    seconds = 0.0
    num_samples = CASES[name][3]
    for i in range(num_samples):
        given = prepare(i)
        start = time.process_time()
        augment(given)
        seconds += time.process_time() - start
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"ms": 1e3 * seconds / num_samples, "rss_gib": peak_gib}


def run_ours(name: str) -> dict[str, float]:
    import torch

    from autoseg.augmentation.draw import draw_spatial, source_box
    from autoseg.augmentation.intensity import apply_intensity, draw_intensity
    from autoseg.augmentation.policies import nnunet_augmentation
    from autoseg.augmentation.spatial import sample_patch
    from autoseg.records.recipe import Mirroring

    torch.set_num_threads(1)
    patch, shape, num_classes, _ = CASES[name]
    image, labels = (torch.from_numpy(array) for array in make_case(name))
    policy, mirroring, centre = nnunet_augmentation(False, patch), Mirroring(), [n // 2 for n in shape]

    def augment(rng):
        parameters = draw_spatial(policy, mirroring, patch, rng)
        low, high = source_box(parameters, patch, centre)
        first = [max(a, 0) for a in low]
        box = tuple(slice(a, min(b, n)) for a, b, n in zip(first, high, shape, strict=True))
        piece = (image[(slice(None), *box)].clone(), labels[box].clone())
        sampled, voted = sample_patch(*piece, first, centre, patch, parameters, num_classes)
        return apply_intensity(sampled[None], [draw_intensity(policy, 1, rng)]), voted

    return time_samples(name, lambda i: np.random.default_rng([1, i]), augment)


def run_peer(name: str) -> dict[str, float]:
    import torch
    from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.set_num_threads(1)
    np.random.seed(0)  # noqa: NPY002 - the peer draws from the global generator
    torch.manual_seed(0)
    patch, shape, _, _ = CASES[name]
    flat = max(patch) / patch[0] > 3
    limit = np.deg2rad(180 if flat else 30)
    angles = (-limit, limit)
    enlarged = [int(n) for n in get_patch_size(patch, angles, angles, angles, (0.85, 1.25))]
    if flat:
        enlarged[0] = patch[0]
    starts = [(n - e) // 2 for n, e in zip(shape, enlarged, strict=True)]
    pads = [(max(0, -s), max(0, s + e - n)) for s, e, n in zip(starts, enlarged, shape, strict=True)]
    box = tuple(slice(max(0, s), max(0, s) + min(e, n)) for s, e, n in zip(starts, enlarged, shape, strict=True))
    image, labels = make_case(name)
    image = torch.from_numpy(np.pad(image[(slice(None), *box)], [(0, 0), *pads]))
    labels = torch.from_numpy(np.pad(labels[box], pads, constant_values=-1))[None]
    transforms = nnUNetTrainer.get_training_transforms(patch, angles, None, (0, 1, 2), flat)
    return time_samples(
        name,
        lambda _: {"image": image.clone(), "segmentation": labels.clone()},
        lambda given: transforms(**given),
    )


def compare(name: str, repeats: int) -> dict[str, object]:
    runs = run_in_turn(__file__, lambda side: ["--worker", side, name], repeats, threads=1)
    found: dict[str, object] = {"name": f"augmentation {name}", "unit": "ms CPU a sample, 1 thread"}
    for side in ("ours", "peer"):
        results = runs.get(side)
        found[side] = round(statistics.median(r["ms"] for r in results), 2) if results else None
        found[f"rss_{side}_gib"] = round(max(r["rss_gib"] for r in results), 2) if results else None
    found["ratio"] = round(found["peer"] / found["ours"], 2) if "peer" in runs else None
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--worker", nargs=2, metavar=("SIDE", "CASE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        side, name = arguments.worker
        print(json.dumps({"ours": run_ours, "peer": run_peer}[side](name)))
        return
    for name in [arguments.only] if arguments.only else CASES:
        print(json.dumps(compare(name, arguments.repeats)), flush=True)


if __name__ == "__main__":
    main()
