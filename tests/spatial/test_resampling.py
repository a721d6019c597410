import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.spatial import resampling
from autoseg.spatial.resampling import (
    axis_operator,
    resampled_shape,
    separate_axis,
)
from tests.spatial.whole import resample_image

PAIRS = [
    ((12, 30, 25), (17, 44, 20)),
    ((12, 30, 25), (12, 20, 20)),
    ((40, 20, 21), (20, 30, 10)),
    ((1, 9, 9), (3, 20, 20)),
    ((5, 7, 9), (1, 1, 30)),
    ((2, 90, 150), (2, 200, 100)),
]


def noise(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32))


def skimage_resize(volume: np.ndarray, shape, order: int) -> np.ndarray:
    transform = pytest.importorskip("skimage.transform")
    return transform.resize(volume.astype(float), shape, order, mode="edge", anti_aliasing=False)


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_cubic_agrees_with_skimage(before, after):
    image = noise(2, *before)
    cubic = resample_image(image, after)
    for channel in range(2):
        np.testing.assert_allclose(cubic[channel], skimage_resize(image[channel].numpy(), after, 3), atol=2e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_separate_axis_takes_nearest_slices_and_clips_each(axis):
    before, after = (6, 14, 15), (9, 21, 10)
    image = noise(1, *before)
    in_plane = [n for i, n in enumerate(after) if i != axis]
    slices = [skimage_resize(plane, in_plane, 3) for plane in np.moveaxis(image[0].numpy(), axis, 0)]
    # nearest by hand: the source cell in which the target cell's centre lies
    nearest = [int((i + 0.5) * before[axis] / after[axis]) for i in range(after[axis])]
    expected = np.moveaxis(np.stack([slices[i] for i in nearest]), 0, axis)
    np.testing.assert_allclose(resample_image(image, after, separate=axis)[0], expected, atol=2e-5)


def test_spline_overshoot_is_clipped_to_the_input():
    image = torch.zeros(1, 6, 6, 20)
    image[..., 10:] = 1000.0
    free, clipped = resample_image(image, (6, 6, 33), clip=False), resample_image(image, (6, 6, 33))
    assert free.max() > 1010
    assert free.min() < -10
    assert clipped.max() == 1000
    assert clipped.min() == 0


def test_same_shape_is_no_work():
    image = noise(1, 4, 5, 6)
    assert torch.equal(resample_image(image, (4, 5, 6)), image)


@pytest.mark.parametrize("separate", [None, 0, 1, 2])
def test_small_slabs_change_nothing(monkeypatch, separate):
    image = noise(3, 9, 10, 11)
    for after in ((13, 14, 15), (7, 5, 6)):
        whole = resample_image(image, after, separate)
        with monkeypatch.context() as patch:
            patch.setattr(resampling, "_SLAB_VOXELS", 200)
            torch.testing.assert_close(resample_image(image, after, separate), whole, atol=1e-6, rtol=0)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([0, 1, 3]))
def test_operators_keep_constants_and_mirror(num_in, num_out, order):
    operator = axis_operator(num_in, num_out, order)
    assert operator.shape == (num_out, num_in)
    np.testing.assert_allclose(operator.sum(1), 1, atol=1e-9)
    if order > 0:
        np.testing.assert_allclose(operator[::-1, ::-1], operator, atol=1e-9)


def test_separate_axis_by_hand():
    assert separate_axis((5.0, 1.0, 1.0), (1.0, 1.0, 1.0)) == 0
    assert separate_axis((1.0, 1.0, 1.0), (1.0, 5.0, 1.0)) == 1
    assert separate_axis((3.0, 1.0, 1.0), (3.0, 1.0, 1.0)) is None  # not above 3
    assert separate_axis((4.0, 4.0, 1.0), (9.0, 1.0, 1.0)) is None  # two coarse axes; the target is not asked
    assert separate_axis((999.0, 1.0, 1.0), (999.0, 1.0, 1.0)) == 0


def test_resampled_shape_rounds():
    assert resampled_shape((300, 512, 512), (1.0, 0.8, 0.8), (1.5, 1.5, 1.5)) == (200, 273, 273)
    assert resampled_shape((1, 4, 4), (0.1, 1.0, 1.0), (5.0, 2.0, 0.5)) == (1, 2, 8)
