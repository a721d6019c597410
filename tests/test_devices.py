import os
import threading

import pytest

from autoseg.devices import SharedMemory, available_memory_bytes, num_cores


def test_cores_are_those_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert num_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert num_cores() == 8


def test_memory_is_known_without_the_systems_count_of_free_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    known = {name: os.sysconf(name) for name in ("SC_PAGE_SIZE", "SC_PHYS_PAGES")}
    monkeypatch.setattr(os, "sysconf", known.__getitem__)  # as on macOS
    assert 0 < available_memory_bytes() < whole


def test_memory_is_shared_but_one_always_passes() -> None:
    """Two of the six shares fit at a time, and each waits inside for its companion: timing decides nothing."""
    memory = SharedMemory(100)
    inside, most = 0, 0
    guard, companion = threading.Lock(), threading.Barrier(2)

    def work(num_bytes: int) -> None:
        nonlocal inside, most
        with memory.share(num_bytes):
            with guard:
                inside += num_bytes
                most = max(most, inside)
            companion.wait(10)
            with guard:
                inside -= num_bytes

    threads = [threading.Thread(target=work, args=(40,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (inside, most) == (0, 80)
    with memory.share(1000):  # larger than all memory: alone, but not never
        pass
