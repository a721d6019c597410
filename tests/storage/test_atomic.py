import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoseg.errors import ResourceError
from autoseg.storage.atomic import filled_folder, write_atomically, write_bytes, write_text


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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_a_resource_error(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    for target in (closed / "x", closed / "new" / "x"):
        with pytest.raises(ResourceError, match="Permission denied"):
            write_text(target, "")


def test_a_file_in_the_place_of_a_folder_is_a_resource_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ResourceError, match="Cannot write"):
        write_text(tmp_path / "file" / "x", "")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ResourceError, match="Cannot write"):
        write_text(tmp_path / "folder", "")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EIO])
def test_every_error_of_the_system_is_a_resource_error(tmp_path: Path, number: int) -> None:
    def fail(temporary: Path) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(ResourceError, match=os.strerror(number)):
        write_atomically(tmp_path / "x", fail)
    assert os.listdir(tmp_path) == []


def test_result_is_as_readable_as_the_umask_says(tmp_path: Path) -> None:
    """A process of its own, since the mask is read once, before there are threads."""
    code = "import os, sys; os.umask(0o027)\nfrom pathlib import Path\nfrom autoseg.storage.atomic import write_text\n"
    subprocess.run([sys.executable, "-c", f"{code}write_text(Path(sys.argv[1]), '')", str(tmp_path / "x")], check=True)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_writing_never_sets_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(mask: int) -> int:
        raise AssertionError("another thread's file would get this mask")

    monkeypatch.setattr(os, "umask", refuse)
    write_text(tmp_path / "x", "")


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def stop_half_way() -> None:
        with filled_folder(tmp_path / "a" / "b") as folder:
            (folder / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_half_way()
    assert os.listdir(tmp_path / "a") == []
    (tmp_path / "a" / "b").mkdir()
    with filled_folder(tmp_path / "a" / "b") as folder:
        (folder / "whole").touch()
        assert os.listdir(tmp_path / "a" / "b") == []
    assert os.listdir(tmp_path / "a") == ["b"]
    assert os.listdir(tmp_path / "a" / "b") == ["whole"]
    with pytest.raises(ResourceError, match="not empty"), filled_folder(tmp_path / "a" / "b"):
        pass
    assert os.listdir(tmp_path / "a" / "b") == ["whole"]
