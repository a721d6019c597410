"""Bytes or a writer function in, a complete file (or folder) on disk out: temp file, verify, fsync, rename.

A reader sees the old file or the new one, never half of one, whenever the process is killed. The
temporary file lies in the target's own folder, since a rename is atomic within one file system only.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from autoseg.errors import ResourceError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_PARTIAL = ".partial-"
_SCRATCH = ".scratch-"


def _read_umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


# The only portable way to read the umask is to set it, which other threads would see: once, before there are any.
_UMASK = _read_umask()


def write_atomically(
    path: Path,
    write: Callable[[Path], None],
    verify: Callable[[Path], None] | None = None,
    suffix: str | None = None,
    durable: bool = True,
) -> None:
    """Let `write` fill a temporary file, `verify` it, and move it to `path`.

    Args:
        path: target; missing parent folders are made.
        write: called with the temporary path; must leave a complete file there.
        verify: called with the temporary path after the fsync; raises if the file is not as it must be.
        suffix: ending of the temporary name, for writers that choose a format by it; default: `path`'s.
        durable: whether the file must survive a loss of power. An fsync costs tens of milliseconds, so caches whose
            every file is compared with its hash before use, and can be made again, do without.

    Raises:
        ResourceError: no space is left, or the folder cannot be written to; an older file stays as it was.
    """
    with filled_file(path, verify, suffix, durable) as temporary:
        write(temporary)


@contextmanager
def filled_file(
    path: Path, verify: Callable[[Path], None] | None = None, suffix: str | None = None, durable: bool = True
) -> Iterator[Path]:
    """Yield a temporary file to fill; it becomes `path` when the block ends without an error.

    Arguments and errors as for `write_atomically`.
    """
    ending = "".join(path.suffixes[-2:]) if suffix is None else suffix
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_PARTIAL, suffix=ending, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        if durable:
            _fsync(temporary)
        if verify is not None:
            verify(temporary)
        temporary.chmod(0o666 & ~_UMASK)  # mkstemp's 0600 would hide results from colleagues
        os.replace(temporary, path)
        if durable:
            _fsync(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if temporary is not None:
            with suppress(OSError):  # on a failing disk the reason matters, not that the rest stays there too
                temporary.unlink(missing_ok=True)


@contextmanager
def filled_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes `path` (missing or empty) when the block ends without an error.

    Raises:
        ResourceError: no space is left, or the parent cannot be written to; `path` stays as it was.
    """
    path = path.resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=path.parent) as scratch:
            fresh = Path(scratch) / path.name  # the scratch folder itself is its user's alone
            fresh.mkdir()
            yield fresh
            os.replace(fresh, path)
    except OSError as error:
        raise cannot_write(path, error) from error


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Yield an empty folder inside `parent` (made if missing) that is removed when the block ends.

    Raises:
        ResourceError: no space is left, or `parent` cannot be written to.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=parent) as scratch:
            yield Path(scratch)
    except OSError as error:
        raise cannot_write(parent, error) from error


def sweep_scratch(parent: Path) -> None:
    """Remove the folders of `scratch_folder` inside `parent` that killed processes left; none of them may be in use."""
    for folder in parent.glob(f"{_SCRATCH}*/"):
        if not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)


def is_full_disk(error: Exception) -> bool:
    """Whether there was no space left, or none left for this user."""
    return isinstance(error, OSError) and error.errno in _NO_SPACE


def cannot_write(path: Path, error: OSError) -> ResourceError:
    """What to tell a person when `path` could not be written."""
    if is_full_disk(error):
        return ResourceError(f"No space left while writing {path}. Free space or choose another folder.")
    reason = error.strerror or str(error)
    return ResourceError(f"Cannot write {path}: {reason}. Check the folder's permissions or choose another one.")


def write_bytes(path: Path, content: bytes, durable: bool = True) -> None:
    """Write `content` to `path` atomically; raises ResourceError as `write_atomically` does."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_atomically(path, write, durable=durable)


def write_text(path: Path, content: str, durable: bool = True) -> None:
    """Write `content` to `path` atomically as UTF-8; raises ResourceError as `write_atomically` does."""
    write_bytes(path, content.encode("utf-8"), durable)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
