"""A folder of preprocessed cases in, boxes of their voxels on the training's device out.

Where they are held is chosen by size (`tiers`). Threads prepare batches ahead of the training where there is something
to wait for: the disk, or copies on their way to a GPU. A training on a CPU that has its cases in memory runs none:
reading costs less there than handing work over.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoseg import console
from autoseg.errors import AutosegError, DataError
from autoseg.preprocessing import store
from autoseg.preprocessing.locations import FlatIndices
from autoseg.records.geometry import IntTriple
from autoseg.records.results import Manifest
from autoseg.spatial.workers import torch_in_this_thread_alone
from autoseg.storage.arrays import read_array
from autoseg.training.distractors import MarkedCases, locations_with_distractors, read_with_distractors
from autoseg.training.tiers import HeldTypes, Tier, TierChoice, describe_tier, memory_bytes, tier_here

Item = TypeVar("Item")
Made = TypeVar("Made")

READ_AHEAD = 4
"""Batches that threads are ahead of the training."""


@dataclass(frozen=True)
class Crop:
    """Voxels of one case. `labels` may hold several label maps, the case's own first, then the previous stage's."""

    image: Tensor
    """`C Z Y X`, float32 or as it is held."""
    labels: Tensor
    """`L Z Y X` integers."""
    start: IntTriple | None
    """Voxel of the case that the crop begins at; None: it is a patch, which a user's transforms have changed."""


@dataclass(frozen=True)
class TrainingCase:
    """What is known of a case without reading its voxels."""

    id: str
    shape: IntTriple
    locations: tuple[FlatIndices, ...]
    """For each target some of its voxels, as flat indices into `shape`; empty where it does not occur. With an ignore
    label the last entry has some of all annotated voxels."""


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
    transforms: bool = False,
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
        planned_bytes: memory of the GPU that the network was planned for; see `tiers.choose_tier`.
        marked: the cases' distractors, which become a class and a target behind the dataset's; None: none.
        held: types of the voxels; see `tiers.held_types`.
        transforms: whether a user's transforms, which work on the CPU, change the patches.

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
    choice = (
        TierChoice(tier, f"{tier}, as asked for") if tier else tier_here(num_bytes, device, planned_bytes, transforms)
    )
    console.say(describe_tier(choice, len(shapes), num_bytes, held, device, transforms))

    def load(number: int, box: tuple[slice, slice, slice] | None = None) -> tuple[Tensor, Tensor]:
        image, labels = _load(folder, case_ids[number], box, previous, marked)
        return image.to(held.image), labels.masked_fill_(labels < 0, held.outside).to(held.labels)

    cases = tuple(
        TrainingCase(id=case, shape=shape, locations=_locations(folder, case, marked))
        for case, shape in zip(case_ids, shapes, strict=True)
    )
    if choice.tier == "disk":
        return Source(cases, num_channels, choice.tier, load)
    where = device if choice.tier == "device" else torch.device("cpu")
    numbers = console.track(range(len(cases)), len(cases), "loading cases")
    resident = [tuple(part.to(where) for part in load(number)) for number in numbers]

    def read(number: int, box: tuple[slice, slice, slice]) -> tuple[Tensor, Tensor]:
        image, labels = resident[number]
        return image[(slice(None), *box)], labels[(slice(None), *box)]

    return Source(cases, num_channels, choice.tier, read)


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

    An exception in a thread is raised here, where its item would have come. When the iteration ends, or is broken off,
    so has all work of the threads: what they touch, such as the global generators, is the caller's own again.
    """
    if num_threads == 0:
        yield from (make(item) for item in items)
        return
    pool = ThreadPoolExecutor(num_threads, "read-ahead", torch_in_this_thread_alone)
    waiting: deque[Future[Made]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > READ_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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
