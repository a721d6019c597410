"""Names of a user's own batchgenerators transforms in, a function that sends samples through them out.

A transform is anything that batchgenerators calls one: a callable `transform(**{"data", "seg", "keys"})` on numpy
arrays `1 C Z Y X` that returns such a dictionary. Installed packages offer theirs through Python entry points of
group `autoseg.transforms`, each naming a function without arguments (or the transform's class) that makes one.
Samples pass through batchgenerators' own loader and SingleThreadedAugmenter, so a transform meets exactly what it was
written for. batchgenerators is imported only when a recipe names a transform.

Every sample passes by itself, for a GPU in one of the threads that prepare batches ahead of the training; what is drawn
for it depends on its place in the training alone, however many threads there are and after a resumption. A transform
whose call has a parameter `rng` is given the sample's own generator, and threads run it side by side. All others draw
from numpy's, Python's or torch's global generators. A process has those only once: they are seeded for each sample and
put back afterwards, and one such transform runs at a time. Beside a GPU's training a network of one's own that draws
from the host's generators must not meet such a transform: it would draw now and then from what belongs to a sample.
"""

import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from threading import Lock
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoseg.errors import AutosegError, UsageError
from autoseg.training.batches import Plugins

ENTRY_POINTS = "autoseg.transforms"
_GLOBALS = Lock()
"""Held by the thread whose transform draws from the global generators."""


class CustomTransform(NamedTuple):
    """A user's transform."""

    name: str
    """Its entry point's."""
    transform: Callable[..., Any]
    """Takes and returns a dictionary with `data` and `seg`."""
    takes_rng: bool
    """Whether its call has a parameter `rng`."""


def find_transforms(names: Sequence[str]) -> list[CustomTransform]:
    """Make the installed transforms called `names`.

    Raises:
        UsageError: no package offers a name, or what makes the transform fails or is no callable.
    """
    installed = entry_points(group=ENTRY_POINTS)
    unknown = [name for name in names if name not in installed.names]
    if unknown:
        known = ", ".join(sorted(installed.names)) or "none"
        raise UsageError(
            f"augmentation.plugins names the transforms {unknown}, installed are: {known}. "
            f"Install the package that has them (entry points {ENTRY_POINTS!r}), or take them out of the plan."
        )
    return [_make(name, installed[name].load) for name in names]


def _make(name: str, load: Callable[[], Any]) -> CustomTransform:
    try:
        transform = load()()
        parameters = inspect.signature(transform).parameters
    except Exception as error:
        raise UsageError(
            f"The transform {name!r} of augmentation.plugins could not be made ({_said(error)}). Its entry point must "
            "name a class, or a function, that takes no arguments and gives a callable."
        ) from error
    return CustomTransform(name, transform, "rng" in parameters)


def describe_transforms(transforms: Sequence[CustomTransform]) -> str:
    """One line for people: which transforms change the patches, and which of them only one thread may enter at once."""
    names = ", ".join(one.name for one in transforms)
    alone = ", ".join(dict.fromkeys(one.name for one in transforms if not one.takes_rng))
    one_at_a_time = f"; one thread at a time where they draw from global generators ({alone})" if alone else ""
    return f"Patches are changed on the CPU by the transforms {names}{one_at_a_time}."


def batchgenerators_step(transforms: Sequence[CustomTransform], highest: Sequence[int]) -> Plugins:
    """A function that sends a sample through `transforms`, in their order.

    Args:
        transforms: from `find_transforms`.
        highest: for each label map the highest number that a voxel of it may have.
    """
    from batchgenerators.dataloading.data_loader import DataLoader
    from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
    from batchgenerators.transforms.abstract_transforms import Compose

    class OneSample(DataLoader):  # type: ignore[misc]
        """Hands out the sample that it was made with."""

        def generate_train_batch(self) -> dict[str, Any]:
            return dict(self._data)

    def apply(image: Tensor, maps: Tensor, case: str, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        # Copies: a transform may write into what it is given, which may be the case's own voxels.
        data, seg = np.array(image[None], np.float32, order="C"), np.array(maps[None], np.int16, order="C")
        sample = {"data": data, "seg": seg, "keys": [case]}
        chain = Compose([_checked(one, case, rng, highest) for one in transforms])
        changed = next(SingleThreadedAugmenter(OneSample(sample, 1, infinite=True), chain))
        return torch.from_numpy(changed["data"][0]), torch.from_numpy(changed["seg"][0])

    return apply


def _checked(
    one: CustomTransform, case: str, rng: np.random.Generator, highest: Sequence[int]
) -> Callable[..., dict[str, Any]]:
    """The transform for one sample, which raises a UsageError naming both unless it gives what a training can use."""

    def fail(what: str, cause: Exception | None = None) -> NoReturn:
        raise UsageError(
            f"Case {case}: the transform {one.name!r} of augmentation.plugins {what}. Correct it, or take it out of "
            "the plan."
        ) from cause

    def call(**sample: Any) -> dict[str, Any]:
        shapes = {key: sample[key].shape for key in ("data", "seg")}
        try:
            if one.takes_rng:
                changed = one.transform(**sample, rng=rng)
            else:
                with _seeded_globals(rng):
                    changed = one.transform(**sample)
        except (AutosegError, MemoryError):
            raise
        except Exception as error:
            fail(f"raised {_said(error)}", error)
        if not isinstance(changed, Mapping) or not {"data", "seg"} <= changed.keys():
            fail("must return a dictionary with 'data' and 'seg'")
        arrays = {key: changed[key] for key in shapes}
        for key, array in arrays.items():
            if not isinstance(array, np.ndarray) or array.shape != shapes[key]:
                shape = f"an array {array.shape}" if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
                fail(f"made {key!r} {shape}; expected a numpy array {shapes[key]}")
        if fault := _fault_of_data(arrays["data"]) or _fault_of_labels(arrays["seg"], highest):
            fail(fault)
        # Copies: a transform may keep what it returned and write into it later.
        data, seg = np.array(arrays["data"], np.float32, order="C"), np.array(arrays["seg"], np.int16, order="C")
        return {**changed, "data": data, "seg": seg}

    return call


def _fault_of_data(data: npt.NDArray[Any]) -> str | None:
    """What is wrong with the intensities that a transform made; None: nothing."""
    if data.dtype.kind != "f":
        return f"made 'data' of type {data.dtype}; expected float32"
    with np.errstate(over="ignore"):
        count = data.size - int(np.isfinite(data.astype(np.float32, copy=False)).sum())
    return f"made {count} values of 'data' that are not finite as float32" if count else None


def _fault_of_labels(seg: npt.NDArray[Any], highest: Sequence[int]) -> str | None:
    """What is wrong with the label maps `1 L Z Y X` that a transform made; None: nothing."""
    if seg.dtype.kind not in "iuf":
        return f"made 'seg' of type {seg.dtype}; expected int16"
    for labels, last in zip(seg[0], highest, strict=True):
        wrong = ~((labels >= -1) & (labels <= last))  # NaN too
        if seg.dtype.kind == "f":
            wrong |= labels != np.rint(labels)
        if wrong.any():
            values = np.unique(labels[wrong])[:5].tolist()
            return (
                f"made values of 'seg' that are no classes, such as {values}; expected whole numbers from -1 to {last}"
            )
    return None


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


@contextmanager
def _seeded_globals(rng: np.random.Generator) -> Iterator[None]:
    """Global generators that follow from `rng`, for one thread at a time; afterwards they are as before."""
    seeds = rng.integers(2**32, size=3).tolist()
    with _GLOBALS:
        numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 - batchgenerators' source
        torch_state = torch.default_generator.get_state()
        np.random.seed(seeds[0])  # noqa: NPY002
        random.seed(seeds[1])
        torch.default_generator.manual_seed(seeds[2])
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)
            torch.default_generator.set_state(torch_state)
