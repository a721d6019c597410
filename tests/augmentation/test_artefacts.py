import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from autoseg.augmentation import artefacts
from autoseg.augmentation.intensity import TRANSFORMS

NONE = torch.Generator()


def _image(seed, shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 99), shape=st.tuples(*[st.integers(1, 9)] * 3), edge=st.integers(2, 5))
def test_median_equals_scipy(seed, shape, edge):
    image = _image(seed, shape)
    expected = ndimage.median_filter(image.numpy(), size=edge, mode="reflect")
    artefacts.median_filter(image, (float(edge),), NONE)
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("shape", [(6, 7, 5), (1, 7, 5), (1, 1, 1)])
def test_sharpening_equals_scipys_laplacian(shape):
    image = _image(0, shape)
    expected = image.numpy() - 0.7 * ndimage.laplace(image.numpy(), mode="nearest")
    artefacts.sharpen(image, (0.7,), NONE)
    np.testing.assert_allclose(image, expected, atol=1e-5)


def test_contrast_and_shift_by_hand():
    image = torch.tensor([[[0.0, 1.0, 2.0, 5.0]]])
    artefacts.stretch_contrast_unclipped(image, (2.0,), NONE)
    assert image.flatten().tolist() == [-2, 0, 2, 8]
    artefacts.shift_brightness(image, (-1.0,), NONE)
    assert image.flatten().tolist() == [-3, -1, 1, 7]


def test_rectangles_by_hand():
    image = torch.arange(40.0).reshape(1, 1, 40).clone()
    # Extents of the last axis from 4 to below 13 voxels: half way 4 + int(4.5) = 8; at the end of the 33 places.
    artefacts.blank_rectangles(image, (0, 0, 0.5, 0, 0, 0.999), NONE)
    assert image[0, 0, :32].tolist() == list(range(32))
    assert image[0, 0, 32:].tolist() == [35.5] * 8


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), shape=st.tuples(*[st.integers(1, 40)] * 3))
def test_rectangles_stay_inside_and_keep_the_mean_of_what_they_cover(seed, shape):
    image = _image(seed, shape)
    before = float(image.double().mean())
    values = TRANSFORMS["rectangles"].draw((1, 4), False, np.random.default_rng(seed))
    assert len(values) in (6, 12, 18, 24)
    artefacts.blank_rectangles(image, values, NONE)
    assert float(image.double().mean()) == pytest.approx(before, abs=1e-5)


def test_a_hill_is_a_product_of_gaussians_from_0_to_1():
    places, widths = (0.2, -0.4, 1.3), (0.0, 0.5, 1.0)
    shape = (24, 30, 18)
    expected = 1.0
    for axis, size in enumerate(shape):
        narrow = size // 6
        width = narrow * (size / narrow) ** widths[axis]
        faces = np.arange(size + 1) - 0.5
        mass = np.diff(stats.norm.cdf(faces, loc=places[axis] * size, scale=width))
        expected = expected * mass.reshape([-1 if a == axis else 1 for a in range(3)])
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    got = artefacts.hill(torch.zeros(shape), (*places, *widths))
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert got.dtype == torch.float32


def test_gradient_is_added_and_local_gamma_keeps_the_range_and_the_far_end():
    image = torch.linspace(0, 1, 60).reshape(1, 1, 60).clone()
    values = (0.5, 0.5, 0.0, 0.5, 0.5, 0.0)
    hill = artefacts.hill(image, values)
    raised, bent = image.clone(), image.clone()
    artefacts.add_gradient(raised, (-2.0, *values), NONE)
    np.testing.assert_allclose(raised, image - 2 * hill, atol=1e-6)
    artefacts.change_gamma_locally(bent, (3.0, *values), NONE)
    np.testing.assert_allclose(bent, image + hill * (image**3 - image), atol=1e-6)
    assert bent[0, 0, -1] == pytest.approx(1, abs=1e-6)


def test_draws_keep_to_nnunets_ranges():
    rng = np.random.default_rng(0)
    heights = np.array([TRANSFORMS["brightness_gradient"].draw((1, 5), False, rng) for _ in range(800)])
    assert ((np.abs(heights[:, 0]) >= 1) & (np.abs(heights[:, 0]) <= 5)).all()
    assert np.isclose((heights[:, 0] > 0).mean(), 0.5, atol=0.07)
    assert heights[:, 1:4].min() < -0.45
    assert heights[:, 1:4].max() > 1.45
    exponents = np.array([TRANSFORMS["local_gamma"].draw((0.01, 4), False, rng)[0] for _ in range(800)])
    below = exponents < 1
    assert np.isclose(below.mean(), 0.5, atol=0.07)
    assert exponents[below].max() <= 0.8
    assert exponents[~below].min() >= 1.5
    assert {TRANSFORMS["median"].draw((2, 4), False, rng)[0] for _ in range(60)} == {2, 3, 4}
    shifts = [TRANSFORMS["brightness_shift"].draw((0, 0.5), False, rng)[0] for _ in range(800)]
    assert np.isclose(np.std(shifts), 0.5, atol=0.05)
    assert len(set(TRANSFORMS["blur_isotropic"].draw((0.3, 1.5), False, rng))) == 1
