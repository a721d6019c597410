"""Batches and whole training steps as on a GPU: nothing waits, nothing meets across devices, all shapes stay."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from autoseg.augmentation.policies import POLICIES
from autoseg.losses.build import build_loss
from autoseg.records.geometry import IntTriple
from autoseg.records.recipe import CascadeAugmentation, Mirroring, Optimizer
from autoseg.training.batches import Batch, Sampler, batches
from autoseg.training.learner import Learner, build_learner, train_step
from autoseg.training.schedule import Precision
from autoseg.training.source import Source, TrainingCase
from autoseg.training.tiers import Tier
from tests.fake_gpu import GPU, WAITS, fake_gpu, on_gpu
from tests.training.tools import LABELS, RECIPE, SPEC

SHAPES: tuple[IntTriple, ...] = ((20, 24, 22), (9, 30, 17))  # the second is smaller than some of the patches
NUM_STEPS = 7  # more than are made ahead
SMALL = 2**16
"""Bytes up to which the driver takes what is not pinned without waiting."""


def source_of(tier: Tier, maps: int = 1) -> Source:
    """Two cases of two channels, where the tier holds them."""
    where = GPU if tier == "device" else torch.device("cpu")
    voxels = [
        (
            torch.zeros((2, *shape), dtype=torch.float16, device=where),
            torch.zeros((maps, *shape), dtype=torch.uint8, device=where),
        )
        for shape in SHAPES
    ]

    def read(number: int, box: tuple[slice, slice, slice]) -> tuple[Tensor, Tensor]:
        image, labels = voxels[number]
        return image[(slice(None), *box)], labels[(slice(None), *box)]

    known = tuple(np.arange(5, dtype=np.int32) for _ in LABELS.targets)
    return Source(tuple(TrainingCase(f"case_{n}", s, known) for n, s in enumerate(SHAPES)), 2, tier, read)


def sampler_of(policy: str, patch: IntTriple, source: Source, elastic: float = 0.0) -> Sampler:
    """Of a cascade where the cases have two label maps."""
    augmentation = POLICIES[policy](patch[0] == 1, patch[1:] if patch[0] == 1 else patch)
    if augmentation.spatial is not None:
        spatial = augmentation.spatial.model_copy(update={"elastic_probability": elastic})
        augmentation = augmentation.model_copy(update={"spatial": spatial})
    mirroring = Mirroring(axes=(0, 1, 2), swap_axis=2, swap_pairs=((1, 2),))
    recipe = RECIPE.model_copy(update={"augmentation": augmentation, "mirroring": mirroring})
    return Sampler(source, recipe, LABELS, patch, 2, 7, GPU)


@pytest.mark.parametrize("patch", [(16, 16, 16), (4, 24, 24), (1, 24, 24)], ids=["3d", "dummy 2d", "2d"])
@pytest.mark.parametrize("policy", ["nnunet", "da5", "none"])
def test_batches_of_cases_on_the_gpu_wait_for_nothing(policy: str, patch: IntTriple) -> None:
    with fake_gpu() as watch:
        sampler = sampler_of(policy, patch, source_of("device"), elastic=0.5)
        _check_batches(sampler)
    assert all(copy.nbytes < SMALL for copy in watch.copies), "bases, profiles, tables"


@pytest.mark.parametrize("tier", ["memory", "disk"])
@pytest.mark.parametrize("policy", ["nnunet", "none"])
def test_batches_from_elsewhere_go_over_pinned(policy: str, tier: Tier) -> None:
    source = source_of(tier)  # real tensors: its threads know nothing of fake ones
    with fake_gpu() as watch:
        _check_batches(sampler_of(policy, (16, 16, 16), source))
    crops = [copy for copy in watch.copies if copy.is_pinned]
    assert len(crops) == 2 * 2 * NUM_STEPS, "an image and its labels a sample"
    assert {copy.dtype for copy in crops} == {torch.float16, torch.uint8}, "as they are held"
    assert all(copy.is_pinned or copy.nbytes < SMALL for copy in watch.copies)


def _check_batches(sampler: Sampler) -> None:
    """All of one shape, type and place."""
    for batch in batches(sampler, [(0, step) for step in range(NUM_STEPS)]):
        assert (batch.images.device, batch.labels.device) == (GPU, GPU)
        assert (batch.images.shape, batch.images.dtype) == ((2, 2, *sampler.patch_zyx), torch.float32)
        assert (batch.labels.shape, batch.labels.dtype) == ((2, *sampler.patch_zyx), torch.int16)


def test_batches_of_a_cascade_wait_for_nothing_unless_components_are_dropped() -> None:
    shapes = set()
    with fake_gpu():
        usual = sampler_of("nnunet", (16, 16, 16), source_of("device", maps=2))
        for drops in (0.0, 1.0):
            cascade = CascadeAugmentation(morphology_probability=1.0, drop_probability=drops)
            augmentation = usual.recipe.augmentation.model_copy(update={"cascade": cascade})
            recipe = usual.recipe.model_copy(update={"augmentation": augmentation})
            stream = batches(replace(usual, recipe=recipe, previous_labels=LABELS), [(0, n) for n in range(NUM_STEPS)])
            if drops:
                with pytest.raises(WAITS):
                    list(stream)
            else:
                shapes |= {batch.images.shape for batch in stream}
    assert shapes == {(2, 2 + 2, 16, 16, 16)}


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon", "schedule_free"])
def test_steps_wait_for_nothing(optimizer: str, precision: Precision) -> None:
    averages = {} if optimizer == "schedule_free" else {"ema_decay": 0.9}
    changes = {"ema_decay": None, **averages, "optimizer": Optimizer(name=optimizer, momentum=0.9)}  # type: ignore[arg-type]
    recipe = RECIPE.model_copy(update=changes)
    with fake_gpu() as watch:
        network = on_gpu(SPEC, 2, LABELS.num_heads)
        learner = build_learner(network, build_loss(recipe, LABELS, True), recipe, precision, GPU)
        images = torch.zeros((2, 2, 8, 8, 8), device=GPU)
        batch = Batch(images, torch.zeros((2, 8, 8, 8), dtype=torch.int16, device=GPU), ("a", "b"))
        with _gradients(learner):
            losses = [train_step(learner, batch, 0.1 / (step + 1), step) for step in range(3)]
        assert {(loss.device, loss.shape, loss.dtype) for loss in losses} == {(GPU, (), torch.float32)}
        assert {value.device for state in learner.optimizer.state.values() for value in _tensors(state)} == {GPU}
        assert {value.device for value in learner.average.values()} <= {GPU}
        with pytest.raises(WAITS):
            float(losses[0])
    assert len(watch.copies) <= 1, "the weights of the classes, once"


def _tensors(state: dict[str, object]) -> Iterator[Tensor]:
    return (value for value in state.values() if isinstance(value, Tensor))


@contextmanager
def _gradients(learner: Learner) -> Iterator[None]:
    """Some where the autograd engine would leave them: the engine refuses a GPU that is not there."""

    def backward(loss: Tensor) -> None:
        assert loss.requires_grad
        for parameter in learner.network.parameters():
            assert parameter.grad is None, "gradients of the step before are not added to"
            parameter.grad = torch.empty_like(parameter)

    with mock.patch.object(Tensor, "backward", backward):
        yield
