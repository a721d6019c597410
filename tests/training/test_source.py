"""Boxes at the borders, and threads that hand over their errors."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from autoseg.errors import DataError
from autoseg.records.results import Manifest
from autoseg.training.source import made_ahead, open_source, read_crop
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


def test_a_case_that_is_not_in_the_store_is_named(tmp_path: Path) -> None:
    manifest = Manifest(decided_by={}, cases={}, files_sha256={})
    with pytest.raises(DataError, match=r"lacks the cases a, b: .*autoseg plan_and_preprocess"):
        open_source(tmp_path, manifest, ["a", "b"], 1, torch.device("cpu"))


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


def test_what_is_broken_off_works_no_longer() -> None:
    """A transform under way would go on with the global generators while the caller draws from them."""
    begun, ended = [], []

    def slow(number: int) -> int:
        begun.append(number)
        time.sleep(0.02)
        ended.append(number)
        return number

    made = made_ahead(slow, range(1000), 2)
    next(made)
    made.close()
    assert sorted(begun) == sorted(ended)
    assert len(begun) < 10
