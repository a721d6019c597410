"""Signals in, a request to stop out, looked at where stopping loses nothing.

SIGTERM and SIGUSR1 (what schedulers send before the time is up) and Ctrl-C ask to stop; the training finishes
its step, saves and ends. A handler only notes the signal: doing anything else inside one is unsafe. A second
Ctrl-C ends at once, without saving.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from autoseg.errors import Preempted

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Whether the process was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def raise_if_asked(self, what: str) -> None:
        """End the work when asked to; everything worth keeping must be saved before.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
            Preempted: SIGTERM or SIGUSR1 came.
        """
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt(f"{what} stopped; it is saved, call the same command to go on.")
        if self.signal is not None:
            name = signal.Signals(self.signal).name
            raise Preempted(f"{what} stopped by {name}; it is saved, call the same command to go on.")


@contextmanager
def listening_for_stop() -> Iterator[StopRequest]:
    """Note signals inside the block instead of dying from them; the earlier handlers come back after it.

    Python delivers signals to the main thread alone; called from another one, this listens to nothing.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the interpreter's signature
        request.signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    earlier = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
