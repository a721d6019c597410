"""Bytes or a writer function in, a complete file on disk out: temp file, verify, fsync, rename.

A reader sees the old file or the new one, never half of one, whenever the process is killed. The
temporary file lies in the target's own folder, since a rename is atomic within one file system only.
"""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from autoseg.errors import ResourceError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


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
    path.parent.mkdir(parents=True, exist_ok=True)
    ending = "".join(path.suffixes[-2:]) if suffix is None else suffix
    try:
        handle, name = tempfile.mkstemp(prefix=".partial-", suffix=ending, dir=path.parent)
    except OSError as error:
        raise ResourceError(
            f"Cannot write to {path.parent}: {error.strerror}. Free space or choose another --work."
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        if durable:
            _fsync(temporary)
        if verify is not None:
            verify(temporary)
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
        if durable:
            _fsync(path.parent)
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise ResourceError(f"No space left while writing {path}. Free space or choose another --work.") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


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


def _umask() -> int:
    # The only portable way to read the umask is to set it; mkstemp's 0600 would hide results from colleagues.
    current = os.umask(0)
    os.umask(current)
    return current
