"""The queue: in order and one at a time, seats that are given back, work that waited too long is not begun."""

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from autoseg.serving.job_queue import ClientGone, JobQueue, QueueFull, QueueTimeout, ShuttingDown


async def ask(jobs: JobQueue, work: Callable[[], object], hung_up: asyncio.Future | None = None) -> object:
    return await jobs.do(work, hung_up or asyncio.get_running_loop().create_future())


def test_work_is_done_in_order_one_at_a_time() -> None:
    jobs, order, inside = JobQueue(10, 60), [], []

    def work(number: int) -> int:
        inside.append(number)
        assert len(inside) == 1
        order.append(number)
        inside.remove(number)
        return 10 * number

    async def ask_all() -> list[object]:
        return await asyncio.gather(*(ask(jobs, lambda n=n: work(n)) for n in range(50)))

    assert asyncio.run(ask_all()) == [10 * n for n in range(50)]
    assert order == list(range(50))
    jobs.close()


def test_seats_are_given_back_even_after_an_error() -> None:
    jobs = JobQueue(2, 60)
    with jobs.seat():
        with jobs.seat(), pytest.raises(QueueFull), jobs.seat():
            pass
        with jobs.seat(), pytest.raises(ZeroDivisionError):
            asyncio.run(ask(jobs, lambda: 1 // 0))
    assert jobs.num_seated == 0
    assert asyncio.run(ask(jobs, lambda: 7)) == 7
    jobs.close()
    with pytest.raises(ShuttingDown), jobs.seat():
        pass
    with pytest.raises(ShuttingDown):
        asyncio.run(ask(jobs, lambda: 7))


def test_who_waits_is_told_at_its_limit_and_what_was_begun_is_finished() -> None:
    """Not when its turn would have come: the first holds the jobs until the second has been told."""
    jobs, go, begun = JobQueue(5, 0.2), threading.Event(), []

    async def ask_two() -> tuple[object, float]:
        first = asyncio.create_task(ask(jobs, lambda: go.wait(30)))
        while not jobs.is_working:
            await asyncio.sleep(0.01)
        asked = time.monotonic()
        with pytest.raises(QueueTimeout):
            await ask(jobs, lambda: begun.append(2))
        waited = time.monotonic() - asked
        assert jobs.is_working
        go.set()
        return await first, waited

    first, waited = asyncio.run(ask_two())
    assert first is True  # though it took longer than anybody may wait
    assert 0.2 <= waited < 10
    jobs.close()
    assert not begun
    assert jobs.num_done == 1


def test_at_the_end_who_waits_is_told_at_once_and_what_was_begun_is_finished() -> None:
    jobs, go, begun = JobQueue(5, 600), threading.Event(), []

    async def ask_three() -> list[object]:
        first = asyncio.create_task(ask(jobs, lambda: go.wait(30)))
        others = [asyncio.create_task(ask(jobs, lambda: begun.append(1))) for _ in range(2)]
        while not jobs.is_working:
            await asyncio.sleep(0.01)
        jobs.stop()
        told = await asyncio.wait_for(asyncio.gather(*others, return_exceptions=True), 10)
        assert jobs.is_working
        go.set()
        return [await first, *told]

    first, *others = asyncio.run(ask_three())
    assert first is True
    assert [type(one) for one in others] == [ShuttingDown, ShuttingDown]
    assert not begun
    jobs.close()
    assert not jobs.is_working


def test_who_has_left_is_not_worked_for() -> None:
    jobs, go, begun = JobQueue(5, 600), threading.Event(), []

    async def ask_two() -> list[object]:
        left = asyncio.get_running_loop().create_future()
        first = asyncio.create_task(ask(jobs, lambda: go.wait(30), left))
        second = asyncio.create_task(ask(jobs, lambda: begun.append(2), left))
        while not jobs.is_working:
            await asyncio.sleep(0.01)
        left.set_result(None)
        with pytest.raises(ClientGone):
            await asyncio.wait_for(second, 10)
        go.set()
        return await first

    assert asyncio.run(ask_two()) is True
    jobs.close()
    assert not begun


def test_counts_are_prometheus_text() -> None:
    jobs = JobQueue(3, 60)
    assert jobs.retry_seconds() == 1
    for status in (200, 200, 429):
        jobs.count(status, 100)
    asyncio.run(ask(jobs, lambda: None))
    rows = jobs.metrics().splitlines()
    assert 'autoseg_requests_total{status="200"} 2' in rows
    assert 'autoseg_requests_total{status="429"} 1' in rows
    assert "autoseg_received_bytes_total 300" in rows
    assert "autoseg_segmentation_seconds_count 1" in rows
    assert "autoseg_seats_taken 0" in rows
    assert jobs.metrics().endswith("\n")
    jobs.close()
