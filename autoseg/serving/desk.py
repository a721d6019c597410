"""Pieces of work in, done one after another in one thread; a limit on how many wait, and counts for monitoring.

One model answers one image at a time: two at once would only share its cores and double its memory. Whoever comes
while all seats are taken is sent away at once instead of being kept waiting for ever, and whoever waits is told as soon
as its time has passed, the service ends, or nobody is there any more to be told.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

Made = TypeVar("Made")


class Full(Exception):  # noqa: N818 - not a fault of the program
    """All seats are taken."""


class TooLate(Exception):  # noqa: N818
    """The work waited longer than it may; it was not begun."""


class Ending(Exception):  # noqa: N818
    """The service ends; the work was not begun."""


class Gone(Exception):  # noqa: N818
    """Whoever asked has left; the work was not begun."""


class Desk:
    """One worker, a number of seats, and what was counted."""

    def __init__(self, num_seats: int, most_seconds_waiting: float) -> None:
        self.num_seats, self.most_seconds_waiting = num_seats, most_seconds_waiting
        self.num_seated = 0
        self.answers: Counter[int] = Counter()
        self.num_done, self.seconds_done, self.num_bytes = 0, 0.0, 0
        self.is_stopped = False
        self._turns: set[Future[Any]] = set()
        self._uploads: set[asyncio.Timeout] = set()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="segment")

    @property
    def is_working(self) -> bool:
        """Whether something has begun and is not finished."""
        return any(turn.running() for turn in tuple(self._turns))

    @contextmanager
    def seat(self) -> Iterator[None]:
        """Hold a seat until the block ends.

        Raises:
            Full: none is free.
            Ending: the service ends.
        """
        with self._lock:
            if self.is_stopped:
                raise Ending
            if self.num_seated >= self.num_seats:
                raise Full
            self.num_seated += 1
        try:
            yield
        finally:
            with self._lock:
                self.num_seated -= 1

    @contextmanager
    def upload(self, clock: asyncio.Timeout) -> Iterator[None]:
        """While the block runs, `stop` lets `clock` strike at once: whoever is slow to send is not waited for."""
        self._uploads.add(clock)
        try:
            yield
        finally:
            self._uploads.discard(clock)

    async def do(self, work: Callable[[], Made], hung_up: asyncio.Future[None]) -> Made:
        """The result of `work`, done when those that came earlier are done; its errors are raised here.

        Work that has begun is finished, whatever happens.

        Args:
            work: called in the desk's own thread.
            hung_up: is done when nobody waits for the result any more.

        Raises:
            TooLate: its turn did not come in time.
            Ending: the service ended before its turn.
            Gone: `hung_up` came before its turn.
        """

        def in_turn() -> Made:
            begun = time.monotonic()
            made = work()
            with self._lock:
                self.num_done += 1
                self.seconds_done += time.monotonic() - begun
            return made

        with self._lock:
            if self.is_stopped:
                raise Ending
            turn = self._pool.submit(in_turn)
            self._turns.add(turn)
            turn.add_done_callback(self._turns.discard)
        result, limit = asyncio.wrap_future(turn), self.most_seconds_waiting
        ends: list[asyncio.Future[Any]] = [result, hung_up]
        await asyncio.wait(ends, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if turn.cancelled():  # by `stop`
            raise Ending
        if turn.cancel():  # which succeeds only if it has not begun
            raise Gone if hung_up.done() else TooLate
        return await result

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

    def stop(self) -> None:
        """Begin nothing more and send away at once who waits or sends; what is being worked on goes on.

        Where somebody may be sending, called in the event loop.
        """
        with self._lock:
            self.is_stopped = True
            self._pool.shutdown(wait=False, cancel_futures=True)
        for clock in tuple(self._uploads):
            if not clock.expired():
                clock.reschedule(0)

    def close(self) -> None:
        """Stop, and wait until what is being worked on is finished."""
        self.stop()
        self._pool.shutdown(wait=True)
