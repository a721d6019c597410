"""Items made in one thread in, the same items used in another out, no more of them waiting than a number of bytes.

An exception of the maker ends the user's loop with the same exception; a user who stops early stops the maker. Neither
ever waits for a thread that is gone.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Abandoned(Exception):  # noqa: N818 - no fault of the user's: the maker was interrupted
    """The maker will not go on, and why is known elsewhere."""


class BoundedQueue(Generic[Item]):
    """A bounded queue between two threads that ends with an error or without one."""

    def __init__(self, limit: int, size_of: Callable[[Item], int]) -> None:
        """Begin empty.

        Args:
            limit: bytes that may wait; one item may always.
            size_of: bytes of an item.
        """
        self._limit, self._size_of = limit, size_of
        self._waiting: deque[Item] = deque()
        self._bytes, self._ended, self._closed = 0, False, False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def fill(self, items: Callable[[], Iterable[Item]]) -> None:
        """Make the items and pass them on, waiting while too much waits; returns early when the user has stopped.

        Raises:
            KeyboardInterrupt: also raised here, the user then gets `Abandoned`; other errors are the user's alone.
        """
        error: BaseException | None = Abandoned()
        try:
            for item in items():
                if not self._put(item):
                    break
            error = None
        except Exception as problem:
            error = problem
        finally:
            with self._changed:
                self._error, self._ended = None if self._closed else error, True
                self._changed.notify_all()
            error = None  # what an error holds of this call holds the error: neither would be freed

    def abandon(self) -> None:
        """Nothing more will be made: whoever waits for an item gets `Abandoned`. Without effect when all was made."""
        with self._changed:
            if not self._ended:
                self._error, self._ended = Abandoned(), True
                self._changed.notify_all()

    def close(self) -> None:
        """The user wants nothing more; an error is let go, and with it the memory that its maker had in use."""
        with self._changed:
            self._closed, self._error = True, None
            self._waiting.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        """The items in order; raises what their making raised, after those made before."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    if self._error is not None:
                        raise self._error
                    return
                item = self._waiting.popleft()
                self._bytes -= self._size_of(item)
                self._changed.notify_all()
            yield item

    def _put(self, item: Item) -> bool:
        size = self._size_of(item)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._waiting or self._bytes + size <= self._limit)
            if not self._closed:
                self._waiting.append(item)
                self._bytes += size
                self._changed.notify_all()
            return not self._closed
