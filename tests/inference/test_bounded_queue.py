"""Between two threads: order, bound, and every way to end; a test that would hang fails after ten seconds."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator

import pytest

from autoseg.inference.bounded_queue import Abandoned, BoundedQueue


def in_thread(work: Callable[[], None]) -> Callable[[], None]:
    """Start `work`; the function returned waits for its end."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def wait() -> None:
        thread.join(10)
        assert not thread.is_alive(), "the other thread hangs"

    return wait


def test_items_come_in_order_and_no_more_wait_than_the_limit() -> None:
    queue, made, used = BoundedQueue[int](limit=5, size_of=lambda item: 2), [], []

    def items() -> Iterator[int]:
        for number in range(50):
            made.append(number)
            yield number

    wait = in_thread(lambda: queue.fill(items))
    for item in queue:
        used.append(item)
        assert len(made) <= len(used) + 4  # two wait, one is being put, one is made
    wait()
    assert used == list(range(50))


def test_one_item_larger_than_the_limit_passes() -> None:
    queue = BoundedQueue[int](limit=5, size_of=lambda item: 100)
    wait = in_thread(lambda: queue.fill(lambda: [1, 2]))
    assert list(queue) == [1, 2]
    wait()


@pytest.mark.parametrize("fails_at_once", [True, False])
def test_an_error_of_the_maker_is_the_users_after_all_that_was_made(fails_at_once: bool) -> None:
    queue, problem, used = BoundedQueue[int](limit=9, size_of=lambda item: 1), ValueError("broken"), []

    def items() -> Iterator[int]:
        yield 1
        raise problem

    def broken() -> Iterator[int]:
        raise problem

    queue.fill(broken if fails_at_once else items)
    with pytest.raises(ValueError, match="broken") as error:
        used.extend(queue)
    assert error.value is problem
    assert used == ([] if fails_at_once else [1])


def test_an_interrupted_maker_leaves_no_user_waiting() -> None:
    queue, ends = BoundedQueue[int](limit=9, size_of=lambda item: 1), []

    def use() -> None:
        try:
            list(queue)
        except Abandoned as error:
            ends.append(error)

    def items() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    wait = in_thread(use)
    with pytest.raises(KeyboardInterrupt):
        queue.fill(items)
    wait()
    assert len(ends) == 1


def test_a_user_who_stops_stops_the_maker() -> None:
    queue, closed = BoundedQueue[int](limit=1, size_of=lambda item: 1), []

    def items() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    wait = in_thread(lambda: queue.fill(items))
    assert next(iter(queue)) == 1
    queue.close()
    wait()
    assert closed == [True]
    queue.fill(lambda: [1, 2, 3])  # closed already: nothing waits


def test_whoever_waits_for_an_abandoned_belt_is_told() -> None:
    queue, said = BoundedQueue[int](limit=9, size_of=lambda item: 1), []

    def use() -> None:
        try:
            list(queue)
        except Abandoned:
            said.append("abandoned")

    wait = in_thread(use)
    queue.abandon()
    wait()
    assert said == ["abandoned"]


def test_what_was_made_whole_cannot_be_abandoned() -> None:
    queue = BoundedQueue[int](limit=9, size_of=lambda item: 1)
    queue.fill(lambda: [1, 2])
    queue.abandon()
    assert list(queue) == [1, 2]


@pytest.mark.parametrize("closes_first", [False, True])
def test_a_closed_belt_holds_nothing_of_a_failed_maker(closes_first: bool) -> None:
    """A GPU whose memory was full for one case would be full for all cases after it."""

    class Large:
        """Stands for a tensor, which the frames of an error hold."""

    queue, held = BoundedQueue[int](limit=9, size_of=lambda item: 1), []

    def items() -> Iterator[int]:
        large = Large()
        held.append(weakref.ref(large))
        yield 1
        raise MemoryError

    gc.disable()
    try:
        if closes_first:
            queue.close()
        queue.fill(items)
        if not closes_first:
            with pytest.raises(MemoryError):
                list(queue)
            queue.close()
        assert held[0]() is None
    finally:
        gc.enable()
