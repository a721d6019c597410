"""A fold's records and folders in, everything that is known before its first step out."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from autoseg.augmentation.spatial import outside_label
from autoseg.errors import UsageError
from autoseg.inference.mirroring import head_permutation
from autoseg.inference.model import new_network
from autoseg.losses.build import build_loss
from autoseg.networks.blocks import recompute_activations
from autoseg.preprocessing import store
from autoseg.preprocessing.normalize import masked_channels
from autoseg.records.dataset import Dataset, Fold
from autoseg.records.distractors import DistractorCensus
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import Configuration, Plan
from autoseg.records.recipe import Sampling
from autoseg.training.batches import Sampler
from autoseg.training.compiling import compile_network
from autoseg.training.custom_transforms import batchgenerators_step, find_transforms
from autoseg.training.distractors import mark_distractors
from autoseg.training.initial_weights import Start, load_start, slowed
from autoseg.training.learner import Learner, build_learner
from autoseg.training.out_of_fold import Earlier
from autoseg.training.previous_stage import resample_previous_stage
from autoseg.training.schedule import Precision
from autoseg.training.source import open_source
from autoseg.training.tiers import HeldTypes, held_types
from autoseg.training.validation import VALIDATION, Validator
from autoseg.training.watching import choose_watched


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
    start: Start | None = None
    """Trained weights from which it starts; None: from the seed."""
    census: DistractorCensus | None = None
    """What false positives the training cases have; None: they are not taught."""
    watched: tuple[str, ...] = ()
    """Training cases that are set aside to watch the training."""


def open_task(
    title: str,
    folder: Path,
    plan: Plan,
    name: str,
    cases: Fold,
    dataset: Dataset,
    store_folder: Path,
    earlier: Earlier,
    start: Start | None,
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
        earlier: what a cascade and a training with distractors learn from.
        start: trained weights that it starts from; None: the seed's.
        seed: of weights, sampling and augmentation.
        device: to train on.

    Raises:
        DataError: a preprocessed file is missing or damaged.
        UsageError: what is learned from is not trained, a transform is not installed, class weights do not fit, or
            no case is left to train on beside the watched ones.
        ModelError: mirroring exchanges classes that are not there, or that a region holds one of.
    """
    configuration, labels = plan.configurations[name], plan.labels  # type: ignore[index]
    configuration = configuration if start is None else slowed(configuration, start)
    recipe, patch, manifest = configuration.recipe, configuration.patch_zyx, store.open_store(store_folder)
    learned = configuration.learned_labels(labels)
    _check_sampling_weights(name, recipe.sampling, learned)
    previous: Mapping[str, Path] | None = None
    if configuration.previous_stage is not None:
        where = folder.parent / "previous_stage"
        ids = (*cases.train, *cases.validation)
        previous = resample_previous_stage(earlier.previous_stage, manifest, labels, patch, where, ids)
    head_permutation(labels, recipe.mirroring.swap_pairs)
    marked = None
    if recipe.distractors is not None:
        where = folder.parent / "distractors"
        marked = mark_distractors(
            recipe.distractors, earlier.base, store_folder, manifest, labels, patch, where, cases.train
        )
    watched = choose_watched(cases.train, recipe.watch, seed)
    source = open_source(
        store_folder,
        manifest,
        tuple(case for case in cases.train if case not in watched),
        len(plan.channel_names),
        device,
        previous,
        planned_bytes=planned_gpu_bytes(plan.planned_for),
        marked=marked,
        held=types_held(configuration, labels),
    )
    transforms = find_transforms(recipe.augmentation.plugins)
    sampler = Sampler(
        source=source,
        recipe=recipe,
        labels=learned,
        patch_zyx=patch,
        batch_size=configuration.batch_size,
        seed=seed,
        device=device,
        previous_labels=None if previous is None else labels,
        plugins=batchgenerators_step(transforms, seed) if transforms else None,
        masked_channels=_masked_channels(configuration),
        divisor_zyx=configuration.divisor_zyx,
    )
    validator = Validator(folder / VALIDATION, store_folder, manifest, dataset, configuration, labels, device, previous)
    census = None if marked is None else marked.census
    return Task(title, folder, plan, configuration, cases, sampler, validator, device, start, census, watched)


def types_held(configuration: Configuration, labels: LabelScheme) -> HeldTypes:
    """Types in which a training holds the voxels of its cases; `labels` are the dataset's."""
    num_classes = configuration.learned_labels(labels).num_classes
    outside = outside_label(num_classes) if _masked_channels(configuration) else 0
    return held_types(configuration.normalization, num_classes, outside)


def _masked_channels(configuration: Configuration) -> tuple[int, ...]:
    """Channels that training sets to 0 outside the nonzero mask."""
    if not configuration.recipe.augmentation.zero_outside:
        return ()
    return masked_channels(configuration.normalization, configuration.use_mask_for_norm)


def _check_sampling_weights(name: str, sampling: Sampling, learned: LabelScheme) -> None:
    weights, targets = sampling.class_weights, learned.targets
    if weights is not None and (len(weights) != len(targets) or min(weights) < 0):
        raise UsageError(
            f"{name}.recipe.sampling.class_weights must be {len(targets)} numbers from 0 up, one a target "
            f"({', '.join(target.name for target in targets)}); got {list(weights)}."
        )


def planned_gpu_bytes(planned_for: str) -> int:
    """Memory of the GPU in a plan's `planned_for`, for example `cuda 8 GiB`; 0 where it names none."""
    found = re.fullmatch(r"cuda ([0-9.]+) GiB", planned_for)
    return int(float(found.group(1)) * 2**30) if found else 0


def new_learner(task: Task, precision: Precision) -> Learner:
    """A fresh learner, its weights drawn from the seed, or those of the fold that is fine-tuned."""
    configuration, learned = task.configuration, task.sampler.labels
    network = new_network(task.plan, configuration, task.sampler.seed)
    if task.start is not None:
        load_start(task.start, network, task.plan, configuration, task.title)
    if configuration.recipe.recompute_activations:
        recompute_activations(network)
    loss = build_loss(configuration.recipe, learned, configuration.batch_dice)
    learner = build_learner(network, loss, configuration.recipe, precision, task.device)
    channels = len(task.plan.channel_names) + configuration.num_previous_channels(task.plan.labels)
    sample = torch.zeros((configuration.batch_size, channels, *configuration.patch_zyx), device=task.device)
    compile_network(learner.network, configuration.recipe.compilation, sample, precision, task.title)
    return learner
