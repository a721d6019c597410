"""Pinned buffers are filled with what the crops hold, used over and over, and never while they are copied from.

The GPU is a slow one made of lists: its copies read the buffers when somebody waits for them, not before.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from autoseg.augmentation.policies import nnunet_augmentation
from autoseg.records.recipe import Mirroring
from autoseg.training import batches as batches_module
from autoseg.training.batches import batches
from autoseg.training.source import READ_AHEAD, Crop, Source
from autoseg.training.staging import Staged, Staging
from tests.training.tools import CPU, LABELS, RECIPE, make_sampler, make_source

GPU = torch.device("cuda")


class SlowGpu:
    """What was asked of it; each copy is done when the event recorded after it is waited for."""

    def __init__(self) -> None:
        self.queue: list[Callable[[], None]] = []
        self.num_pinned = 0

    def fetch(self, staged: Staged, expected: list[Crop]) -> None:
        """Ask for a copy that compares what it reads with what it should read."""

        def copy() -> None:
            for one, other in zip(staged.crops, expected, strict=True):
                assert torch.equal(one.image, other.image)
                assert torch.equal(one.labels, other.labels)

        self.queue.append(copy)

    def pin(self, tensor: Tensor) -> Tensor:
        assert tensor.is_contiguous()
        self.num_pinned += 1
        return tensor.clone()

    def event(self, blocking: bool) -> "Event":
        return Event(self)


class Event:
    """Reached when the work before it is done, which is when it is waited for."""

    def __init__(self, gpu: SlowGpu) -> None:
        self.gpu, self.before = gpu, 0

    def record(self, stream: object) -> None:
        assert stream == "stream of cuda"
        self.before = len(self.gpu.queue)

    def synchronize(self) -> None:
        for number in range(self.before):
            self.gpu.queue[number]()
            self.gpu.queue[number] = lambda: None


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SlowGpu:
    made = SlowGpu()
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: made.pin(tensor))
    monkeypatch.setattr(torch.cuda, "Event", made.event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    return made


def _crops(seed: int, edge: int = 9) -> list[Crop]:
    """Views into larger tensors, as crops of cases are; one of them is empty."""
    random = torch.Generator().manual_seed(seed)
    image = torch.randn((2, 12, 12, 12), generator=random).half()
    labels = torch.randint(0, 9, (1, 12, 12, 12), generator=random, dtype=torch.uint8)
    boxes = [(slice(1, edge), slice(3, 10), slice(2, 9)), (slice(4, 4), slice(0, 5), slice(0, 6))]
    return [Crop(image[:, *box], labels[:, *box], tuple(one.start for one in box)) for box in boxes]  # type: ignore[arg-type]


def _copied(crops: list[Crop]) -> list[Crop]:
    return [replace(crop, image=crop.image.clone(), labels=crop.labels.clone()) for crop in crops]


def test_a_buffer_is_not_written_while_it_is_copied_from(gpu: SlowGpu) -> None:
    staging = Staging(GPU)
    waiting: list[Staged] = []
    for number in range(40):
        crops = _crops(number, edge=9 if number % 5 else 12)
        staged = staging.hold(crops)
        assert [crop.start for crop in staged.crops] == [(1, 3, 2), (4, 0, 0)]
        assert all(crop.image.is_contiguous() and crop.image.dtype == torch.float16 for crop in staged.crops)
        gpu.fetch(staged, _copied(crops))
        waiting.append(staged)
        if len(waiting) > 2:
            staging.release(waiting.pop(0))
    assert gpu.num_pinned <= 3 * 2, "three buffers, each made larger at most once"
    for copy in gpu.queue:
        copy()


def test_the_copies_would_have_noticed(gpu: SlowGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Event, "synchronize", lambda event: None)
    staging = Staging(GPU)
    for number in range(2):
        crops = _crops(number)
        staged = staging.hold(crops)
        gpu.fetch(staged, _copied(crops))
        staging.release(staged)
    with pytest.raises(AssertionError):
        gpu.queue[0]()


def test_tensors_of_a_buffer_begin_where_vector_instructions_like_it(gpu: SlowGpu) -> None:
    parts = [part for crop in Staging(GPU).hold(_crops(0)).crops for part in (crop.image, crop.labels)]
    first = parts[0].data_ptr()
    starts = [part.data_ptr() - first for part in parts if part.numel()]
    assert starts[1] % 64 == 0
    assert starts[1] >= parts[0].nbytes


def test_crops_on_the_device_of_the_training_are_handed_through(gpu: SlowGpu) -> None:
    staging, crops = Staging(CPU), _crops(0)
    staged = staging.hold(crops)
    assert all(one is other for one, other in zip(staged.crops, crops, strict=True))
    staging.release(staged)
    on_meta = [replace(crop, image=crop.image.to("meta"), labels=crop.labels.to("meta")) for crop in crops]
    assert Staging(GPU).hold(on_meta).crops == on_meta
    assert gpu.num_pinned == 0


@pytest.mark.parametrize("num_threads", [0, 1, 2])
def test_batches_by_way_of_buffers_are_the_same(
    gpu: SlowGpu, monkeypatch: pytest.MonkeyPatch, num_threads: int
) -> None:
    augmentation = nnunet_augmentation(False, (8, 8, 8))
    recipe = RECIPE.model_copy(update={"augmentation": augmentation, "mirroring": Mirroring(axes=(0, 1, 2))})
    source = _as_held(make_source([(12, 11, 10), (9, 14, 10), (6, 20, 20)], maps=2))
    sampler = replace(make_sampler(source, recipe), previous_labels=LABELS)
    places = [(epoch, step) for epoch in range(2) for step in range(12)]
    expected = list(batches(sampler, places))
    assert gpu.num_pinned == 0

    monkeypatch.setattr(batches_module, "Staging", lambda device: Staging(GPU))
    monkeypatch.setattr(batches_module, "num_reading_threads", lambda tier, device: num_threads)
    for one, other in zip(batches(sampler, places), expected, strict=True):
        assert one.cases == other.cases
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    in_flight = READ_AHEAD + 1 if num_threads else 1
    assert 0 < gpu.num_pinned <= 3 * in_flight, "each made larger a few times"


def _as_held(source: Source) -> Source:
    def read(number: int, box: tuple[slice, slice, slice]) -> tuple[Tensor, Tensor]:
        image, labels = source.read(number, box)
        return image.half(), labels.to(torch.uint8)

    return replace(source, read=read)
