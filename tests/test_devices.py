import os
import threading
from pathlib import Path

import pytest
import torch

from autoseg import devices
from autoseg.devices import (
    MemorySemaphore,
    available_memory_bytes,
    choose_device,
    free_gpu_bytes,
    is_out_of_memory,
    num_cores,
)
from autoseg.errors import UsageError


@pytest.mark.parametrize("name", ["", "foo", "meta", "xpu", "CPU", "cuda:-1"])
def test_devices_that_torch_knows_and_we_do_not_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="unknown; use auto, cpu"):
        choose_device(name)


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="has 1 CUDA devices"):
        choose_device("cuda:1")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match="none of Apple's GPUs"):
        choose_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("mps").type == "mps"
    assert choose_device("cpu") == torch.device("cpu")


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


def test_what_a_container_keeps_of_files_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of files that were read or written, mapped ones among them, count as used until somebody wants them."""
    monkeypatch.setattr(devices, "_CONTAINER", tmp_path)
    monkeypatch.setattr(devices, "_GROUPS", tmp_path / "groups")
    outside = available_memory_bytes()
    (tmp_path / "groups").write_text("0::/\n")
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    assert available_memory_bytes() == 100000
    (tmp_path / "memory.stat").write_text("anon 5\nfile 700000\nactive_file 200000\ninactive_file 400000\nshmem 1\n")
    assert available_memory_bytes() == 700000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory_bytes() > outside / 2


def test_the_tightest_group_around_a_job_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of version 2 and of version 1, where the job's own group is looked up; a container sees its group as the root."""
    monkeypatch.setattr(devices, "_CONTAINER", tmp_path)
    monkeypatch.setattr(devices, "_GROUPS", tmp_path / "groups")
    (tmp_path / "groups").write_text("0::/slurm/job_7/step_0\n")
    job = tmp_path / "slurm" / "job_7"
    (job / "step_0").mkdir(parents=True)
    for folder, limit in ((job, "5000"), (job / "step_0", "max"), (tmp_path / "slurm", "9000")):
        (folder / "memory.max").write_text(limit)
        (folder / "memory.current").write_text("1000")
    assert available_memory_bytes() == 4000

    first = tmp_path / "memory"
    (first / "job").mkdir(parents=True)
    for folder, limit in ((first, str(1 << 62)), (first / "job", "3000")):
        (folder / "memory.limit_in_bytes").write_text(limit)
        (folder / "memory.usage_in_bytes").write_text("1000")
        (folder / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 500\ntotal_active_file 0\n")
    (tmp_path / "groups").write_text("9:cpu,cpuacct:/\n4:memory:/job\n1:name=systemd:/job\n")
    assert available_memory_bytes() == 2500
    (first / "memory.limit_in_bytes").write_text("2000")
    (tmp_path / "groups").write_text("4:memory:/docker/of_the_host\n")
    assert available_memory_bytes() == 1500


def test_memory_is_shared_but_one_always_passes() -> None:
    """Two of the six shares fit at a time, and each waits inside for its companion: timing decides nothing."""
    memory = MemorySemaphore(100)
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


def test_what_pytorch_keeps_of_a_gpu_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a second fold would find less room for its cases than the first, whose memory is only kept."""
    answers = {"mem_get_info": (10, 80), "memory_reserved": 60, "memory_allocated": 5}
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, answer=answer: answer)
    assert free_gpu_bytes(torch.device("cuda")) == 10 + 60 - 5


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False),
    ],
)
def test_full_memory_is_known_by_its_errors(error: Exception, is_full: bool) -> None:
    assert is_out_of_memory(error) is is_full
