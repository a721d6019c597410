"""The lock excludes a second holder and never outlives the first."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from autoseg.errors import ResourceError, UsageError
from autoseg.storage.locks import LOCK_FILE, is_locked, locked

_HOLD = """
import sys, time
from pathlib import Path
from autoseg.storage.locks import locked
with locked(Path(sys.argv[1]), "testing"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_second_holder_is_refused_with_the_first_one_named(tmp_path: Path) -> None:
    refused = pytest.raises(UsageError, match=str(os.getpid()))
    with locked(tmp_path / "fold_0", "training"), refused, locked(tmp_path / "fold_0", "training"):
        pass


def test_whether_it_is_held_can_be_asked(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "nowhere")
    with locked(tmp_path, "training"):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


def test_lock_is_free_again_after_the_block_and_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="inside"), locked(tmp_path, "training"):
        raise RuntimeError("inside")
    with locked(tmp_path, "training"):
        pass


def test_killed_holder_leaves_no_stale_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UsageError, match=str(holder.pid)), locked(tmp_path, "training"):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with locked(tmp_path, "training"):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_system_without_locks_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path, "predicting"):
        assert not is_locked(tmp_path)
    assert "without locks" in " ".join(capsys.readouterr().err.split())


def test_lock_that_fails_otherwise_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ResourceError, match="Cannot lock"), locked(tmp_path, "predicting"):
        pass


def test_colleagues_may_lock_a_folder_that_they_may_write_into(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with locked(tmp_path, "predicting"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / LOCK_FILE).stat().st_mode & 0o777 == 0o666
