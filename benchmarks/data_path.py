"""Share of a training step that goes into its data, on one CPU thread.

    python benchmarks/data_path.py [--repeats 3]

Twenty random volumes of Hippocampus' size in memory, patch 40x56x40, batch 2, the small preset's network (plain U-Net,
12 to 96 features). Drawing, cutting and augmenting a batch is timed apart from forward, loss, backward and optimiser,
both in CPU milliseconds; the smallest of the repeats counts. No peer: nnU-Net's data path runs in other processes.
Prints one JSON line a policy and precision.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from autoseg.augmentation.policies import POLICIES
from autoseg.losses.build import build_loss
from autoseg.networks.build import build_network
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import NetworkSpec
from autoseg.records.recipe import Mirroring, Recipe
from autoseg.training.batches import Sampler, batches
from autoseg.training.learner import build_learner, train_step
from autoseg.training.source import Source, TrainingCase

PATCH = (40, 56, 40)
FEATURES = (12, 24, 48, 96)
LABELS = LabelScheme(class_names=("background", "anterior", "posterior"), class_values=(0, 1, 2), num_entries=3)
SPEC = NetworkSpec(
    architecture="plain_unet",
    features_per_stage=FEATURES,
    strides=((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
    kernel_sizes=((3, 3, 3),) * 4,
    blocks_per_stage=(2,) * 4,
    decoder_blocks_per_stage=(2,) * 3,
)


def make_source(num_cases: int = 20) -> Source:
    """Noise with two blocks of labels, 36 +- 4 x 50 +- 4 x 35 +- 4 voxels."""
    rng = np.random.default_rng(0)
    voxels, cases = [], []
    for number in range(num_cases):
        shape = tuple(int(n) for n in np.array((36, 50, 35)) + rng.integers(-4, 5, size=3))
        labels = np.zeros(shape, dtype=np.int16)
        labels[10:20, 10:30, 10:20], labels[20:28, 10:30, 10:20] = 1, 2
        image = rng.normal(size=shape).astype(np.float32) + labels
        voxels.append((torch.from_numpy(image)[None], torch.from_numpy(labels)[None]))
        flat = labels.ravel()
        locations = tuple(np.flatnonzero(flat == k).astype(np.int32) for k in (1, 2))
        cases.append(TrainingCase(f"case_{number}", shape, locations))

    def read(number: int, box: tuple[slice, slice, slice]) -> tuple[torch.Tensor, torch.Tensor]:
        image, labels = voxels[number]
        return image[(slice(None), *box)], labels[(slice(None), *box)]

    return Source(tuple(cases), 1, "memory", read)


def best_ms(work: Callable[[], object], count: int, repeats: int) -> float:
    """Smallest mean CPU time of `count` units of `work` over the repeats, in ms."""
    means = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        means.append(1e3 * (time.process_time() - started) / count)
    return min(means)


def main() -> None:
    parser = argparse.ArgumentParser(description=Path(__file__).name)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    device, source = torch.device("cpu"), make_source()
    for policy in ("light", "nnunet"):
        mirroring = Mirroring(axes=(0, 1, 2) if policy == "nnunet" else ())
        recipe = Recipe(augmentation=POLICIES[policy](False, PATCH), mirroring=mirroring)
        sampler = Sampler(source, recipe, LABELS, PATCH, 2, 0, device)
        places = [(0, step) for step in range(50)]
        data_ms = best_ms(lambda sampler=sampler, places=places: list(batches(sampler, places)), 50, options.repeats)
        some = list(batches(sampler, places[:3]))
        for precision in ("float32", "bfloat16"):
            network = build_network(SPEC, 1, LABELS.num_heads, seed=0)
            learner = build_learner(network, build_loss(recipe, LABELS, False), recipe, precision, device)
            train_step(learner, some[0], 1e-3, 0)

            def steps(learner: object = learner, some: list = some) -> None:
                for number, batch in enumerate(some):
                    train_step(learner, batch, 1e-3, number)

            step_ms = best_ms(steps, len(some), options.repeats)
            result = SimpleNamespace(
                name=f"data path, {policy} policy, {precision}",
                data=round(data_ms, 2),
                step=round(step_ms, 1),
                unit="ms CPU a batch of 2",
                share=round(data_ms / (data_ms + step_ms), 4),
            )
            print(json.dumps(vars(result)), flush=True)


if __name__ == "__main__":
    main()
