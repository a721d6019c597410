"""The memory that is free when a stage begins in, a share of it for each case that threads work on out.

A case begins when what it is expected to need fits; one case is always allowed, so that a case larger than the
memory is tried, and named if it fails, instead of never being begun.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from autoseg.devices import available_memory_bytes

_FREE_SHARE = 0.7  # expectations are rough, and other programs run too


class SharedMemory:
    """A number of bytes that threads share: whoever asks for more than is left waits, unless nobody else has any."""

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
    """What a stage may use of the main memory that is free now."""
    return SharedMemory(int(available_memory_bytes() * _FREE_SHARE))
