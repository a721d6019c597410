"""A folder in, exclusive use of it for as long as a block runs out.

The lock is the kernel's (`flock` on a small file), not the file's existence: it vanishes with the process that
holds it, however that ends, so no stale lock is ever left behind. The file itself stays; removing it would let
two processes hold "the" lock on two different files.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from autoseg import console
from autoseg.errors import ResourceError, UsageError

LOCK_FILE = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems without locks answer, as NFS without its lock service does."""


def is_locked(folder: Path) -> bool:
    """Whether another process holds the lock of `folder` at this moment."""
    if not (folder / LOCK_FILE).is_file():
        return False
    handle = os.open(folder / LOCK_FILE, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    finally:
        os.close(handle)
    return False


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold the lock of `folder` (made if missing) inside the `with` block.

    Where the file system has no locks the block runs without one, and a warning says so.

    Args:
        folder: what is to be used by one process at a time.
        what: what the holder does there, for the message, for example `training fold 0`.

    Raises:
        UsageError: another process holds the lock; its process id is named.
        ResourceError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ResourceError(f"Cannot write to {folder}: {error.strerror}. Choose another folder.") from error
    try:
        with suppress(OSError):  # whoever else may write into the folder may lock it too, once this is done
            os.fchmod(handle, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(handle, 32).decode("ascii", "replace").strip() or "unknown"
            raise UsageError(
                f"{folder} is in use: process {holder} is {what}. Wait for it, or stop it and call again."
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise ResourceError(f"Cannot lock {folder}: {error.strerror}. Choose another folder.") from error
            console.warn(f"{folder} is on a file system without locks; let no other process use it meanwhile")
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)
