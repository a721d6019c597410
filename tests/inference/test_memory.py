"""The memory model: sums move off a card that is too small, batches shrink with classes, too much is refused."""

import pytest
import torch

from autoseg.inference import memory
from autoseg.inference.memory import blending_bytes, choose_layout

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
GIB = 2**30


def with_memory(monkeypatch: pytest.MonkeyPatch, main: float, card: float = 0.0) -> None:
    monkeypatch.setattr(memory, "available_memory_bytes", lambda: int(main * GIB))
    monkeypatch.setattr(memory, "free_gpu_bytes", lambda device: int(card * GIB))


def test_sums_do_not_grow_with_the_length_of_the_image() -> None:
    short, long = (blending_bytes(6, (depth, 512, 512), (64, 128, 128)) for depth in (127, 4000))
    assert short == long == 4 * 7 * 127 * 512 * 512
    assert blending_bytes(6, (20, 512, 512), (64, 128, 128)) == 4 * 7 * 20 * 512 * 512


def test_a_card_sums_what_fits_into_half_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with_memory(monkeypatch, main=64, card=8)
    patch = (64, 128, 128)
    assert choose_layout(1, 6, (200, 300, 300), patch, CUDA).blend_on == CUDA
    assert choose_layout(1, 106, (200, 300, 300), patch, CUDA).blend_on == CPU
    assert choose_layout(1, 6, (20000, 300, 300), patch, CUDA).blend_on == CPU  # the image


def test_batches_fill_a_card_but_not_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with_memory(monkeypatch, main=64, card=8)
    assert choose_layout(1, 5, (64, 64, 64), (64, 64, 64), CUDA).tile_batch == 16
    assert choose_layout(1, 1000, (64, 64, 64), (64, 64, 64), CUDA).tile_batch == 2
    assert choose_layout(1, 5, (9, 9, 9), (1, 8, 8), CUDA).tile_batch == 64
    assert choose_layout(1, 5, (64, 64, 64), (32, 64, 64), CPU).tile_batch == 2
    assert choose_layout(1, 5, (64, 64, 64), (64, 128, 128), CPU).tile_batch == 2  # never one sample
    assert choose_layout(1, 5, (64, 64, 64), (128, 128, 128), CPU).tile_batch == 1  # but where two are too large
    assert choose_layout(1, 5, (64, 64, 64), (128, 512, 512), CUDA).tile_batch == 1


def test_what_cannot_fit_is_refused_before_the_system_kills_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with_memory(monkeypatch, main=2)
    with pytest.raises(MemoryError, match=r"13\.1 GiB are needed to blend 105 values a voxel, 2\.0 GiB are free"):
        choose_layout(1, 105, (400, 512, 512), (64, 128, 128), CPU)
