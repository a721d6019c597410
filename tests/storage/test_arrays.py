import resource
from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import DataError, ResourceError
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


def test_a_disk_that_takes_no_more_is_a_resource_error(tmp_path: Path) -> None:
    """A limit on the size of files stands for it: blosc2 reports either as a bare RuntimeError."""
    values = np.random.default_rng(0).integers(0, 255, (64, 64, 64)).astype(np.uint8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(ResourceError, match="is the disk full"):
            write_array(tmp_path / "a.b2nd", values, (16, 64, 64))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
