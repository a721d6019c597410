import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from autoseg.spatial.components import components, keep_largest, value_components


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(bool, arrays.array_shapes(min_dims=3, max_dims=3, max_side=6)))
def test_components_agree_with_scipy(mask):
    for connectivity, rank in ((26, 3), (18, 2), (6, 1)):
        expected, count = ndimage.label(mask, ndimage.generate_binary_structure(3, rank))
        numbers, found = components(mask, connectivity)
        assert found == count
        pairs = {(int(a), int(b)) for a, b in zip(expected.ravel(), numbers.ravel(), strict=True)}
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})  # the same partition


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_as_many_components_as_can_be(connectivity):
    """Every other voxel along each axis stands alone: the most that 26-connectivity allows."""
    shapes = [*itertools.product((1, 2, 3, 4, 5, 7, 8), repeat=3), (1, 101, 64), (33, 1, 77), (19, 20, 21)]
    for shape in shapes:
        mask = np.zeros(shape, dtype=bool)
        mask[::2, ::2, ::2] = True
        numbers, count = components(mask, connectivity)
        assert count == mask.sum(), shape
        assert numbers.shape == shape
        np.testing.assert_array_equal(numbers > 0, mask)


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.int16, arrays.array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.integers(0, 3)))
def test_components_of_each_value_agree_with_scipy(values):
    numbers, count = value_components(values)
    expected = [ndimage.label(values == value, np.ones((3, 3, 3))) for value in (1, 2, 3)]
    assert count == sum(found for _, found in expected)
    for value, (labelled, _) in zip((1, 2, 3), expected, strict=True):
        pairs = {(int(a), int(b)) for a, b in zip(labelled.ravel(), numbers.ravel(), strict=True) if a}
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
        assert (numbers[values == value] > 0).all()
    assert not numbers[values == 0].any()


@pytest.mark.parametrize("shape", [(1, 33, 20), (1, 1, 9), (3, 3, 3), (2, 3, 3), (7, 5, 1), (5, 6, 7)])
def test_every_voxel_may_be_a_component(shape):
    values = (np.indices(shape) % 2 * np.array([1, 2, 4])[:, None, None, None]).sum(
        axis=0
    ) + 1  # no two neighbours alike
    assert value_components(values.astype(np.int16))[1] == values.size


def test_largest_stays_and_equal_ones_both_stay():
    mask = np.zeros((1, 4, 9), dtype=np.uint8)
    mask[0, 0, :3] = 2
    mask[0, 1, 3] = 2  # touches by a corner
    mask[0, 3, 6:9] = 2
    kept = keep_largest(mask)
    assert kept.sum() == 4
    assert kept[0, 1, 3]
    assert keep_largest(mask, connectivity=6).sum() == 6  # two rows of three


def test_empty_and_one_voxel():
    assert not keep_largest(np.zeros((2, 2, 2))).any()
    assert components(np.zeros((2, 2, 2)))[1] == 0
    one = np.zeros((2, 2, 2), dtype=bool)
    one[1, 0, 1] = True
    np.testing.assert_array_equal(keep_largest(one), one)
