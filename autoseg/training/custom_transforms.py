"""Names of a user's own batchgenerators transforms in, a function that applies them to our batches out.

A transform is anything that batchgenerators calls one: a callable `transform(**{"data", "seg", "keys"})` on numpy
arrays `N C Z Y X` that returns such a dictionary. Installed packages offer theirs through Python entry points of
group `autoseg.transforms`, each naming a function without arguments (or the transform's class) that makes one.
Batches pass through batchgenerators' own loader and SingleThreadedAugmenter, so a transform meets exactly what it
was written for. batchgenerators is imported only when a recipe names a transform.

These transforms draw from numpy's and Python's global generators. Both are seeded for each batch from its place in
the training and put back afterwards, so that such a training too can be resumed without a difference.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoseg.errors import UsageError
from autoseg.training.batches import Place, Plugins
from autoseg.training.rng import BATCH, sample_rng

Transform = Callable[..., dict[str, Any]]

ENTRY_POINTS = "autoseg.transforms"


def find_transforms(names: Sequence[str]) -> list[Transform]:
    """Make the installed transforms called `names`; raises UsageError for a name that no package offers."""
    installed = entry_points(group=ENTRY_POINTS)
    unknown = [name for name in names if name not in installed.names]
    if unknown:
        known = ", ".join(sorted(installed.names)) or "none"
        raise UsageError(
            f"augmentation.plugins names the transforms {unknown}, installed are: {known}. "
            f"Install the package that has them (entry points {ENTRY_POINTS!r}), or take them out of the plan."
        )
    return [installed[name].load()() for name in names]


def batchgenerators_step(transforms: Sequence[Transform], seed: int) -> Plugins:
    """A function that sends batches through `transforms`, in their order.

    Args:
        transforms: batchgenerators transforms.
        seed: of the training.
    """
    from batchgenerators.dataloading.data_loader import DataLoader
    from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
    from batchgenerators.transforms.abstract_transforms import Compose

    class OneBatch(DataLoader):  # type: ignore[misc]
        """Hands out the batch that it was made with."""

        def generate_train_batch(self) -> dict[str, Any]:
            images, maps, cases = self._data
            return {"data": images.cpu().numpy(), "seg": maps.cpu().numpy(), "keys": list(cases)}

    def apply(images: Tensor, maps: Tensor, cases: Sequence[str], place: Place) -> tuple[Tensor, Tensor]:
        loader = OneBatch((images, maps, cases), len(cases), shuffle=False, infinite=True)
        with _seeded_globals(sample_rng(seed, *place, BATCH)):
            changed = next(SingleThreadedAugmenter(loader, Compose(list(transforms))))
        return _like(changed["data"], images, "data"), _like(changed["seg"], maps, "seg")

    return apply


def _like(values: Any, before: Tensor, key: str) -> Tensor:
    """What a transform made of `before`, in its type and on its device."""
    array = np.ascontiguousarray(values)
    if array.shape != tuple(before.shape):
        raise UsageError(
            f"A transform of augmentation.plugins made {key!r} {array.shape} out of {tuple(before.shape)}."
        )
    return torch.from_numpy(array).to(before)


@contextmanager
def _seeded_globals(rng: np.random.Generator) -> Iterator[None]:
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 - what batchgenerators draws from
    np.random.seed(int(rng.integers(2**32)))  # noqa: NPY002
    random.seed(int(rng.integers(2**63)))
    try:
        yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
