"""A service's own folder: private, gone at its end; what a killed service left is removed, a running one's never."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoseg.errors import ResourceError
from autoseg.serving import folders
from autoseg.serving.folders import service_folder, sweep

CHILD = """
import sys, time
from pathlib import Path
from autoseg.serving.folders import service_folder
with service_folder(Path(sys.argv[1])) as folder:
    (folder / "request").mkdir()
    (folder / "request" / "image.nii.gz").write_bytes(b"a patient")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_it_is_private_and_removed_at_the_end(tmp_path: Path) -> None:
    with service_folder(tmp_path) as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "request").mkdir()
        (folder / "request" / "image.nii.gz").write_bytes(b"a patient")
        assert list(tmp_path.iterdir()) == [folder]
    assert not list(tmp_path.iterdir())


def test_what_a_killed_service_left_is_removed_and_a_running_one_is_left_alone(tmp_path: Path) -> None:
    children = [
        subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        dead, alive = (Path(child.stdout.readline().strip()) for child in children)
        assert {dead, alive} == set(tmp_path.iterdir())  # the second start has not touched the first's
        children[0].send_signal(signal.SIGKILL)
        children[0].wait()
        assert (dead / "request" / "image.nii.gz").is_file()
        with service_folder(tmp_path) as own:
            assert set(tmp_path.iterdir()) == {alive, own}
            assert sweep(tmp_path) == 0
        assert (alive / "request" / "image.nii.gz").read_bytes() == b"a patient"
    finally:
        for child in children:
            child.kill()
            child.wait()
            child.stdout.close()
    assert sweep(tmp_path) == 1
    assert not list(tmp_path.iterdir())


def test_what_others_may_have_made_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders without a lock, that others can write to, of other users, and links that lead elsewhere."""
    for name, mode, lock in (("unlocked", 0o700, False), ("open", 0o755, True), ("foreign", 0o700, True)):
        folder = tmp_path / f"autoseg_service_{name}"
        folder.mkdir(mode=mode)
        folder.chmod(mode)
        if lock:
            (folder / ".lock").touch()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "elsewhere" / ".lock").touch()
    (tmp_path / "autoseg_service_link").symlink_to(tmp_path / "elsewhere")
    before = sorted(tmp_path.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: os.stat(tmp_path).st_uid + 1)
        assert sweep(tmp_path) == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert sweep(tmp_path) == 1
    assert not (tmp_path / "autoseg_service_foreign").exists()
    assert (tmp_path / "elsewhere" / ".lock").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {
        "autoseg_service_link", "autoseg_service_open", "autoseg_service_unlocked", "elsewhere"
    }  # fmt: skip


@pytest.mark.parametrize("has_lock", [False, True])
def test_what_was_killed_while_it_started_is_removed_once_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_lock: bool
) -> None:
    """One that is young may be about to be locked; one that others can write to is not ours."""
    with monkeypatch.context() as patch:
        patch.setattr(folders, "_STARTED_SECONDS", 0)  # even then its own is not touched, nor one that was locked
        with service_folder(tmp_path) as running, service_folder(tmp_path) as own:
            assert set(tmp_path.iterdir()) == {running, own}
    names = ("young", "old", "open")
    for name in names:
        folder = tmp_path / f"autoseg_starting_{name}"
        folder.mkdir(mode=0o700)
        if has_lock:
            (folder / ".lock").touch()
        if name != "young":
            os.utime(folder, (time.time() - 61, time.time() - 61))
    (tmp_path / "autoseg_starting_open").chmod(0o755)
    assert sweep(tmp_path) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"autoseg_starting_young", "autoseg_starting_open"}


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="nowhere"), service_folder(tmp_path / "nowhere"):
        pass
