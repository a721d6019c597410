import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from autoseg.augmentation.intensity import (
    TRANSFORMS,
    IntensityParameters,
    IntensityStep,
    apply_intensity,
    draw_intensity,
)
from autoseg.augmentation.policies import nnunet_augmentation
from autoseg.records.recipe import Augmentation, IntensityAugmentation, SpatialAugmentation

NNUNET = nnunet_augmentation(False, (16, 16, 16))


def _always(name, limits, **more):
    return Augmentation(intensity=(IntensityAugmentation(name=name, probability=1, range=limits, **more),))


def _apply(name, image, values, seed=0):
    """One transform on one channel `Z Y X`."""
    step = IntensityStep(name=name, channels=(0,), values=(tuple(values),), seed=seed)
    batch = torch.as_tensor(image, dtype=torch.float32).clone()[None, None]
    return apply_intensity(batch, [IntensityParameters(steps=(step,))])[0, 0]


def _images(seed, num_samples, num_channels=2):
    return torch.randn(
        (num_samples, num_channels, 6, 7, 5), generator=torch.Generator().manual_seed(seed), dtype=torch.float32
    )


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), num_samples=st.integers(1, 5))
def test_a_sample_depends_on_its_own_generator_only(seed, num_samples):
    images = _images(seed, num_samples)
    drawn = [draw_intensity(NNUNET, 2, np.random.default_rng([seed, i])) for i in range(num_samples)]
    together = apply_intensity(images.clone(), drawn)
    alone = torch.cat([apply_intensity(images[i : i + 1].clone(), [drawn[i]]) for i in range(num_samples)])
    backwards = apply_intensity(images.flip(0), drawn[::-1]).flip(0)
    assert torch.equal(together, alone)
    assert torch.equal(together, backwards)


def test_samples_that_drew_nothing_stay_as_they_are():
    images = _images(0, 2)
    changed = draw_intensity(_always("brightness", (0.5, 0.6)), 2, np.random.default_rng(0))
    result = apply_intensity(images.clone(), [IntensityParameters(), changed])
    assert torch.equal(result[0], images[0])
    assert not torch.equal(result[1], images[1])


def test_odds_and_order_are_the_policys():
    rng = np.random.default_rng(0)
    drawn = [[step.name for step in draw_intensity(NNUNET, 1, rng).steps] for _ in range(4000)]
    names = [item.name for item in NNUNET.intensity]
    assert all(sorted(steps, key=names.index) == steps for steps in drawn)
    for item in NNUNET.intensity:
        odds = item.probability * item.channel_probability
        assert np.isclose(np.mean([item.name in steps for steps in drawn]), odds, atol=0.025)


@pytest.mark.parametrize("name", ["brightness", "contrast", "gamma", "gamma_inverted"])
def test_factors_are_below_one_half_of_the_time(name):
    rng = np.random.default_rng(1)
    steps = [draw_intensity(_always(name, (0.7, 1.5)), 2, rng).steps[0] for _ in range(1000)]
    factors = np.array([[value for (value,) in step.values] for step in steps])
    assert np.isclose((factors < 1).mean(), 0.5, atol=0.04)
    assert np.isclose(factors[factors < 1].mean(), 0.85, atol=0.01)
    assert np.isclose(factors[factors > 1].mean(), 1.25, atol=0.02)
    assert abs(np.corrcoef(factors.T)[0, 1]) < 0.1  # each channel has its own


@pytest.mark.parametrize(("limits", "inside"), [((1.1, 1.2), (1.1, 1.2)), ((0.5, 0.9), (0.5, 0.9))])
def test_one_sided_ranges_are_uniform(limits, inside):
    rng = np.random.default_rng(1)
    drawn = [draw_intensity(_always("gamma", limits), 1, rng).steps[0].values[0][0] for _ in range(200)]
    assert inside[0] <= min(drawn) <= max(drawn) <= inside[1]


def test_noise_is_shared_by_channels_and_blur_and_zoom_are_not():
    rng = np.random.default_rng(2)
    (noise,) = draw_intensity(_always("noise", (0, 0.1)), 3, rng).steps
    assert len(set(noise.values)) == 1
    (blurred,) = draw_intensity(_always("blur", (0.5, 1)), 3, rng).steps
    assert len({sigma for values in blurred.values for sigma in values}) == 9
    (coarse,) = draw_intensity(_always("low_resolution", (0.5, 1)), 3, rng).steps
    assert all(len(set(values)) == 1 for values in coarse.values)
    assert len(set(coarse.values)) == 3


def test_slices_keep_their_distance_in_patches_turned_in_the_plane():
    policy = _always("low_resolution", (0.5, 0.6)).model_copy(update={"spatial": SpatialAugmentation(dummy_2d=True)})
    (step,) = draw_intensity(policy, 1, np.random.default_rng(0)).steps
    z, y, x = step.values[0]
    assert z == 1
    assert 0.5 <= y == x <= 0.6


def test_channel_odds():
    rng = np.random.default_rng(3)
    policy = _always("blur", (0.5, 1), channel_probability=0.5)
    drawn = [draw_intensity(policy, 2, rng).steps for _ in range(1000)]
    assert np.isclose(np.mean([len(steps[0].channels) if steps else 0 for steps in drawn]), 1, atol=0.06)
    assert {steps[0].channels for steps in drawn if steps} == {(0,), (1,), (0, 1)}


def test_noise_has_the_drawn_deviation_and_follows_its_seed():
    zeros = torch.zeros(40, 40, 40)
    noisy = _apply("noise", zeros, [0.07], seed=5)
    assert np.isclose(noisy.std(), 0.07, rtol=0.02)
    assert torch.equal(noisy, _apply("noise", zeros, [0.07], seed=5))
    assert not torch.equal(noisy, _apply("noise", zeros, [0.07], seed=6))


@pytest.mark.parametrize(("sigma", "radius"), [(0.5, 1), (0.6, 2), (0.9, 2), (1.0, 3), (1.5, 4)])
def test_blur_of_one_voxel_is_the_truncated_gaussian(sigma, radius):
    point = torch.zeros(1, 1, 15)
    point[0, 0, 7] = 1
    expected = np.exp(-0.5 * (np.arange(-7, 8) / sigma) ** 2) * (np.abs(np.arange(-7, 8)) <= radius)
    np.testing.assert_allclose(_apply("blur", point, [sigma] * 3)[0, 0], expected / expected.sum(), atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 6, 7), (2, 3, 9), (5, 5, 5)])
def test_blur_equals_scipy_also_where_the_kernel_is_wider_than_the_patch(shape):
    image = np.random.default_rng(0).normal(size=shape)
    expected = image
    for axis, (sigma, radius) in enumerate([(1.0, 3), (0.6, 2), (0.5, 1)]):
        if shape[axis] > 1:
            expected = ndimage.gaussian_filter1d(expected, sigma, axis, mode="mirror", radius=radius)
    np.testing.assert_allclose(_apply("blur", image, [1.0, 0.6, 0.5]), expected, atol=1e-6)


def test_brightness_and_contrast_by_hand():
    image = torch.tensor([[[0.0, 1.0, 2.0, 5.0]]])
    np.testing.assert_allclose(_apply("brightness", image, [1.5]).flatten(), [0, 1.5, 3, 7.5])
    np.testing.assert_allclose(_apply("contrast", image, [0.5]).flatten(), [1, 1.5, 2, 3.5])
    np.testing.assert_allclose(_apply("contrast", image, [2.0]).flatten(), [0, 0, 2, 5])  # the range is kept


def test_gamma_by_hand():
    image = torch.tensor([[[1.0, 2.0, 3.0]]])  # 0, 1/2, 1 becomes 0, 1/4, 1 with mean 5/12 and the deviation below
    squares = np.array([0, 0.25, 1])
    expected = (squares - squares.mean()) / squares.std(ddof=1) + 2
    np.testing.assert_allclose(_apply("gamma", image, [2.0]).flatten(), expected, atol=1e-6)
    np.testing.assert_allclose(_apply("gamma_inverted", image, [2.0]).flatten(), 4 - expected[::-1], atol=1e-6)


def test_low_resolution_by_hand():
    image = torch.arange(4.0).expand(1, 1, 4)  # half the voxels: those at 1 and 3, shown at 0.5 and 2.5
    np.testing.assert_allclose(_apply("low_resolution", image, [1, 1, 0.5]).flatten(), [1, 1.5, 2.5, 3])
    assert torch.equal(_apply("low_resolution", image, [0.1, 0.1, 1.0]), image)  # at least one voxel stays


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 4), (3, 3, 3)])
def test_constant_images_stay_finite(name, shape):
    three, hill = [0.7] * 3, [0.5] * 6
    special = {"blur": three, "blur_isotropic": three, "low_resolution": three, "noise": [0.0], "median": [3.0]}
    special |= {"brightness_gradient": [0.0, *hill], "local_gamma": [1.3, *hill], "rectangles": hill}
    result = _apply(name, torch.full(shape, 2.0), special.get(name, [1.3]))
    expected = {"brightness": 2.6, "brightness_shift": 3.3}.get(name, 2.0)
    np.testing.assert_allclose(result, np.full(shape, expected), rtol=1e-6)


def test_of_alternatives_one_is_drawn_first():
    entries = [
        IntensityAugmentation(name="blur", probability=0.5, range=(0.5, 1), one_of="a"),
        IntensityAugmentation(name="brightness", probability=1, range=(1, 2)),
        IntensityAugmentation(name="median", probability=1.0, range=(2, 2), one_of="a"),
    ]
    rng = np.random.default_rng(5)
    policy = Augmentation(intensity=tuple(entries))
    drawn = [{step.name for step in draw_intensity(policy, 1, rng).steps} for _ in range(1500)]
    assert not any({"blur", "median"} <= names for names in drawn)
    assert all("brightness" in names for names in drawn)
    assert np.isclose(np.mean(["blur" in names for names in drawn]), 0.25, atol=0.05)
    assert np.isclose(np.mean(["median" in names for names in drawn]), 0.5, atol=0.05)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), exponent=st.floats(0.7, 1.5))
def test_gamma_keeps_mean_and_deviation(seed, exponent):
    image = _images(seed, 1)[0, 0]
    for name in ("gamma", "gamma_inverted"):
        result = _apply(name, image, [exponent])
        np.testing.assert_allclose(result.mean(), image.mean(), atol=1e-5)
        np.testing.assert_allclose(result.std(), image.std(), rtol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_equals_the_cpu_apart_from_noise():
    images = _images(0, 6)
    quiet = NNUNET.model_copy(
        update={"intensity": tuple(i.model_copy(update={"probability": 1}) for i in NNUNET.intensity[1:])}
    )
    drawn = [draw_intensity(quiet, 2, np.random.default_rng(i)) for i in range(6)]
    np.testing.assert_allclose(
        apply_intensity(images.cuda(), drawn).cpu(), apply_intensity(images, drawn), atol=1e-4, rtol=1e-4
    )
