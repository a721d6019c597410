import os
from pathlib import Path

import pytest

from autoseg.errors import ResourceError
from autoseg.storage.atomic import write_atomically, write_bytes, write_text


def test_writes_and_makes_parents(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b.json", "text")
    assert (tmp_path / "a" / "b.json").read_text() == "text"
    assert os.listdir(tmp_path / "a") == ["b.json"]


def test_failure_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    write_bytes(target, b"old")

    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise ValueError("killed here")

    with pytest.raises(ValueError, match="killed here"):
        write_atomically(target, fail)
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.bin"]


def test_failed_verification_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    write_bytes(target, b"old")

    def refuse(temporary: Path) -> None:
        raise ValueError(f"not what was written: {temporary.read_bytes()!r}")

    def write(temporary: Path) -> None:
        temporary.write_bytes(b"new")

    with pytest.raises(ValueError, match="not what was written: b'new'"):
        write_atomically(target, write, verify=refuse)
    assert target.read_bytes() == b"old"


def test_full_disk_is_a_resource_error(tmp_path: Path) -> None:
    def fill(temporary: Path) -> None:
        with Path("/dev/full").open("wb", buffering=0) as stream:
            stream.write(b"x")

    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(ResourceError, match="No space left while writing"):
        write_atomically(tmp_path / "x", fill)


def test_result_is_readable_by_others(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_text(tmp_path / "x", "")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644
