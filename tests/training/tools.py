"""Small cases, samplers and learners for the tests of training."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from autoseg.losses.build import build_loss
from autoseg.networks.build import build_network
from autoseg.records.geometry import IntTriple
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import NetworkSpec
from autoseg.records.recipe import Augmentation, Mirroring, Optimizer, Recipe, Sampling, Schedule
from autoseg.training.batches import Sampler
from autoseg.training.learner import Learner, build_learner
from autoseg.training.schedule import Precision, TrainingSchedule
from autoseg.training.source import Source, TrainingCase

CPU = torch.device("cpu")
LABELS = LabelScheme(class_names=("background", "left", "right"), class_values=(0, 1, 5), num_entries=3)
PLAIN = Augmentation(spatial=None)
RECIPE = Recipe(
    optimizer=Optimizer(learning_rate=0.01),
    schedule=Schedule(epochs=4, iterations_per_epoch=2),
    precision="float32",
    mirroring=Mirroring(axes=()),
    augmentation=PLAIN,
    ema_decay=0.9,
)
SPEC = NetworkSpec(
    architecture="plain_unet",
    features_per_stage=(2, 4),
    strides=((1, 1, 1), (2, 2, 2)),
    kernel_sizes=((3, 3, 3), (3, 3, 3)),
    blocks_per_stage=(1, 1),
    decoder_blocks_per_stage=(1,),
)
SCHEDULE = TrainingSchedule(epochs=4, iterations_per_epoch=2, seed=7, precision="float32", device="cpu")


def make_source(shapes: Sequence[IntTriple], targets: Sequence[Sequence[int]] | None = None, maps: int = 1) -> Source:
    """Cases whose image is the flat index of each voxel, with a block of each wanted target.

    Args:
        shapes: one a case.
        targets: for each case the classes that occur in it; default: 1 and 2.
        maps: label maps a case; the second is the first shifted by one class.
    """
    voxels, cases = [], []
    for number, shape in enumerate(shapes):
        image = torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(1, *shape)
        labels = torch.zeros((maps, *shape), dtype=torch.int16)
        for target in (1, 2) if targets is None else targets[number]:
            labels[0, shape[0] // 2, shape[1] // 2, target] = target
        for extra in range(1, maps):
            labels[extra] = (labels[0] + 1) % LABELS.num_classes
        flat = labels[0].flatten().numpy()
        locations = tuple(np.flatnonzero(flat == target).astype(np.int32) for target in (1, 2))
        voxels.append((image, labels))
        cases.append(TrainingCase(f"case_{number}", shape, locations))

    def read(number: int, box: tuple[slice, slice, slice]) -> tuple[torch.Tensor, torch.Tensor]:
        image, labels = voxels[number]
        return image[(slice(None), *box)], labels[(slice(None), *box)]

    return Source(tuple(cases), 1, "memory", read)


def make_sampler(source: Source, recipe: Recipe = RECIPE, patch: IntTriple = (8, 8, 8), batch_size: int = 2) -> Sampler:
    """A sampler with seed 7."""
    return Sampler(source, recipe, LABELS, patch, batch_size, 7, CPU)


def scaled(source: Source, factor: float) -> Source:
    """The same cases with other intensities, near 1 for networks."""

    def read(number: int, box: tuple[slice, slice, slice]) -> tuple[torch.Tensor, torch.Tensor]:
        image, labels = source.read(number, box)
        return image * factor, labels

    return replace(source, read=read)


def make_learner(recipe: Recipe = RECIPE, precision: Precision = "float32", seed: int = 7) -> Learner:
    """A tiny network ready to be trained."""
    network = build_network(SPEC, 1, LABELS.num_heads, seed)
    return build_learner(network, build_loss(recipe, LABELS, False), recipe, precision, CPU)


def always_foreground(**changes: object) -> Recipe:
    """The recipe with every sample centred on foreground."""
    sampling = Sampling(foreground_fraction=1.0, rounding="probabilistic", **changes)  # type: ignore[arg-type]
    return RECIPE.model_copy(update={"sampling": sampling})
