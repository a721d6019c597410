"""Signals become requests, and requests become the right errors."""

import os
import signal
import threading

import pytest

from autoseg.errors import Preempted
from autoseg.training.stopping import listening_for_stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_schedulers_signals_preempt(number: int) -> None:
    with listening_for_stop() as stop:
        stop.raise_if_asked("training")
        os.kill(os.getpid(), number)
        with pytest.raises(Preempted, match="same command"):
            stop.raise_if_asked("training")


def test_interrupt_is_noted_once_and_kills_the_second_time() -> None:
    with listening_for_stop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            stop.raise_if_asked("training")


def test_earlier_handlers_come_back() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with listening_for_stop():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before


def test_other_threads_listen_to_nothing() -> None:
    seen: list[int | None] = []

    def run() -> None:
        with listening_for_stop() as stop:
            seen.append(stop.signal)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [None]
