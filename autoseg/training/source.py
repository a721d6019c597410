"""A folder of preprocessed cases in, boxes of their voxels on the training's device out.

Three tiers, chosen by size, give the same voxels and so the same training: everything on the device (a GPU's
own memory), everything in main memory, or boxes read from disk when they are needed. Threads prepare batches ahead of
the training where there is something to wait for: the disk, or copies on their way to a GPU. A training on a CPU that
has its cases in memory runs none: reading costs less there than handing work over.

Images whose normalisation bounds them are held as float16 and labels as bytes (`held_types`), by every tier alike, in
half the memory and half the copies. Patches are float32 again before anything is computed.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoseg import console
from autoseg.devices import available_memory_bytes, free_gpu_bytes
from autoseg.errors import AutosegError, DataError
from autoseg.preprocessing import store
from autoseg.preprocessing.locations import FlatIndices
from autoseg.records.geometry import IntTriple
from autoseg.records.plan import Normalization
from autoseg.records.results import Manifest
from autoseg.storage.arrays import read_array
from autoseg.training.distractors import MarkedCases, locations_with_distractors, read_with_distractors

Tier = Literal["device", "memory", "disk"]
Item = TypeVar("Item")
Made = TypeVar("Made")

# Share of free memory that the cases may take; networks, gradients and inference need the rest.
_MEMORY_SHARE, _GPU_SHARE = 0.5, 0.5
_GPU_RESERVE_BYTES = 10 * 2**30
READ_AHEAD = 4
"""Batches that threads are ahead of the training."""
# Normalisations after which no voxel is beyond float16's 65504: a z-score of n voxels is below the root of n.
_BOUNDED: frozenset[Normalization] = frozenset(("ct", "zscore", "rescale", "rgb"))


@dataclass(frozen=True)
class Crop:
    """Voxels of one case. `labels` may hold several label maps, the case's own first, then the previous stage's."""

    image: Tensor
    """`C Z Y X`, float32 or as it is held."""
    labels: Tensor
    """`L Z Y X` integers."""
    start: IntTriple
    """Voxel of the case that the crop begins at."""


@dataclass(frozen=True)
class TrainingCase:
    """What is known of a case without reading its voxels."""

    id: str
    shape: IntTriple
    locations: tuple[FlatIndices, ...]
    """For each target some of its voxels, as flat indices into `shape`; empty where it does not occur. With an ignore
    label the last entry has some of all annotated voxels."""


@dataclass(frozen=True)
class HeldTypes:
    """Types of the voxels between the store and the patch."""

    image: torch.dtype = torch.float32
    labels: torch.dtype = torch.int16
    outside: int = 0
    """Label that stands for background outside the nonzero mask."""


def held_types(normalization: Sequence[Normalization], num_classes: int, outside: int = 0) -> HeldTypes:
    """The smallest types that lose nothing that matters.

    float16 rounds a value by at most 1/2048 of itself: of a normalised CT a fraction of a Hounsfield unit, far below
    the noise (measured in `docs/experiments.md`). Intensities that were not normalised stay float32.

    Args:
        normalization: one a channel.
        num_classes: background included; one label more may mark voxels to ignore.
        outside: label of background outside the nonzero mask.
    """
    image = torch.float16 if _BOUNDED.issuperset(normalization) else torch.float32
    is_small = max(num_classes, outside) <= torch.iinfo(torch.uint8).max
    return HeldTypes(image, torch.uint8 if is_small else torch.int16, outside)


@dataclass(frozen=True)
class Source:
    """The cases of a training and how their voxels are reached."""

    cases: tuple[TrainingCase, ...]
    num_channels: int
    tier: Tier
    read: Callable[[int, tuple[slice, slice, slice]], tuple[Tensor, Tensor]]
    """Number of a case and a box inside it -> image `C z y x` and labels `L z y x`, wherever the tier holds them."""

    @cached_property
    def cases_with(self) -> tuple[npt.NDArray[np.intp], ...]:
        """For each entry of `TrainingCase.locations` the numbers of the cases where it is not empty."""
        present = np.array([[len(voxels) > 0 for voxels in case.locations] for case in self.cases])
        return tuple(np.flatnonzero(column) for column in present.T)


def open_source(
    folder: Path,
    manifest: Manifest,
    case_ids: Sequence[str],
    num_channels: int,
    device: torch.device,
    previous: Mapping[str, Path] | None = None,
    tier: Tier | None = None,
    planned_bytes: int = 0,
    marked: MarkedCases | None = None,
    held: HeldTypes = HeldTypes(),
) -> Source:
    """Make the cases of a preprocessed folder readable for a training.

    Args:
        folder: of the store.
        manifest: of that folder.
        case_ids: cases to train on, in the order in which they are numbered.
        num_channels: channels of the images.
        device: where the network is trained.
        previous: case id -> `.b2nd` label map `Z Y X` of the previous stage on the same grid, for a cascade.
        tier: None: the fastest that fits.
        planned_bytes: memory of the GPU that the network was planned for; see `choose_tier`.
        marked: the cases' distractors, which become a class and a target behind the dataset's; None: none.
        held: types of the voxels; see `held_types`.

    Raises:
        DataError: a case is not in the store, or a file is missing or is not the one that was written.
    """
    if absent := [case for case in case_ids if case not in manifest.cases]:
        raise DataError(
            f"{folder} lacks the cases {', '.join(absent[:10])}: they are newer than it, or the folds name cases that "
            "do not exist. Fingerprint and preprocess again: `autoseg plan_and_preprocess DATASET`."
        )
    shapes = [manifest.cases[case].shape for case in case_ids]
    maps = 2 if previous else 1
    num_bytes = memory_bytes(shapes, num_channels, maps, held)
    chosen = tier or choose_tier(num_bytes, device, planned_bytes)
    console.say(describe_tier(chosen, len(shapes), num_bytes, held, device))

    def load(number: int, box: tuple[slice, slice, slice] | None = None) -> tuple[Tensor, Tensor]:
        image, labels = _load(folder, case_ids[number], box, previous, marked)
        return image.to(held.image), labels.masked_fill_(labels < 0, held.outside).to(held.labels)

    cases = tuple(
        TrainingCase(id=case, shape=shape, locations=_locations(folder, case, marked))
        for case, shape in zip(case_ids, shapes, strict=True)
    )
    if chosen == "disk":
        return Source(cases, num_channels, chosen, load)
    where = device if chosen == "device" else torch.device("cpu")
    numbers = console.track(range(len(cases)), len(cases), "loading cases")
    resident = [tuple(part.to(where) for part in load(number)) for number in numbers]

    def read(number: int, box: tuple[slice, slice, slice]) -> tuple[Tensor, Tensor]:
        image, labels = resident[number]
        return image[(slice(None), *box)], labels[(slice(None), *box)]

    return Source(cases, num_channels, chosen, read)


def memory_bytes(
    shapes: Sequence[IntTriple], num_channels: int, num_maps: int = 1, held: HeldTypes = HeldTypes()
) -> int:
    """Memory that cases of these shapes take when they are held whole."""
    a_voxel = num_channels * held.image.itemsize + num_maps * held.labels.itemsize
    return sum(math.prod(shape) for shape in shapes) * a_voxel


def describe_tier(tier: Tier, num_cases: int, num_bytes: int, held: HeldTypes, device: torch.device) -> str:
    """One line for people: where the cases are while the training runs, and why."""
    kind = str(held.image).removeprefix("torch.")
    size = f"{num_cases} training cases, {num_bytes / 2**30:.2g} GiB as {kind}"
    places = {
        "device": f"fit on {device} beside the training and are held there",
        "memory": "fit into main memory and are held there",
        "disk": "do not fit into memory: patches are read from disk",
    }
    threads = num_reading_threads(tier, device)
    return f"{size}: they {places[tier]}" + (f", by threads ({threads}) ahead of the training." if threads else ".")


def num_reading_threads(tier: Tier, device: torch.device) -> int:
    """Threads that prepare batches ahead; 0: the training does it itself.

    One thread keeps up with a CPU's training and takes little away from it. A GPU is fed by one thread out of memory
    and by two from disk, which unpack without holding Python's lock.
    """
    is_gpu = device.type == "cuda"
    return {"device": 0, "memory": int(is_gpu), "disk": 2 if is_gpu else 1}[tier]


def choose_tier(num_bytes: int, device: torch.device, planned_bytes: int = 0) -> Tier:
    """The fastest tier into which `num_bytes` of cases fit beside the training itself.

    `planned_bytes` is what the plan gives the training of a GPU's memory; at least 10 GiB are left to it.
    """
    if device.type == "cuda":
        free = free_gpu_bytes(device)
        if num_bytes <= min(_GPU_SHARE * free, free - max(_GPU_RESERVE_BYTES, planned_bytes)):
            return "device"
    return "memory" if num_bytes <= _MEMORY_SHARE * available_memory_bytes() else "disk"


def read_crop(source: Source, number: int, start: IntTriple, stop: IntTriple) -> Crop:
    """The part of the box `start` to `stop` (z y x, may exceed the volume) that lies inside case `number`.

    A box that misses the volume on an axis gives a crop of no voxels there.

    Raises:
        DataError: the voxels cannot be read; the case is named, whatever went wrong and in whichever thread.
    """
    shape = source.cases[number].shape
    first = tuple(min(max(a, 0), n) for a, n in zip(start, shape, strict=True))
    last = tuple(min(max(b, a), n) for b, a, n in zip(stop, first, shape, strict=True))
    z, y, x = (slice(a, b) for a, b in zip(first, last, strict=True))
    try:
        image, labels = source.read(number, (z, y, x))
    except (AutosegError, MemoryError):
        raise
    except Exception as error:
        raise DataError(
            f"Case {source.cases[number].id}: voxels {first} to {last} could not be read ({error!r}). Delete its "
            "preprocessed files and preprocess again: `autoseg preprocess DATASET`."
        ) from error
    return Crop(image, labels, (z.start, y.start, x.start))


def made_ahead(make: Callable[[Item], Made], items: Iterable[Item], num_threads: int) -> Iterator[Made]:
    """`make(item)` for each of `items`, in order, made ahead of time by `num_threads` threads; 0: when it is asked for.

    An exception in a thread is raised here, where its item would have come; nothing waits for a thread that has ended.
    """
    if num_threads == 0:
        yield from (make(item) for item in items)
        return
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="read-ahead")
    waiting: deque[Future[Made]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > READ_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _locations(folder: Path, case: str, marked: MarkedCases | None) -> tuple[FlatIndices, ...]:
    stored = store.read_locations(folder, case)
    return stored if marked is None else locations_with_distractors(marked, case, stored)


def _load(
    folder: Path,
    case: str,
    box: tuple[slice, slice, slice] | None,
    previous: Mapping[str, Path] | None,
    marked: MarkedCases | None,
) -> tuple[Tensor, Tensor]:
    image = torch.from_numpy(_writable(store.read_image(folder, case, box)))
    labels = store.read_marked_labels(folder, case, box)
    maps = [labels if marked is None else read_with_distractors(marked, case, labels, box)]
    if previous:
        maps.append(read_array(previous[case], box))
    return image, torch.from_numpy(np.stack(maps).astype(np.int16, copy=False))


def _writable(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array if array.flags.writeable else array.copy()
