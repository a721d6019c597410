"""A fold's records and folders in, everything that is known before its first step out."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from autoseg.errors import UsageError
from autoseg.inference.model import num_previous_channels
from autoseg.inference.sliding_window import head_permutation
from autoseg.losses.build import build_loss
from autoseg.networks.build import build_network
from autoseg.preprocessing import store
from autoseg.records.dataset import Dataset, Fold
from autoseg.records.plan import Configuration, Plan
from autoseg.training.batches import Sampler
from autoseg.training.batchgenerators_tier import batchgenerators_step, find_transforms
from autoseg.training.loop import Learner, build_learner
from autoseg.training.previous_stage import resample_previous_stage
from autoseg.training.schedule import Precision
from autoseg.training.source import open_source
from autoseg.training.validation import VALIDATION, Validator


@dataclass(frozen=True)
class Task:
    """One fold to train."""

    title: str
    folder: Path
    plan: Plan
    configuration: Configuration
    cases: Fold
    sampler: Sampler
    validator: Validator
    device: torch.device


def open_task(
    title: str,
    folder: Path,
    plan: Plan,
    name: str,
    cases: Fold,
    dataset: Dataset,
    store_folder: Path,
    previous_folds: Sequence[Path],
    seed: int,
    device: torch.device,
) -> Task:
    """Open the preprocessed cases of a fold for training and validation.

    Args:
        title: of the training, for messages.
        folder: of the fold.
        plan: of the model.
        name: of the configuration.
        cases: to train on and to hold out.
        dataset: gives the files of the held-out cases.
        store_folder: preprocessed cases of the configuration.
        previous_folds: folders of all folds of the previous stage; used by a cascade only.
        seed: of weights, sampling and augmentation.
        device: to train on.

    Raises:
        DataError: a preprocessed file is missing or damaged.
        UsageError: the previous stage is not trained, a transform is not installed, or class weights do not fit.
        ModelError: mirroring exchanges classes that are not there, or that a region holds one of.
    """
    configuration, labels = plan.configurations[name], plan.labels  # type: ignore[index]
    recipe, manifest = configuration.recipe, store.open_store(store_folder)
    weights = recipe.sampling.class_weights
    if weights is not None and (len(weights) != len(labels.targets) or min(weights) < 0):
        raise UsageError(
            f"{name}.recipe.sampling.class_weights must be {len(labels.targets)} numbers from 0 up, one a target "
            f"({', '.join(target.name for target in labels.targets)}); got {list(weights)}."
        )
    previous: Mapping[str, Path] | None = None
    if configuration.previous_stage is not None:
        where = folder.parent / "previous_stage"
        ids = (*cases.train, *cases.validation)
        previous = resample_previous_stage(previous_folds, manifest, labels, configuration.patch_zyx, where, ids)
    head_permutation(labels, recipe.mirroring.swap_pairs)
    source = open_source(
        store_folder,
        manifest,
        cases.train,
        len(plan.channel_names),
        device,
        previous,
        planned_bytes=planned_gpu_bytes(plan.planned_for),
    )
    transforms = find_transforms(recipe.augmentation.plugins)
    sampler = Sampler(
        source=source,
        recipe=recipe,
        labels=labels,
        patch_zyx=configuration.patch_zyx,
        batch_size=configuration.batch_size,
        seed=seed,
        device=device,
        has_previous=previous is not None,
        plugins=batchgenerators_step(transforms, seed) if transforms else None,
    )
    validator = Validator(folder / VALIDATION, store_folder, manifest, dataset, configuration, labels, device, previous)
    return Task(title, folder, plan, configuration, cases, sampler, validator, device)


def planned_gpu_bytes(planned_for: str) -> int:
    """Memory of the GPU in a plan's `planned_for`, for example `cuda 8 GiB`; 0 where it names none."""
    found = re.fullmatch(r"cuda ([0-9.]+) GiB", planned_for)
    return int(float(found.group(1)) * 2**30) if found else 0


def new_learner(task: Task, precision: Precision) -> Learner:
    """A fresh learner, its weights drawn from the seed."""
    configuration, labels = task.configuration, task.plan.labels
    num_channels = len(task.plan.channel_names) + num_previous_channels(configuration, labels)
    network = build_network(configuration.network, num_channels, labels.num_heads, task.sampler.seed)
    loss = build_loss(configuration.recipe, labels, configuration.batch_dice)
    return build_learner(network, loss, configuration.recipe, precision, task.device)
