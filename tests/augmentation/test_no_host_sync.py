"""Shapes never depend on values: tensors without values (device `meta`) go through every path that a GPU takes.

Whatever made the host wait for a device (`.item()`, `nonzero`, a mask as an index) would have no answer here and raise.
"""

import numpy as np
import pytest
import torch

from autoseg.augmentation.cascade import corrupt_previous
from autoseg.augmentation.draw import draw_spatial, source_box
from autoseg.augmentation.intensity import TRANSFORMS, draw_intensity, zero_outside
from autoseg.augmentation.policies import POLICIES
from autoseg.augmentation.spatial import sample_patch
from autoseg.records.recipe import Augmentation, CascadeAugmentation, IntensityAugmentation, Mirroring

META = torch.device("meta")
RANGES = {"median": (2, 4), "rectangles": (1, 4), "brightness_shift": (0.0, 0.5), "local_gamma": (0.01, 4.0)}


@pytest.mark.parametrize("patch", [(8, 8, 8), (4, 16, 16), (1, 16, 16)])
@pytest.mark.parametrize("elastic", [0.0, 0.5])
def test_sampling_waits_for_no_value(patch, elastic):
    usual = POLICIES["da5"](patch[0] == 1, patch)
    assert usual.spatial is not None
    policy = usual.model_copy(update={"spatial": usual.spatial.model_copy(update={"elastic_probability": elastic})})
    mirroring = Mirroring(swap_axis=2, swap_pairs=((1, 2),))
    for seed in range(30):
        drawn = draw_spatial(policy, mirroring, patch, np.random.default_rng(seed))
        low, high = source_box(drawn, patch, (9, 9, 9))
        shape = [b - a for a, b in zip(low, high, strict=True)]
        image = torch.empty((2, *shape), dtype=torch.float16, device=META)
        labels = torch.empty((2, *shape), dtype=torch.uint8, device=META)
        sampled, voted = sample_patch(image, labels, low, (9, 9, 9), patch, drawn, 3, mirroring.swap_pairs)
        assert sampled.shape == voted.shape == (2, *patch)
        assert sampled.device == voted.device == META


@pytest.mark.parametrize("name", sorted(set(TRANSFORMS) - {"noise"}))  # there is no generator without a device
def test_transforms_wait_for_no_value(name):
    item = IntensityAugmentation(name=name, probability=1.0, range=RANGES.get(name, (0.5, 1.5)))
    drawn = draw_intensity(Augmentation(intensity=(item,)), 2, np.random.default_rng(0))
    assert len(drawn.steps) == 1
    step = drawn.steps[0]
    images = torch.empty((1, 2, 12, 13, 14), device=META)
    for channel, values in zip(images[0], step.values, strict=True):
        TRANSFORMS[name].apply(channel, values, torch.Generator())


def test_zeros_outside_wait_for_no_value():
    images, outside = torch.empty((2, 3, 4, 5, 6), device=META), torch.empty((2, 4, 5, 6), dtype=bool, device=META)
    assert zero_outside(images, outside, (0, 2)) is images


def test_morphology_waits_for_no_value_and_dropping_components_does():
    onehot = torch.empty((2, 8, 9, 10), device=META)
    always = {"morphology_probability": 1.0, "morphology_label_probability": 1.0}
    quiet = CascadeAugmentation(**always, drop_probability=0.0)
    for seed in range(20):
        assert corrupt_previous(onehot, quiet, np.random.default_rng(seed)).device == META
    loud = CascadeAugmentation(morphology_probability=0.0, drop_probability=1.0, drop_label_probability=1.0)
    with pytest.raises((NotImplementedError, RuntimeError)):
        corrupt_previous(onehot, loud, np.random.default_rng(0))
