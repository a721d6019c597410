"""A number of bytes in, a memory control group of Linux out, in which all that a process touches has to fit.

Unlike a limit on the process (`RLIMIT_DATA`) a group's holds for pages of files too, mapped ones included, as on a
machine that has no more memory. The group is made inside this process's own, whose limits hold as well, and removed.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


class Group(NamedTuple):
    folder: Path
    limit: str
    peak: str
    """Name of the file that tells it; version 2 has it since Linux 5.19."""

    def join(self) -> None:
        """Move this process there; what it has touched before counts where it was."""
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def peak_gib(self) -> float | None:
        path = self.folder / self.peak
        return round(int(path.read_text()) / 2**30, 2) if path.is_file() else None


@contextmanager
def memory_group(limit_bytes: int) -> Iterator[Group]:
    """A group of that limit until the block ends, when no process may be in it any more.

    Raises:
        SystemExit: this user may not make one, or the system has none; the text says what to do.
    """
    group = _own_group()
    try:
        group.folder.mkdir()
    except OSError as error:
        raise _refusal(limit_bytes, error) from error
    try:
        try:
            if not (group.folder / group.limit).is_file():
                raise OSError(f"{group.folder} has no {group.limit}")
            (group.folder / group.limit).write_text(str(limit_bytes))
        except OSError as error:
            raise _refusal(limit_bytes, error) from error
        yield group
    finally:
        group.folder.rmdir()


def _refusal(limit_bytes: int, error: OSError) -> SystemExit:
    return SystemExit(
        f"No memory group of {limit_bytes / 2**30:g} GiB could be made ({error}). Run this as root, or without "
        f"--group-gib inside `systemd-run --user --scope -p MemoryMax={limit_bytes}`."
    )


def forget_pages(path: Path) -> None:
    """Have a file read from the disk again: pages that another group has read count there."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _own_group() -> Group:
    lines = [line.split(":", 2) for line in OWN.read_text().splitlines()] if OWN.is_file() else []
    name = f"autoseg_{os.getpid()}"
    for _, controllers, path in lines:
        if "memory" in controllers.split(","):
            folder = ROOT / "memory" / path.lstrip("/") / name
            return Group(folder, "memory.limit_in_bytes", "memory.max_usage_in_bytes")
    for number, _, path in lines:
        if number == "0":
            return Group(ROOT / path.lstrip("/") / name, "memory.max", "memory.peak")
    raise SystemExit("This system has no memory groups (they are Linux's); --group-gib needs them.")
