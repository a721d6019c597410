"""Arrays that would fill the memory lie in a file without a name, or are refused where there is no place."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import ResourceError
from autoseg.storage import large_arrays as module
from autoseg.storage.large_arrays import laid_out, large_array


def lies_in_a_file(array: np.ndarray) -> bool:
    return isinstance(array.base, np.memmap)


def test_what_fits_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_memory_bytes", lambda: 4000)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    small, large = large_array((10, 50), np.int16), large_array((10, 51), np.int16)
    assert not lies_in_a_file(small)
    assert lies_in_a_file(large)
    assert not any(tmp_path.iterdir())
    for array in (small, large):
        assert not array.any()
        array[3, 7] = 5
        assert array.sum() == 5
    assert large_array((0, 4), np.int16).size == 0


def test_a_full_disk_is_seen_before_the_first_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_memory_bytes", lambda: 3 << 30)

    def full(handle: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ResourceError, match=r"1\.6 GiB is too large .*\(3\.0 GiB\) .*No space left.*TMPDIR"):
        large_array((1600 << 20,), np.uint8)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "nowhere"))
    with pytest.raises(ResourceError, match=r"no place in .*nowhere"):
        large_array((1600 << 20,), np.uint8)


def test_without_a_disk_half_of_the_memory_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose temporary folder is small."""
    monkeypatch.setattr(module, "available_memory_bytes", lambda: 4000)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "nowhere"))
    array = large_array((2000,), np.uint8)
    assert not lies_in_a_file(array)
    assert array.shape == (2000,)
    with pytest.raises(ResourceError, match="too large"):
        large_array((2001,), np.uint8)


def test_values_are_copied_only_where_they_do_not_lie_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_memory_bytes", lambda: 0)
    values = np.arange(2 * 3 * 4 * 5, dtype=np.int16).reshape(2, 3, 4, 5)
    assert laid_out(values) is values
    raw = b"x" + values.tobytes()
    for other in (
        values.astype(">i2"),
        np.asfortranarray(values),
        np.moveaxis(np.moveaxis(values, 0, -1).copy(), -1, 0),
        np.frombuffer(raw, np.int16, values.size, 1).reshape(values.shape),
    ):
        found = laid_out(other)
        assert lies_in_a_file(found)
        assert found.flags.c_contiguous
        assert found.flags.aligned
        np.testing.assert_array_equal(found, values, strict=True)
