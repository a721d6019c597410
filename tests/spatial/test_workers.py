"""Pieces of work shared by threads: all are done, whoever is slow, and nothing outside these threads changes."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from autoseg.spatial.workers import Workers, num_workers
from tests.spatial.threads import torch_threads

CPU = torch.device("cpu")
SECONDS = 30  # until a test that hangs fails


@pytest.fixture
def two_threads() -> Iterator[None]:
    with torch_threads(2):
        yield


def num_torch_threads_elsewhere() -> int:
    """What torch has in a thread that begins now."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def test_two_pieces_are_under_way_at_a_time(two_threads: None) -> None:
    """Each waits for the other."""
    meeting = threading.Barrier(2, timeout=SECONDS)
    with Workers() as workers:
        for _ in range(3):  # the same threads and the same scratch every time
            workers.each(lambda _: meeting.wait(), range(2), CPU)


def test_whoever_is_slow_does_fewer(two_threads: None) -> None:
    """The thread of the first piece is kept until the other has done all the rest."""
    rest_done, done = threading.Event(), []

    def work(piece: int) -> None:
        if piece == 0:
            assert rest_done.wait(SECONDS)
        done.append(piece)
        if len(done) == 19:
            rest_done.set()

    with Workers() as workers:
        workers.each(work, range(20), CPU)
    assert done == [*range(1, 20), 0]


def test_torch_has_one_thread_there_and_two_everywhere_else(two_threads: None) -> None:
    """Also in this thread meanwhile, and in one that begins meanwhile."""
    meeting, inside = threading.Barrier(3, timeout=SECONDS), []

    def work(_: int) -> None:
        inside.append(torch.get_num_threads())
        torch.ones(2**20).exp_()  # the first operator that torch could share does not change it
        inside.append(torch.get_num_threads())
        meeting.wait()
        meeting.wait()

    def run() -> None:
        with Workers() as workers:
            workers.each(work, range(2), CPU)

    thread = threading.Thread(target=run)
    thread.start()
    meeting.wait()
    assert (torch.get_num_threads(), num_torch_threads_elsewhere()) == (2, 2)
    meeting.wait()
    thread.join()
    assert inside == [1] * 4
    assert (torch.get_num_threads(), num_torch_threads_elsewhere()) == (2, 2)


def test_each_thread_has_scratch_of_its_own(two_threads: None) -> None:
    meeting, seen = threading.Barrier(2, timeout=SECONDS), []

    def work(_: int) -> None:
        meeting.wait()
        seen.append((threading.get_ident(), workers.scratch))

    with Workers() as workers:
        for _ in range(3):
            workers.each(work, range(2), CPU)
    assert len({id(scratch) for _, scratch in seen}) == 2
    assert len({(thread, id(scratch)) for thread, scratch in seen}) == 2


@pytest.mark.parametrize("error", [ValueError, MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("from_work", [True, False])
def test_an_error_comes_through_and_ends_the_threads(
    two_threads: None, error: type[BaseException], from_work: bool
) -> None:
    """From a piece being worked on, or in the calling thread between two pieces."""
    before, begun = set(threading.enumerate()), []

    def pieces() -> Iterator[int]:
        yield from range(3)
        if not from_work:
            raise error("told")
        yield from range(3, 1000)

    def work(piece: int) -> None:
        begun.append(piece)
        time.sleep(0.001)  # or all are done before the error is heard of
        if piece == 1 and from_work:
            raise error("told")

    with pytest.raises(error, match="told"), Workers() as workers:
        workers.each(work, pieces(), CPU)
    assert len(begun) < 1000
    assert set(threading.enumerate()) <= before


def test_nobody_works_on_when_an_error_has_left(two_threads: None) -> None:
    """The other thread's piece is finished before the caller hears of the error."""
    other_began, failed, finished = threading.Event(), threading.Event(), []

    def work(piece: int) -> None:
        if piece == 0:
            assert other_began.wait(SECONDS)
            failed.set()
            raise ValueError
        other_began.set()
        assert failed.wait(SECONDS)
        finished.append(piece)

    with pytest.raises(ValueError), Workers() as workers:
        workers.each(work, range(2), CPU)
    assert finished == [1]


@pytest.mark.parametrize(("count", "device"), [(1, "cpu"), (2, "meta")])
def test_the_calling_thread_does_it_where_nobody_can_share(count: int, device: str) -> None:
    threads, done = set(threading.enumerate()), []
    with torch_threads(count), Workers() as workers:
        workers.each(lambda piece: done.append((piece, threading.get_ident())), range(9), torch.device(device))
        assert set(threading.enumerate()) == threads
    assert done == [(piece, threading.get_ident()) for piece in range(9)]


def test_as_many_as_torch_has_within_reason() -> None:
    for count, expected in ((1, 1), (3, 3), (64, 4)):
        with torch_threads(count):
            assert num_workers() == expected


def test_pieces_are_worked_on_in_the_inference_mode_of_the_caller(two_threads: None) -> None:
    """The mode belongs to a thread: without it torch refuses to write into what was made in it."""
    modes: list[bool] = []
    with Workers() as workers:
        for mode in (True, False):
            with torch.inference_mode(mode):
                out = torch.zeros(4)

                def fill(piece: int, out: torch.Tensor = out) -> None:
                    modes.append(torch.is_inference_mode_enabled())
                    out[piece] = piece

                workers.each(fill, range(4), CPU)
                assert out.tolist() == [0, 1, 2, 3]
    assert modes == [True] * 4 + [False] * 4
