"""The queue: in order and one at a time, seats that are given back, work that waited too long is not begun."""

import asyncio
import threading

import pytest

from autoseg.serving.desk import Desk, Full, TooLate


def test_work_is_done_in_order_one_at_a_time() -> None:
    desk, order, inside = Desk(10, 60), [], []

    def work(number: int) -> int:
        inside.append(number)
        assert len(inside) == 1
        order.append(number)
        inside.remove(number)
        return 10 * number

    async def ask() -> list[int]:
        return await asyncio.gather(*(desk.do(lambda n=n: work(n)) for n in range(50)))

    assert asyncio.run(ask()) == [10 * n for n in range(50)]
    assert order == list(range(50))
    desk.close()


def test_seats_are_given_back_even_after_an_error() -> None:
    desk = Desk(2, 60)
    with desk.seat():
        with desk.seat(), pytest.raises(Full), desk.seat():
            pass
        with desk.seat(), pytest.raises(ZeroDivisionError):
            asyncio.run(desk.do(lambda: 1 // 0))
    assert desk.num_seated == 0
    assert asyncio.run(desk.do(lambda: 7)) == 7
    desk.close()
    with pytest.raises(TooLate), desk.seat():
        pass


def test_what_waited_too_long_is_not_begun() -> None:
    desk, go, begun = Desk(5, 0.05), threading.Event(), []

    async def ask() -> list[object]:
        first = asyncio.create_task(desk.do(lambda: go.wait(10)))
        second = asyncio.create_task(desk.do(lambda: begun.append(2)))
        await asyncio.sleep(0.2)
        go.set()
        return await asyncio.gather(first, second, return_exceptions=True)

    first, second = asyncio.run(ask())
    assert first is True
    assert isinstance(second, TooLate)
    assert not begun
    desk.close()


def test_counts_are_prometheus_text() -> None:
    desk = Desk(3, 60)
    assert desk.retry_seconds() == 1
    for status in (200, 200, 429):
        desk.count(status, 100)
    asyncio.run(desk.do(lambda: None))
    rows = desk.metrics().splitlines()
    assert 'autoseg_requests_total{status="200"} 2' in rows
    assert 'autoseg_requests_total{status="429"} 1' in rows
    assert "autoseg_received_bytes_total 300" in rows
    assert "autoseg_segmentation_seconds_count 1" in rows
    assert "autoseg_seats_taken 0" in rows
    assert desk.metrics().endswith("\n")
    desk.close()
