import numpy as np
import pytest

from autoseg.errors import DataError
from autoseg.preprocessing.normalize import scale_of, scaled
from autoseg.preprocessing.statistics import measured
from tests.preprocessing.cases import STATISTICS


def one(values, scheme, mask=None, statistics=STATISTICS) -> np.ndarray:
    image = np.array(values, dtype=np.float32).reshape(1, 1, -1)
    channel = measured(image, None if mask is None else np.array(mask).reshape(1, 1, -1))
    found = scaled(image if mask is None else image[channel.mask], scale_of(channel, scheme, statistics))
    assert found.dtype == np.float32
    return found.reshape(-1)


def test_ct_by_hand():
    # clipped to -20 .. 180, then (value - 40) / 20
    np.testing.assert_allclose(one([-1000, 40, 60, 3000], "ct"), [-3, 0, 1, 7])
    with pytest.raises(DataError, match="needs the dataset's intensities"):
        one([1, 2], "ct", statistics=None)


def test_zscore_by_hand():
    np.testing.assert_allclose(one([1, 3, 1, 3], "zscore"), [-1, 1, -1, 1])
    np.testing.assert_array_equal(one([7, 7, 7], "zscore"), [0, 0, 0])


def test_zscore_is_measured_inside_a_mask():
    np.testing.assert_allclose(one([0, 1, 3, 0], "zscore", mask=[False, True, True, False]), [-1, 1])


def test_none_rescale_rgb_by_hand():
    np.testing.assert_array_equal(one([4, -2], "none"), [4, -2])
    np.testing.assert_allclose(one([-10, 0, 30], "rescale"), [0, 0.25, 1])
    np.testing.assert_array_equal(one([5, 5], "rescale"), [0, 0])
    np.testing.assert_allclose(one([0, 51, 255], "rgb"), [0, 0.2, 1])
    with pytest.raises(DataError, match=r"0 to 300.*RGB"):
        one([0, 300], "rgb")
