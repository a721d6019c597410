"""A device name in, a torch device out; and how much memory it and the machine have."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from autoseg.errors import UsageError

_CONTAINER = Path("/sys/fs/cgroup")  # of this process, as version 2 of control groups shows it
_FREE_SHARE = 0.7  # what cases need is estimated roughly, and other programs run too


def choose_device(name: str | None = None) -> torch.device:
    """The device to compute on: `name` if given, else the first GPU, else the CPU.

    Raises:
        UsageError: the named device does not exist here.
    """
    if name is None or name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: unknown; use auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices.")
    return device


def num_cores() -> int:
    """Processor cores that this process may use; all of the machine where the system does not tell (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory_bytes() -> int:
    """Main memory that can still be used, within the limit of a container if there is one.

    What is kept of files (read before, or mapped) counts as free in a container as it does outside.
    Half of all memory where the system does not tell what is free (macOS).
    """
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    limit, used = _CONTAINER / "memory.max", _CONTAINER / "memory.current"
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()) != "max":
        free = min(free, int(text) - int(used.read_text()) + _kept_of_files())
    return max(free, 0)


def _kept_of_files() -> int:
    """Bytes of files that the system keeps for the container and gives up when somebody needs them."""
    stored = _CONTAINER / "memory.stat"
    rows = [line.split() for line in stored.read_text().splitlines()] if stored.is_file() else []
    return sum(int(number) for name, number in rows if name in ("active_file", "inactive_file"))


def is_full_memory(error: Exception) -> bool:
    """Whether numpy, the GPU's or the CPU's allocator (which raises a plain RuntimeError) ran out of memory."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def describe_device(device: torch.device) -> str:
    """Short text for records and reports, for example `cpu (2 threads)` or `cuda NVIDIA H100 80GB HBM3`."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"{device.type} ({torch.get_num_threads()} threads)"


class SharedMemory:
    """A number of bytes that threads share: whoever asks for more than is left waits, unless nobody else has any.

    So a case larger than the memory is tried, and named if it fails, instead of never being begun.
    """

    def __init__(self, num_bytes: int) -> None:
        self._total, self._used = num_bytes, 0
        self._changed = threading.Condition()

    @contextmanager
    def share(self, num_bytes: int) -> Iterator[None]:
        """Hold `num_bytes` inside the block."""
        with self._changed:
            self._changed.wait_for(lambda: self._used == 0 or self._used + num_bytes <= self._total)
            self._used += num_bytes
        try:
            yield
        finally:
            with self._changed:
                self._used -= num_bytes
                self._changed.notify_all()


def free_memory() -> SharedMemory:
    """What a stage may use of the main memory that is free now, for the cases that its threads work on."""
    return SharedMemory(int(available_memory_bytes() * _FREE_SHARE))
