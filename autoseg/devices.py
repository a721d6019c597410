"""A device name in, a torch device out; and how much memory it and the machine have."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from autoseg.errors import UsageError

_CONTAINER = Path("/sys/fs/cgroup")
_GROUPS = Path("/proc/self/cgroup")


class _Names(NamedTuple):
    """Where a version of Linux's control groups has what."""

    folder: str
    limit: str
    used: str
    kept: tuple[str, str]
    """Of the lines of `memory.stat`."""


_VERSION_1 = _Names(
    "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")
)
_VERSION_2 = _Names("", "memory.max", "memory.current", ("active_file", "inactive_file"))
_FULL_MEMORY = (
    "can't allocate memory",  # PyTorch's allocator of main memory
    "CUDA error: out of memory",  # pinned memory, the context, a graph
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
)
"""What plain RuntimeErrors say that are of full memory."""
_FREE_SHARE = 0.7  # what cases need is estimated roughly, and other programs run too


def choose_device(name: str | None = None) -> torch.device:
    """The device to compute on: `name` if given, else the first GPU, else the CPU. `mps` only where it is named.

    Raises:
        UsageError: the named device does not exist here.
    """
    if name is None or name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    unknown = UsageError(f"--device {name}: unknown; use auto, cpu, cuda, cuda:N or mps.")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise unknown from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise unknown
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"--device {name}: PyTorch finds none of Apple's GPUs here; use cpu.")
    return device


def num_cores() -> int:
    """Processor cores that this process may use; all of the machine where the system does not tell (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory_bytes() -> int:
    """Main memory that can still be used, within the limits of a container or a cluster's job if there are any.

    What is kept of files (read before, or mapped) counts as free there as it does outside.
    Half of all memory where the system does not tell what is free (macOS).
    """
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    return max(min([free, *_free_in_groups()]), 0)


def _free_in_groups() -> Iterator[int]:
    """Bytes left below the limit of each control group that this process is in: of a container, a job, a service.

    A group's limit holds for all groups inside it. What the system keeps of files it gives up when somebody needs it.
    """
    lines = _GROUPS.read_text().splitlines() if _GROUPS.is_file() else []
    for number, controllers, path in (line.split(":", 2) for line in lines):
        if number != "0" and "memory" not in controllers.split(","):
            continue
        names = _VERSION_2 if number == "0" else _VERSION_1
        root = _CONTAINER / names.folder
        inside = root / path.lstrip("/")
        for folder in dict.fromkeys((inside, *inside.parents, root)):  # a container may see its own group as the root
            limit, used = folder / names.limit, folder / names.used
            if folder.is_relative_to(root) and limit.is_file() and (text := limit.read_text().strip()) != "max":
                yield int(text) - int(used.read_text()) + _kept_of_files(folder, names)


def _kept_of_files(folder: Path, names: _Names) -> int:
    """Bytes of files that the system keeps for a group."""
    stored = folder / "memory.stat"
    rows = [line.split() for line in stored.read_text().splitlines()] if stored.is_file() else []
    return sum(int(number) for name, number in rows if name in names.kept)


def free_gpu_bytes(device: torch.device) -> int:
    """Memory of a GPU that this process can still use: what the card has free, and what PyTorch keeps of it unused."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def is_out_of_memory(error: Exception) -> bool:
    """Whether numpy, the CPU's allocator, the GPU's, or what takes memory past it ran out of memory."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(sign in str(error) for sign in _FULL_MEMORY)


def describe_device(device: torch.device) -> str:
    """Short text for records and reports, for example `cpu (2 threads)` or `cuda NVIDIA H100 80GB HBM3`."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"{device.type} ({torch.get_num_threads()} threads)"


class MemorySemaphore:
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


def free_memory() -> MemorySemaphore:
    """What a stage may use of the main memory that is free now, for the cases that its threads work on."""
    return MemorySemaphore(int(available_memory_bytes() * _FREE_SHARE))
