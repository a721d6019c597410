from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import DataError
from autoseg.storage.arrays import array_shape, read_array, write_array


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8, np.int16])
def test_round_trip_and_boxes(tmp_path: Path, dtype: type) -> None:
    values = (np.random.default_rng(0).normal(size=(2, 9, 11, 13)) * 50).astype(dtype)
    write_array(tmp_path / "x.b2nd", values, chunks=(1, 4, 4, 40))
    assert array_shape(tmp_path / "x.b2nd") == values.shape
    np.testing.assert_array_equal(read_array(tmp_path / "x.b2nd"), values)
    box = (slice(0, 2), slice(3, 8), slice(0, 1), slice(5, 13))
    np.testing.assert_array_equal(read_array(tmp_path / "x.b2nd", box), values[box])


def test_a_file_that_is_no_array_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.b2nd").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"x\.b2nd cannot be read"):
        read_array(tmp_path / "x.b2nd")
