"""A user's own batchgenerators transforms meet what they expect and change what is trained on."""

from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import numpy as np
import pytest
import torch

from autoseg.errors import UsageError
from autoseg.training import custom_transforms as tier
from autoseg.training.batches import Sampler, batches
from autoseg.training.custom_transforms import batchgenerators_step, find_transforms
from tests.training.tools import CPU, LABELS, RECIPE, make_source

pytest.importorskip("batchgenerators")

from batchgenerators.transforms.abstract_transforms import AbstractTransform
from batchgenerators.transforms.noise_transforms import GaussianNoiseTransform


class Flip(AbstractTransform):  # type: ignore[misc]
    """Flips z of data and seg, and remembers what it was given."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def __call__(self, **data_dict: Any) -> dict[str, Any]:
        self.seen.append(data_dict)
        flipped = {key: data_dict[key][:, :, ::-1] for key in ("data", "seg")}
        return {**data_dict, **flipped}


class Cut(AbstractTransform):  # type: ignore[misc]
    def __call__(self, **data_dict: Any) -> dict[str, Any]:
        return {**data_dict, "data": data_dict["data"][:, :, 1:]}


def _sampler(*transforms: Any) -> Sampler:
    step = batchgenerators_step(transforms, 7) if transforms else None
    return Sampler(make_source([(12, 11, 10)]), RECIPE, LABELS, (8, 8, 8), 2, 7, CPU, plugins=step)


def test_a_transform_gets_numpy_batches_and_its_result_is_used() -> None:
    flip = Flip()
    (plain,), (changed,) = batches(_sampler(), [(0, 0)]), batches(_sampler(flip), [(0, 0)])
    assert torch.equal(changed.images, plain.images.flip(2))
    assert torch.equal(changed.labels, plain.labels.flip(1))
    assert changed.labels.dtype == plain.labels.dtype
    (seen,) = flip.seen
    assert seen["keys"] == ["case_0", "case_0"]
    assert seen["data"].shape == (2, 1, 8, 8, 8)
    assert seen["seg"].shape == (2, 1, 8, 8, 8)


def test_randomness_belongs_to_the_place_and_leaves_the_globals_alone() -> None:
    sampler = _sampler(GaussianNoiseTransform(p_per_sample=1.0))
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    first, second = batches(sampler, [(0, 0), (0, 1)])
    assert np.random.random() == expected  # noqa: NPY002
    (again,) = batches(sampler, [(0, 1)])
    assert torch.equal(second.images, again.images)
    (plain,) = batches(_sampler(), [(0, 1)])
    noise = again.images - plain.images
    assert 0 < noise.abs().max() < 10
    assert not torch.equal(first.images - plain.images, noise)


def test_a_changed_shape_is_refused() -> None:
    with pytest.raises(UsageError, match="'data'"):
        list(batches(_sampler(Cut()), [(0, 0)]))


def test_transforms_are_found_by_their_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = EntryPoints([EntryPoint("flip", f"{__name__}:Flip", tier.ENTRY_POINTS)])
    monkeypatch.setattr(tier, "entry_points", lambda group: installed.select(group=group))
    (transform,) = find_transforms(["flip"])
    assert isinstance(transform, Flip)
    with pytest.raises(UsageError, match=r"\['flop'\].*installed are: flip"):
        find_transforms(["flip", "flop"])
