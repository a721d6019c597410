"""Threads share memory, and a case larger than all of it still begins."""

import threading
import time

from autoseg.pipeline.sharing import SharedMemory


def test_memory_is_shared_but_one_always_passes() -> None:
    memory = SharedMemory(100)
    inside, most = 0, 0
    guard = threading.Lock()

    def work(num_bytes: int) -> None:
        nonlocal inside, most
        with memory.share(num_bytes):
            with guard:
                inside += num_bytes
                most = max(most, inside)
            time.sleep(0.005)
            with guard:
                inside -= num_bytes

    threads = [threading.Thread(target=work, args=(40,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert most == 80
    with memory.share(1000):  # larger than all memory: alone, but not never
        pass
