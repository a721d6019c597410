"""Our intensity transforms and mirroring against batchgenerators' (version 1), where both mean the same."""

import numpy as np
import pytest
import torch
from batchgenerators.augmentations import color_augmentations, spatial_transformations

from autoseg.augmentation.draw import SpatialParameters
from autoseg.augmentation.intensity import TRANSFORMS
from autoseg.augmentation.spatial import sample_patch


@pytest.fixture
def image():
    return np.random.default_rng(0).normal(loc=0.5, size=(2, 9, 8, 7)).astype(np.float32)


def _ours(name, image, value):
    result = torch.from_numpy(image.copy())
    for channel in result:
        TRANSFORMS[name].apply(channel, (value,), torch.Generator())
    return result.numpy()


# A range that is one number above 1 leaves batchgenerators nothing to draw.
@pytest.mark.parametrize("factor", [1.1, 1.4])
def test_contrast(image, factor):
    theirs = color_augmentations.augment_contrast(image.copy(), (factor, factor), preserve_range=True, per_channel=True)
    np.testing.assert_allclose(_ours("contrast", image, factor), theirs, atol=1e-5)


@pytest.mark.parametrize(("name", "invert"), [("gamma", False), ("gamma_inverted", True)])
@pytest.mark.parametrize("factor", [1.1, 1.5])
def test_gamma(image, name, invert, factor):
    theirs = color_augmentations.augment_gamma(
        image.copy(), (factor, factor), invert_image=invert, per_channel=True, retain_stats=True
    )
    # Theirs standardises with the population's deviation, ours and batchgeneratorsv2's with the sample's.
    np.testing.assert_allclose(_ours(name, image, factor), theirs, atol=1e-4)


def test_brightness(image):
    theirs = color_augmentations.augment_brightness_multiplicative(image.copy(), (1.2, 1.2), per_channel=True)
    np.testing.assert_allclose(_ours("brightness", image, 1.2), theirs, rtol=1e-6)


def test_mirroring(image):
    labels = np.random.default_rng(1).integers(0, 5, size=(1, 9, 8, 7)).astype(np.int16)
    theirs = None
    state = np.random.get_state()  # noqa: NPY002 - batchgenerators draws from the global generator
    try:
        for seed in range(50):
            np.random.seed(seed)  # noqa: NPY002
            theirs = spatial_transformations.augment_mirroring(image.copy(), labels.copy(), axes=(0, 1, 2))
            if np.array_equal(theirs[0], image[:, ::-1, :, ::-1]):
                break
    finally:
        np.random.set_state(state)  # noqa: NPY002
    parameters = SpatialParameters(flips=(0, 2))
    arguments = ((0, 0, 0), (4, 4, 3), (9, 8, 7), parameters, 5)
    ours = sample_patch(torch.from_numpy(image), torch.from_numpy(labels[0]), *arguments)
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[1], theirs[1][0])
