"""Augmentation on a GPU waits for nothing, and shapes never depend on values: tensors without values go through."""

import numpy as np
import pytest
import torch

from autoseg.augmentation.cascade import corrupt_previous
from autoseg.augmentation.draw import draw_spatial, source_box
from autoseg.augmentation.intensity import TRANSFORMS, apply_intensity, draw_intensity, zero_outside
from autoseg.augmentation.policies import POLICIES
from autoseg.augmentation.spatial import sample_patch
from autoseg.records.recipe import Augmentation, CascadeAugmentation, IntensityAugmentation, Mirroring
from tests.fake_gpu import GPU, WAITS, fake_gpu

RANGES = {"median": (2, 4), "rectangles": (1, 4), "brightness_shift": (0.0, 0.5), "local_gamma": (0.01, 4.0)}


@pytest.mark.parametrize("patch", [(8, 8, 8), (4, 16, 16), (1, 16, 16)])
@pytest.mark.parametrize("elastic", [0.0, 0.5])
def test_sampling_waits_for_no_value(patch, elastic):
    usual = POLICIES["da5"](patch[0] == 1, patch)
    assert usual.spatial is not None
    policy = usual.model_copy(update={"spatial": usual.spatial.model_copy(update={"elastic_probability": elastic})})
    mirroring = Mirroring(swap_axis=2, swap_pairs=((1, 2),))
    for seed in range(4):
        drawn = draw_spatial(policy, mirroring, patch, np.random.default_rng(seed))
        low, high = source_box(drawn, patch, (9, 9, 9))
        shape = [b - a for a, b in zip(low, high, strict=True)]
        with fake_gpu():
            image = torch.empty((2, *shape), dtype=torch.float16, device=GPU)
            labels = torch.empty((2, *shape), dtype=torch.uint8, device=GPU)
            sampled, voted = sample_patch(image, labels, low, (9, 9, 9), patch, drawn, 3, mirroring.swap_pairs)
            assert sampled.shape == voted.shape == (2, *patch)
            assert sampled.device == voted.device == GPU


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_transforms_wait_for_no_value(name):
    item = IntensityAugmentation(name=name, probability=1.0, range=RANGES.get(name, (0.5, 1.5)))
    drawn = draw_intensity(Augmentation(intensity=(item,)), 2, np.random.default_rng(0))
    assert len(drawn.steps) == 1
    with fake_gpu():
        images = torch.empty((1, 2, 12, 13, 14), device=GPU)
        assert apply_intensity(images, [drawn]) is images


def test_zeros_outside_wait_for_no_value():
    with fake_gpu():
        images, outside = torch.empty((2, 3, 4, 5, 6), device=GPU), torch.empty((2, 4, 5, 6), dtype=bool, device=GPU)
        assert zero_outside(images, outside, (0, 2)) is images


def test_morphology_waits_for_no_value_and_dropping_components_does():
    always = {"morphology_probability": 1.0, "morphology_label_probability": 1.0}
    quiet = CascadeAugmentation(**always, drop_probability=0.0)
    loud = CascadeAugmentation(morphology_probability=0.0, drop_probability=1.0, drop_label_probability=1.0)
    with fake_gpu():
        onehot = torch.empty((2, 8, 9, 10), device=GPU)
        for seed in range(4):
            assert corrupt_previous(onehot, quiet, np.random.default_rng(seed)).device == GPU
        with pytest.raises(WAITS):
            corrupt_previous(onehot, loud, np.random.default_rng(0))
