"""Independent pieces of work on a CPU in, all of them done by several threads out.

torch shares each single operator among its threads, which wait for one another after it. In pieces that stay in the
caches an operator takes a fraction of a millisecond: sharing it gains nothing, and where another program has one of the
cores all wait for the thread on that core, thousands of times. Here each thread takes a piece when it is done with its
last one, and torch works on it in that thread alone: a thread whose core is busy does fewer pieces, and a thread that
has none sleeps.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
from threadpoolctl import ThreadpoolController

from autoseg.spatial.linear import Scratch

Piece = TypeVar("Piece")

_MOST = 4
"""Threads at most: between operators Python lets only one of them go on, for up to a third of a strip's time."""


def num_workers() -> int:
    """Threads that work on pieces: as many as torch has in this thread, within reason."""
    return min(torch.get_num_threads(), _MOST)


class Workers:
    """Threads that begin with the first pieces and end with the block `with Workers() as workers`.

    Where torch has one thread, or the pieces lie on another device, the calling thread does them itself.
    """

    def __init__(self) -> None:
        self._own = _Own()
        count = num_workers()
        self._pool = ThreadPoolExecutor(count, "pieces", torch_in_this_thread_alone) if count > 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    @property
    def scratch(self) -> Scratch:
        """Memory of the thread that asks, for whatever it works on."""
        return self._own.scratch

    def each(self, work: Callable[[Piece], None], pieces: Iterable[Piece], device: torch.device) -> None:
        """Do `work` on each of the pieces that lie on `device`, in no order; returns when all are done.

        The first error, or an interruption, is raised; pieces that nobody has begun are let go then.
        """
        if self._pool is None or device.type != "cpu":
            for piece in pieces:
                work(piece)
        else:
            without_gradients = torch.is_inference_mode_enabled()  # the mode belongs to a thread, not to the tensors

            def run(piece: Piece) -> None:
                with torch.inference_mode(without_gradients):
                    work(piece)

            for _ in self._pool.map(run, pieces):
                pass


class _Own(threading.local):
    """What each thread has of its own."""

    def __init__(self) -> None:
        self.scratch = Scratch()


def torch_in_this_thread_alone() -> None:
    """Let torch use one thread for what this thread computes, and leave all other threads as they are.

    `torch.set_num_threads` would not do: it is also what threads get that begin to compute later, wherever they are.
    OpenMP's own setting belongs to the thread that calls it.
    """
    torch.get_num_threads()  # sets OpenMP's number when a thread first uses torch: from now on it will not
    _libraries().limit(limits=1, user_api="openmp")


@lru_cache(maxsize=1)
def _libraries() -> Any:
    """The libraries of this process that have threads; looking for them takes milliseconds."""
    return ThreadpoolController()
