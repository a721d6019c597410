import numpy as np
import pytest

from autoseg.errors import DataError
from autoseg.preprocessing.normalize import normalize
from tests.preprocessing.cases import STATISTICS


def one(values, scheme, mask=None, statistics=STATISTICS) -> np.ndarray:
    image = np.array(values, dtype=np.float32).reshape(1, 1, 1, -1)
    found = normalize(image, (scheme,), (None if mask is None else np.array(mask).reshape(1, 1, -1),), (statistics,))
    assert found.dtype == np.float32
    return found[0, 0, 0]


def test_ct_by_hand():
    # clipped to -20 .. 180, then (value - 40) / 20
    np.testing.assert_allclose(one([-1000, 40, 60, 3000], "ct"), [-3, 0, 1, 7])
    with pytest.raises(DataError, match=r"channel 0.*intensities"):
        one([1, 2], "ct", statistics=None)


def test_zscore_by_hand():
    np.testing.assert_allclose(one([1, 3, 1, 3], "zscore"), [-1, 1, -1, 1])
    np.testing.assert_array_equal(one([7, 7, 7], "zscore"), [0, 0, 0])


def test_zscore_inside_a_mask_leaves_the_outside():
    found = one([0, 1, 3, 0], "zscore", mask=[False, True, True, False])
    np.testing.assert_allclose(found, [0, -1, 1, 0])
    np.testing.assert_array_equal(one([5, 5], "zscore", mask=[False, False]), [0, 0])


def test_none_rescale_rgb_by_hand():
    np.testing.assert_array_equal(one([4, -2], "none"), [4, -2])
    np.testing.assert_allclose(one([-10, 0, 30], "rescale"), [0, 0.25, 1])
    np.testing.assert_array_equal(one([5, 5], "rescale"), [0, 0])
    np.testing.assert_allclose(one([0, 51, 255], "rgb"), [0, 0.2, 1])
    with pytest.raises(DataError, match=r"channel 0.*0 to 300.*RGB"):
        one([0, 300], "rgb")


def test_wrong_number_of_channels():
    with pytest.raises(DataError, match="2 channels, the plan normalises 1"):
        normalize(np.zeros((2, 1, 1, 1), np.float32), ("none",), (None,), (None,))
