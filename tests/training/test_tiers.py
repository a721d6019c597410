"""Where cases are held, from their size and the memory that is free; and what is said about it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoseg.training import tiers as module
from autoseg.training.tiers import (
    HeldTypes,
    Tier,
    TierChoice,
    choose_tier,
    describe_tier,
    held_types,
    memory_bytes,
    num_reading_threads,
    tier_here,
)

GIB = 2**30
SIZES = st.integers(0, 2**40)


def test_half_of_the_main_memory_can_hold_cases() -> None:
    needed = memory_bytes([(10, 10, 10), (1, 2, 3)], num_channels=2, num_maps=2)
    assert needed == 1006 * (2 * 4 + 2 * 2)
    assert choose_tier(needed, 2 * needed).tier == "memory"
    assert choose_tier(needed + 1, 2 * needed).tier == "disk"


def test_a_gpu_holds_cases_only_beside_what_was_planned() -> None:
    cases, free = 20 * GIB, 48 * GIB
    assert choose_tier(cases, 0, free).tier == "device"
    assert choose_tier(cases, 0, free, 28 * GIB).tier == "device"
    assert choose_tier(cases, 0, free, 29 * GIB).tier == "disk"
    assert choose_tier(cases, 40 * GIB, free, 29 * GIB).tier == "memory"
    assert choose_tier(24 * GIB + 1, 0, free).tier == "disk", "half of the GPU is all they can get"


def test_the_reasons_name_the_room_there_is() -> None:
    assert choose_tier(GIB, 0, 48 * GIB).reason == "held on the GPU, which has room for 24 GiB of cases"
    assert choose_tier(GIB, 8 * GIB).reason == "held in main memory, which has room for 4 GiB of cases"
    beside = choose_tier(3 * GIB, 8 * GIB, 12 * GIB).reason
    assert beside == "held in main memory, which has room for 4 GiB of cases, the GPU for 2 GiB"
    away = choose_tier(9 * GIB, 8 * GIB, 4 * GIB).reason
    assert away == "read from disk patch by patch: main memory has room for 4 GiB of cases, the GPU for 0 GiB"


@given(SIZES, SIZES, st.none() | SIZES, SIZES)
def test_what_is_chosen_fits_and_nothing_faster_would(needed: int, host: int, gpu: int | None, planned: int) -> None:
    tier = choose_tier(needed, host, gpu, planned).tier
    fits_gpu = gpu is not None and 2 * needed <= gpu and needed + max(planned, 10 * GIB) <= gpu
    assert tier == ("device" if fits_gpu else "memory" if 2 * needed <= host else "disk") or needed == 0
    # More memory never makes the choice slower.
    order = ("disk", "memory", "device")
    more = choose_tier(needed, host + GIB, None if gpu is None else gpu + GIB, planned).tier
    assert order.index(more) >= order.index(tier)


def test_the_memory_of_this_machine_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_memory_bytes", lambda: 4 * GIB)
    monkeypatch.setattr(module, "free_gpu_bytes", lambda device: {0: 24, 1: 12}[device.index] * GIB)
    assert tier_here(3 * GIB, torch.device("cpu")) == choose_tier(3 * GIB, 4 * GIB)
    assert tier_here(5 * GIB, torch.device("cuda:0")).tier == "device"
    assert tier_here(5 * GIB, torch.device("cuda:0"), 20 * GIB).tier == "disk"
    assert tier_here(2 * GIB, torch.device("cuda:1")).tier == "device"
    # A user's transforms work on the CPU, wherever there would be room.
    assert tier_here(2 * GIB, torch.device("cuda:1"), transforms=True) == choose_tier(2 * GIB, 4 * GIB)
    assert tier_here(3 * GIB, torch.device("cuda:0"), transforms=True).tier == "disk"


def test_bounded_images_are_held_in_half_the_memory() -> None:
    assert held_types(("ct", "zscore"), 3) == HeldTypes(torch.float16, torch.uint8)
    assert held_types(("zscore", "none"), 255) == HeldTypes(torch.float32, torch.uint8)
    assert held_types(("rescale",), 256) == HeldTypes(torch.float16, torch.int16)
    assert held_types(("ct",), 254, 255) == HeldTypes(torch.float16, torch.uint8, 255)
    assert held_types(("ct",), 255, 256) == HeldTypes(torch.float16, torch.int16, 256)
    needed = memory_bytes([(10, 10, 10)], 2, 1, HeldTypes(torch.float16, torch.uint8))
    assert needed == 1000 * (2 * 2 + 1)


@pytest.mark.parametrize(
    ("tier", "device", "threads", "words"),
    [
        ("device", "cuda", 0, "why."),
        ("memory", "cpu", 0, "why."),
        ("memory", "cuda", 1, "why; threads (1) prepare batches ahead of the training."),
        ("disk", "cpu", 1, "why; threads (1) prepare batches ahead of the training."),
        ("disk", "cuda", 2, "why; threads (2) prepare batches ahead of the training."),
    ],
)
def test_tiers_and_their_threads_are_told(tier: Tier, device: str, threads: int, words: str) -> None:
    where = torch.device(device)
    assert num_reading_threads(tier, where) == threads
    held = HeldTypes(torch.float16, torch.uint8)
    assert (
        describe_tier(TierChoice(tier, "why"), 3, 2 * GIB, held, where)
        == f"3 training cases, 2 GiB as float16: {words}"
    )


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 1), (4, 3), (64, 4)])
def test_threads_for_a_users_transforms(monkeypatch: pytest.MonkeyPatch, cores: int, expected: int) -> None:
    monkeypatch.setattr(module, "num_cores", lambda: cores)
    for tier in ("memory", "disk"):
        assert num_reading_threads(tier, torch.device("cuda"), transforms=True) == expected
        assert num_reading_threads(tier, torch.device("cpu"), transforms=True) == 0
    said = describe_tier(TierChoice("memory", "why"), 3, GIB, HeldTypes(), torch.device("cuda"), transforms=True)
    assert said.endswith(f"why; threads ({expected}) prepare batches ahead of the training.")
