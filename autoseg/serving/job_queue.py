"""Jobs in, run one after another in one worker thread; the queue has a limit, and counts for monitoring.

One model segments one image at a time: two at once would only share its cores and double its memory. A request holds a
seat of the queue from its first byte to its answer. When all seats are taken, a new request is refused at once. One
that waits is refused as soon as its time has passed or the service is stopped; if its client hangs up, its job is
dropped.
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


class QueueFull(Exception):  # noqa: N818 - not a fault of the program
    """All seats of the queue are taken."""


class QueueTimeout(Exception):  # noqa: N818
    """The job waited longer than it may; it was not begun."""


class ShuttingDown(Exception):  # noqa: N818
    """The service is being stopped; the job was not begun."""


class ClientGone(Exception):  # noqa: N818
    """The client hung up; the job was not begun."""


class JobQueue:
    """A queue with one worker and a fixed number of seats; it counts what Prometheus asks for."""

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
        """Whether a job is running."""
        return any(turn.running() for turn in tuple(self._turns))

    @contextmanager
    def seat(self) -> Iterator[None]:
        """Hold a seat until the block ends.

        Raises:
            QueueFull: none is free.
            ShuttingDown: the service ends.
        """
        with self._lock:
            if self.is_stopped:
                raise ShuttingDown
            if self.num_seated >= self.num_seats:
                raise QueueFull
            self.num_seated += 1
        try:
            yield
        finally:
            with self._lock:
                self.num_seated -= 1

    @contextmanager
    def upload(self, clock: asyncio.Timeout) -> Iterator[None]:
        """Let `stop` end `clock`, the time limit of an upload, at once while the block runs."""
        self._uploads.add(clock)
        try:
            yield
        finally:
            self._uploads.discard(clock)

    async def do(self, work: Callable[[], Made], hung_up: asyncio.Future[None]) -> Made:
        """Run `work` after the jobs that came earlier, and return its result; its errors are raised here.

        A job that has begun is always finished.

        Args:
            work: called in the worker's own thread.
            hung_up: is done when nobody waits for the result any more.

        Raises:
            QueueTimeout: its turn did not come in time.
            ShuttingDown: the service ended before its turn.
            ClientGone: `hung_up` came before its turn.
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
                raise ShuttingDown
            turn = self._pool.submit(in_turn)
            self._turns.add(turn)
            turn.add_done_callback(self._turns.discard)
        result, limit = asyncio.wrap_future(turn), self.most_seconds_waiting
        ends: list[asyncio.Future[Any]] = [result, hung_up]
        await asyncio.wait(ends, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if turn.cancelled():  # by `stop`
            raise ShuttingDown
        if turn.cancel():  # which succeeds only if it has not begun
            raise ClientGone if hung_up.done() else QueueTimeout
        return await result

    def count(self, status: int, num_bytes: int) -> None:
        """Note a request that was answered."""
        with self._lock:
            self.answers[status] += 1
            self.num_bytes += num_bytes

    def retry_seconds(self) -> int:
        """For `Retry-After`: the mean seconds of a job so far, after which a seat should be free; at least 1."""
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
        """Begin no further job and refuse those that wait or are still being sent; the running one goes on.

        Called in the event loop where images may be arriving.
        """
        with self._lock:
            self.is_stopped = True
            self._pool.shutdown(wait=False, cancel_futures=True)
        for clock in tuple(self._uploads):
            if not clock.expired():
                clock.reschedule(0)

    def close(self) -> None:
        """Stop, and wait for the running job."""
        self.stop()
        self._pool.shutdown(wait=True)
