"""A temporary folder in, a private folder of one running service inside it out; what dead services left is removed.

A service's folder holds the images that it is answering. It is removed when the service ends; where the process died
before it could, the next service that starts removes it. A folder is locked from before it has its name on
(`storage.locks`: by the kernel, and so no longer than its process lives): one of that name whose lock is free belongs
to nobody, and one that is in use is never touched. Until it is locked it has another name, for a few milliseconds: one
that has had it for a minute was left by a process that was killed in them.
"""

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoseg.errors import UsageError
from autoseg.storage.atomic import cannot_write
from autoseg.storage.locks import LOCK_FILE, locked

_NAME = "autoseg_service_"
_BEFORE = "autoseg_starting_"
_STARTED_SECONDS = 60
"""Age at which a folder that is not locked yet has no process any more."""


@contextmanager
def service_folder(parent: Path) -> Iterator[Path]:
    """Yield an empty folder inside `parent` that nobody else can read; it is removed when the block ends.

    Raises:
        ResourceError: `parent` cannot be written to.
    """
    sweep(parent)
    try:
        made = Path(tempfile.mkdtemp(prefix=_BEFORE, dir=parent))
    except OSError as error:
        raise cannot_write(parent, error) from error
    folder = made.with_name(_NAME + made.name.removeprefix(_BEFORE))
    try:
        with locked(made, "serving a model"):
            os.replace(made, folder)  # its lock goes with it
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def sweep(parent: Path) -> int:
    """Remove the folders that services of this user left in `parent` when they died; how many there were."""
    num_removed = 0
    for folder in sorted(parent.glob(_BEFORE + "*")):
        age = _seconds_since_change(folder)
        if age is not None and age > _STARTED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
            num_removed += 1
    for folder in sorted(parent.glob(_NAME + "*")):
        # One without a lock was not made by `service_folder`.
        if _seconds_since_change(folder) is None or not (folder / LOCK_FILE).is_file():
            continue
        try:
            with locked(folder, "removing what a service left"):
                shutil.rmtree(folder, ignore_errors=True)
        except UsageError:  # a running service holds it
            continue
        num_removed += 1
    return num_removed


def _seconds_since_change(folder: Path) -> float | None:
    """How long ago something was put into a folder; None where others than this user can have made or filled it."""
    try:
        found = folder.lstat()
    except OSError:  # removed by another start meanwhile
        return None
    is_private = stat.S_ISDIR(found.st_mode) and not stat.S_IMODE(found.st_mode) & 0o077
    return time.time() - found.st_mtime if is_private and found.st_uid == os.getuid() else None
