"""Boxes at the borders, tiers by size, and threads that hand over their errors."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from autoseg.errors import DataError
from autoseg.records.results import Manifest
from autoseg.training import source as module
from autoseg.training.source import (
    HeldTypes,
    Tier,
    choose_tier,
    describe_tier,
    held_types,
    made_ahead,
    memory_bytes,
    num_reading_threads,
    open_source,
    read_crop,
)
from tests.training.tools import make_source


def test_crops_are_clipped_to_the_volume() -> None:
    source = make_source([(4, 5, 6)])
    crop = read_crop(source, 0, (-2, 1, 3), (3, 99, 5))
    assert crop.start == (0, 1, 3)
    assert crop.image.shape == (1, 3, 4, 2)
    assert crop.labels.shape == (1, 3, 4, 2)
    assert crop.image[0, 0, 0, 0] == 0 * 30 + 1 * 6 + 3


@pytest.mark.parametrize(("start", "stop"), [((9, 0, 0), (12, 5, 6)), ((-7, 0, 0), (-3, 5, 6))])
def test_crops_beside_the_volume_are_empty(start: tuple[int, int, int], stop: tuple[int, int, int]) -> None:
    assert read_crop(make_source([(4, 5, 6)]), 0, start, stop).image.numel() == 0


def test_memory_is_counted_and_decides_the_tier(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = memory_bytes([(10, 10, 10), (1, 2, 3)], num_channels=2, num_maps=2)
    assert needed == 1006 * (2 * 4 + 2 * 2)
    monkeypatch.setattr(module, "available_memory_bytes", lambda: 2 * needed)
    assert choose_tier(needed, torch.device("cpu")) == "memory"
    assert choose_tier(needed + 1, torch.device("cpu")) == "disk"


def test_a_case_that_is_not_in_the_store_is_named(tmp_path: Path) -> None:
    manifest = Manifest(decided_by={}, cases={}, files_sha256={})
    with pytest.raises(DataError, match=r"lacks the cases a, b: .*autoseg plan_and_preprocess"):
        open_source(tmp_path, manifest, ["a", "b"], 1, torch.device("cpu"))


def test_a_gpu_holds_cases_only_beside_what_was_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_gpu_bytes", lambda device: 48 * 2**30)
    cuda, cases = torch.device("cuda"), 20 * 2**30
    assert choose_tier(cases, cuda) == "device"
    assert choose_tier(cases, cuda, 28 * 2**30) == "device"
    assert choose_tier(cases, cuda, 29 * 2**30) != "device"


@pytest.mark.parametrize("num_threads", [1, 3])
def test_threads_keep_the_order_and_a_bounded_lead(num_threads: int) -> None:
    made, lead = 0, []

    def items() -> Iterator[int]:
        nonlocal made
        for number in range(30):
            made += 1
            yield number

    def slow_for_some(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number

    seen = []
    for number in made_ahead(slow_for_some, items(), num_threads):
        seen.append(number)
        lead.append(made - len(seen))
    assert seen == list(range(30))
    assert max(lead) <= 4


def test_an_error_in_a_thread_arrives_in_its_place() -> None:
    def fails_at_three(number: int) -> int:
        if number == 3:
            raise ValueError("case_3 is damaged")
        return number

    made = made_ahead(fails_at_three, range(10), 1)
    assert [next(made) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="case_3 is damaged"):
        next(made)


def test_memory_tiers_use_no_thread() -> None:
    here = threading.get_ident()
    assert set(made_ahead(lambda _: threading.get_ident(), range(3), 0)) == {here}
    assert here not in set(made_ahead(lambda _: threading.get_ident(), range(3), 1))


def test_leaving_early_ends_the_threads() -> None:
    for _ in made_ahead(lambda number: number, range(1000), 2):
        break
    deadline = time.monotonic() + 5
    while any(t.name.startswith("read-ahead") for t in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(t.name.startswith("read-ahead") for t in threading.enumerate())


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
        ("device", "cuda", 0, "3 training cases, 2 GiB as float16: they fit on cuda beside the training"),
        ("memory", "cpu", 0, "fit into main memory and are held there."),
        ("memory", "cuda", 1, "held there, by threads (1) ahead"),
        ("disk", "cpu", 1, "do not fit into memory: patches are read from disk, by threads (1)"),
        ("disk", "cuda", 2, "by threads (2) ahead of the training."),
    ],
)
def test_tiers_and_their_threads_are_told(tier: Tier, device: str, threads: int, words: str) -> None:
    where = torch.device(device)
    assert num_reading_threads(tier, where) == threads
    assert words in describe_tier(tier, 3, 2 * 2**30, HeldTypes(torch.float16, torch.uint8), where)
