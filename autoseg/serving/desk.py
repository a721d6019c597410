"""Pieces of work in, done one after another in one thread; a limit on how many wait, and counts for monitoring.

One model answers one image at a time: two at once would only share its cores and double its memory. Whoever comes
while all seats are taken is sent away at once instead of being kept waiting for ever.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Made = TypeVar("Made")


class Full(Exception):  # noqa: N818 - not a fault of the program
    """All seats are taken."""


class TooLate(Exception):  # noqa: N818
    """The work waited longer than it may, or the service ends; it was not begun."""


class Desk:
    """One worker, a number of seats, and what was counted."""

    def __init__(self, num_seats: int, most_seconds_waiting: float) -> None:
        self.num_seats, self.most_seconds_waiting = num_seats, most_seconds_waiting
        self.num_seated = 0
        self.answers: Counter[int] = Counter()
        self.num_done, self.seconds_done, self.num_bytes = 0, 0.0, 0
        self._lock = threading.Lock()
        self._closed = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="segment")

    @contextmanager
    def seat(self) -> Iterator[None]:
        """Hold a seat until the block ends.

        Raises:
            Full: none is free.
            TooLate: the service ends.
        """
        with self._lock:
            if self._closed:
                raise TooLate
            if self.num_seated >= self.num_seats:
                raise Full
            self.num_seated += 1
        try:
            yield
        finally:
            with self._lock:
                self.num_seated -= 1

    async def do(self, work: Callable[[], Made]) -> Made:
        """The result of `work`, done when those that came earlier are done; its errors are raised here.

        Raises:
            TooLate: it waited too long, or the service ended before its turn.
        """
        asked = time.monotonic()

        def in_turn() -> Made:
            begun = time.monotonic()
            if self._closed or begun - asked > self.most_seconds_waiting:
                raise TooLate
            made = work()
            with self._lock:
                self.num_done += 1
                self.seconds_done += time.monotonic() - begun
            return made

        return await asyncio.wrap_future(self._pool.submit(in_turn))

    def count(self, status: int, num_bytes: int) -> None:
        """Note a request that was answered."""
        with self._lock:
            self.answers[status] += 1
            self.num_bytes += num_bytes

    def retry_seconds(self) -> int:
        """After how long somebody who was sent away may find a seat: the time of one answer."""
        with self._lock:
            return max(1, round(self.seconds_done / self.num_done)) if self.num_done else 1

    def metrics(self) -> str:
        """All counts as Prometheus text (exposition format 0.0.4)."""
        with self._lock:
            rows = ["# TYPE autoseg_requests_total counter"]
            rows += [
                f'autoseg_requests_total{{status="{status}"}} {count}' for status, count in sorted(self.answers.items())
            ]
            rows += [
                "# TYPE autoseg_received_bytes_total counter",
                f"autoseg_received_bytes_total {self.num_bytes}",
                "# TYPE autoseg_segmentation_seconds summary",
                f"autoseg_segmentation_seconds_sum {self.seconds_done:.6f}",
                f"autoseg_segmentation_seconds_count {self.num_done}",
                "# TYPE autoseg_seats_taken gauge",
                f"autoseg_seats_taken {self.num_seated}",
                "# TYPE autoseg_seats gauge",
                f"autoseg_seats {self.num_seats}",
            ]
        return "\n".join(rows) + "\n"

    def close(self) -> None:
        """Begin nothing more; what is being worked on is finished."""
        self._closed = True
        self._pool.shutdown(wait=True)
