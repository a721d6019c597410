import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from autoseg.spatial.cropping import crop, mask_box, nonzero_box, nonzero_mask


def test_box_is_the_union_over_channels():
    image = np.zeros((2, 5, 6, 7), dtype=np.int16)
    image[0, 1, 2, 3] = -4
    image[1, 3, 2, 5] = 9
    assert nonzero_box(image) == ((1, 4), (2, 3), (3, 6))
    assert crop(image, nonzero_box(image)).shape == (2, 3, 1, 3)


def test_empty_image_keeps_everything():
    assert nonzero_box(np.zeros((1, 2, 3, 4))) == ((0, 2), (0, 3), (0, 4))
    assert not nonzero_mask(np.zeros((1, 2, 3, 4))).any()


@pytest.mark.filterwarnings("error")
def test_nan_counts_as_nonzero():
    image = np.zeros((1, 3, 3, 3), dtype=np.float32)
    image[0, 2, 1, 0] = np.nan
    assert nonzero_box(image) == ((2, 3), (1, 2), (0, 1))


def test_hole_is_filled_and_bay_is_not():
    image = np.ones((1, 5, 5, 5))
    image[0, 2, 2, 2] = 0  # hole
    image[0, 0, 4, 4] = 0  # bay at the border
    mask = nonzero_mask(image)
    assert mask[2, 2, 2]
    assert not mask[0, 4, 4]


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(bool, arrays.array_shapes(min_dims=3, max_dims=3, max_side=6)))
def test_mask_agrees_with_scipy_and_with_its_crop(mask):
    image = mask[None].astype(np.float32)
    expected = ndimage.binary_fill_holes(mask)
    np.testing.assert_array_equal(nonzero_mask(image), expected)
    box = nonzero_box(image)
    assert box == mask_box(expected)
    np.testing.assert_array_equal(nonzero_mask(crop(image, box)), crop(expected, box))
    assert crop(mask, box).sum() == mask.sum()


@given(st.integers(1, 4))
def test_one_voxel(position):
    mask = np.zeros((6, 6, 6), dtype=bool)
    mask[position, 0, 5] = True
    assert mask_box(mask) == ((position, position + 1), (0, 1), (5, 6))
