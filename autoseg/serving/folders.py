"""A temporary folder in, a private folder of one running service inside it out; what dead services left is removed.

A service's folder holds the images that it is answering. It is removed when the service ends; where the process died
before it could, the next service that starts removes it. A folder is locked from before it has its name on
(`storage.locks`: by the kernel, and so no longer than its process lives): one of that name whose lock is free belongs
to nobody, and one that is in use is never touched.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoseg.errors import UsageError
from autoseg.storage.atomic import cannot_write
from autoseg.storage.locks import LOCK_FILE, locked

_NAME = "autoseg_service_"
_BEFORE = "autoseg_starting_"


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
    for folder in sorted(parent.glob(_NAME + "*")):
        if not _is_own(folder):
            continue
        try:
            with locked(folder, "removing what a service left"):
                shutil.rmtree(folder, ignore_errors=True)
        except UsageError:  # a running service holds it
            continue
        num_removed += 1
    return num_removed


def _is_own(folder: Path) -> bool:
    """Whether only this user can have made and filled it; one without a lock was not made by `service_folder`."""
    try:
        found = folder.lstat()
    except OSError:  # removed by another start meanwhile
        return False
    private = stat.S_ISDIR(found.st_mode) and not stat.S_IMODE(found.st_mode) & 0o077
    return private and found.st_uid == os.getuid() and (folder / LOCK_FILE).is_file()
