"""A user's own transforms meet what they expect and change what is trained on, in any number of threads."""

import random
import threading
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoseg.errors import Preempted, UsageError
from autoseg.records.recipe import Sampling
from autoseg.training import batches as batches_module
from autoseg.training import custom_transforms as tier
from autoseg.training import loop
from autoseg.training.batches import Batch, Place, Sampler, batches
from autoseg.training.custom_transforms import (
    CustomTransform,
    batchgenerators_step,
    describe_transforms,
    find_transforms,
)
from autoseg.training.loop import train_network
from autoseg.training.stopping import StopRequest
from tests.training.test_loop import StopAfter, _digest
from tests.training.tools import CPU, LABELS, RECIPE, SCHEDULE, make_learner, make_source, scaled

pytest.importorskip("batchgenerators")

from batchgenerators.transforms.abstract_transforms import AbstractTransform, Compose
from batchgenerators.transforms.color_transforms import BrightnessTransform
from batchgenerators.transforms.noise_transforms import GaussianNoiseTransform

HIGHEST = (LABELS.num_classes - 1,)


class Flip(AbstractTransform):  # type: ignore[misc]
    """Flips z of data and seg, and remembers what it was given."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def __call__(self, **data_dict: Any) -> dict[str, Any]:
        self.seen.append(data_dict)
        flipped = {key: data_dict[key][:, :, ::-1] for key in ("data", "seg")}
        return {**data_dict, **flipped}


class Draws:
    """Adds what it draws from its own generator and from no other."""

    def __call__(self, data: Any, seg: Any, keys: Any, rng: np.random.Generator) -> dict[str, Any]:
        return {"data": data + rng.normal(size=data.shape), "seg": seg, "keys": keys}


def _of_all_generators(**sample: Any) -> dict[str, Any]:
    drawn = np.random.random() + 10 * random.random() + 100 * float(torch.rand(()))  # noqa: NPY002
    return {**sample, "data": sample["data"] + drawn}


def _named(*transforms: Any) -> list[CustomTransform]:
    return [CustomTransform(f"mine_{n}", one, isinstance(one, Draws)) for n, one in enumerate(transforms)]


def _sampler(*transforms: Any, batch_size: int = 2, num_cases: int = 1) -> Sampler:
    step = batchgenerators_step(_named(*transforms), HIGHEST) if transforms else None
    source = scaled(make_source([(12, 11, 10), (9, 9, 9), (10, 9, 12)][:num_cases]), 1e-3)
    return Sampler(source, RECIPE, LABELS, (8, 8, 8), batch_size, 7, CPU, plugins=step)


def test_a_transform_gets_samples_as_numpy_and_its_result_is_used() -> None:
    flip = Flip()
    (plain,), (changed,) = batches(_sampler(), [(0, 0)]), batches(_sampler(flip), [(0, 0)])
    assert torch.equal(changed.images, plain.images.flip(2))
    assert torch.equal(changed.labels, plain.labels.flip(1))
    assert changed.labels.dtype == plain.labels.dtype
    assert len(flip.seen) == 2
    for number, seen in enumerate(flip.seen):
        assert seen.keys() == {"data", "seg", "keys"}
        assert seen["keys"] == ["case_0"]
        assert (seen["data"].dtype, seen["seg"].dtype) == (np.float32, np.int16)
        np.testing.assert_array_equal(seen["data"][0], plain.images[number])
        np.testing.assert_array_equal(seen["seg"][0, 0], plain.labels[number])


def test_transforms_are_applied_in_their_order() -> None:
    def double(**sample: Any) -> dict[str, Any]:
        return {**sample, "data": sample["data"] * 2}

    def add(**sample: Any) -> dict[str, Any]:
        return {**sample, "data": sample["data"] + np.float32(1)}

    (plain,), (changed,) = batches(_sampler(), [(0, 0)]), batches(_sampler(double, add), [(0, 0)])
    assert torch.equal(changed.images, plain.images * 2 + 1)


def test_a_transform_that_writes_into_what_it_is_given_or_has_given_changes_nothing_else() -> None:
    kept = np.zeros((1, 1, 8, 8, 8), np.float32)

    def erase(**sample: Any) -> dict[str, Any]:
        sample["data"][:], sample["seg"][:] = -1, 0
        return sample

    def reuses_its_buffer(**sample: Any) -> dict[str, Any]:
        kept[:] = sample["data"]
        return {**sample, "data": kept}

    whole = replace(_sampler(erase), source=make_source([(8, 8, 8)]))
    before = [part.clone() for part in whole.source.read(0, (slice(8),) * 3)]
    (erased,) = batches(whole, [(0, 0)])
    assert (erased.images == -1).all()
    assert all(torch.equal(*pair) for pair in zip(before, whole.source.read(0, (slice(8),) * 3), strict=True))
    (plain,), (reused,) = (
        batches(_sampler(num_cases=3), [(0, 0)]),
        batches(_sampler(reuses_its_buffer, num_cases=3), [(0, 0)]),
    )
    assert torch.equal(plain.images, reused.images)


@pytest.mark.parametrize(
    "transform", [_of_all_generators, Draws(), Compose([GaussianNoiseTransform(p_per_sample=1.0)])]
)
def test_randomness_belongs_to_the_place_and_leaves_the_globals_alone(transform: Any) -> None:
    sampler = _sampler(transform)
    draws: list[Callable[[], float]] = [np.random.random, random.random, lambda: float(torch.rand(()))]
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    torch.manual_seed(3)
    expected = [draw() for draw in draws]
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    torch.manual_seed(3)
    first, second = batches(sampler, [(0, 0), (0, 1)])
    assert [draw() for draw in draws] == expected
    (again,) = batches(sampler, [(0, 1)])
    assert torch.equal(second.images, again.images)
    plain = list(batches(_sampler(), [(0, 0), (0, 1)]))
    added = [
        (batch.images - bare.images)[n] for batch, bare in zip((first, second), plain, strict=True) for n in (0, 1)
    ]
    assert len({float(values.mean()) for values in added}) == 4  # samples of a batch draw anew


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch, batch_size: int) -> None:
    def slow(**sample: Any) -> dict[str, Any]:  # threads would take turns in the middle of it
        parts = []
        for _ in range(3):
            parts.append(np.random.random())  # noqa: NPY002
            threading.Event().wait(0.001)
        return {**sample, "data": sample["data"] * parts[0] + parts[1] - parts[2]}

    sampler = _sampler(slow, Draws(), _of_all_generators, BrightnessTransform(0, 1), batch_size=batch_size, num_cases=3)
    places: list[Place] = [(epoch, step) for epoch in range(2) for step in range(4)]

    def made(threads: int) -> list[Batch]:
        monkeypatch.setattr(batches_module, "num_reading_threads", lambda *_: threads)
        return list(batches(sampler, places))

    alone = made(0)
    for threads in (1, 4):
        for one, other in zip(alone, made(threads), strict=True):
            assert one.cases == other.cases
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)


def test_transforms_with_their_own_generator_run_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both samples meet in the transform, or the barrier breaks; with global generators the second one waits."""
    monkeypatch.setattr(batches_module, "num_reading_threads", lambda *_: 2)

    def meets(barrier: threading.Barrier, sample: dict[str, Any]) -> dict[str, Any]:
        barrier.wait()
        return sample

    together, apart = threading.Barrier(2, timeout=30), threading.Barrier(2, timeout=0.2)
    places: list[Place] = [(0, 0), (0, 1)]
    one = CustomTransform("one", lambda rng, **sample: meets(together, sample), True)
    sampler = replace(_sampler(batch_size=1), plugins=batchgenerators_step([one], HIGHEST))
    assert len(list(batches(sampler, places))) == 2
    one = CustomTransform("one", lambda **sample: meets(apart, sample), False)
    sampler = replace(sampler, plugins=batchgenerators_step([one], HIGHEST))
    with pytest.raises(UsageError, match="BrokenBarrierError"):
        list(batches(sampler, places))


def _train(folder: Path, threads: int, stops: tuple[int, ...] = ()) -> str:
    recipe = RECIPE.model_copy(update={"sampling": Sampling(class_balanced=True, hard_ratio=4.0)})
    sampler = replace(_sampler(Draws(), _of_all_generators, num_cases=3), recipe=recipe)
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches_module, "num_reading_threads", lambda *_: threads)
        for num_steps in stops:
            with pytest.raises(Preempted):
                train_network(make_learner(recipe), sampler, SCHEDULE, folder, StopAfter(num_steps - 1), "x")
        learner = make_learner(recipe)
        train_network(learner, sampler, SCHEDULE, folder, StopRequest(), "x")
    return _digest(learner)


def test_trainings_are_the_same_bit_for_bit_interrupted_and_with_other_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "draw_curve", lambda *args: None)
    whole = _train(tmp_path / "whole", 1)
    assert _train(tmp_path / "many", 4) == whole
    assert _train(tmp_path / "stopped", 3, stops=(3, 2)) == whole


def _returning(**changes: Any) -> Callable[..., dict[str, Any]]:
    def transform(**sample: Any) -> dict[str, Any]:
        return {**sample, **{key: change(sample[key]) for key, change in changes.items()}}

    return transform


def _raising(**sample: Any) -> dict[str, Any]:
    raise ZeroDivisionError("float division by zero")


def _with(array: Any, value: float) -> Any:
    array = array.copy()
    array[0, 0, 0, 0, 0] = value
    return array


FAULTS: dict[str, tuple[Callable[..., Any], str]] = {
    "raises": (_raising, "raised ZeroDivisionError: float division by zero"),
    "no dictionary": (lambda **sample: sample["data"], "must return a dictionary"),
    "a key less": (lambda **sample: {"data": sample["data"]}, "must return a dictionary with 'data' and 'seg'"),
    "shape": (
        _returning(data=lambda d: d[:, :, 1:]),
        r"made 'data' an array \(1, 1, 7, 8, 8\); expected .*\(1, 1, 8, 8, 8\)",
    ),
    "no batch axis": (_returning(seg=lambda s: s[0]), r"made 'seg' an array \(1, 8, 8, 8\)"),
    "tensor": (_returning(data=torch.from_numpy), "made 'data' a Tensor; expected a numpy array"),
    "integers": (_returning(data=lambda d: d.astype(np.uint8)), "made 'data' of type uint8; expected float32"),
    "not a number": (_returning(data=lambda d: _with(d, np.nan)), "made 1 values of 'data' that are not finite"),
    "too large": (_returning(data=lambda d: _with(d.astype(float), 1e300)), "made 1 values .* not finite as float32"),
    "complex labels": (_returning(seg=lambda s: s * 1j), "made 'seg' of type complex128; expected int16"),
    "between classes": (
        _returning(seg=lambda s: _with(s.astype(float), 0.5)),
        r"made values of 'seg' that are no classes, such as \[0.5\]",
    ),
    "no class": (_returning(seg=lambda s: _with(s, 3)), r".*such as \[3\]; expected whole numbers from -1 to 2"),
    "undefined class": (_returning(seg=lambda s: _with(s.astype(float), np.nan)), r".*no classes, such as \[nan\]"),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("threads", [0, 2])
def test_a_fault_names_transform_and_case(monkeypatch: pytest.MonkeyPatch, name: str, threads: int) -> None:
    monkeypatch.setattr(batches_module, "num_reading_threads", lambda *_: threads)
    transform, message = FAULTS[name]

    def on_one_case(**sample: Any) -> Any:
        return transform(**sample) if sample["keys"] == ["case_1"] else sample

    sampler = _sampler(Flip(), on_one_case, num_cases=3)
    with pytest.raises(UsageError, match=r"Case case_1: the transform 'mine_1' of augmentation.plugins " + message):
        list(batches(sampler, [(0, step) for step in range(8)]))


def test_labels_of_whole_floats_are_taken_and_each_map_has_its_own_classes() -> None:
    image, maps = torch.zeros((1, 2, 2, 2)), torch.tensor([3, 2]).view(2, 1, 1, 1).expand(2, 2, 2, 2).to(torch.int16)
    rng = np.random.default_rng(0)
    floats = _named(_returning(seg=lambda s: s.astype(np.float64)))
    _, same = batchgenerators_step(floats, (3, 2))(image, maps, "one", rng)
    assert torch.equal(same, maps)
    assert same.dtype == torch.int16
    with pytest.raises(UsageError, match=r"such as \[3\.0\]; expected whole numbers from -1 to 2"):
        batchgenerators_step(floats, (2, 2))(image, maps, "one", rng)


def test_transforms_are_found_by_their_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"flip": "Flip", "draws": "Draws", "bad": "FAULTS", "unmade": "_raising", "gone": "Gone"}
    installed = EntryPoints([EntryPoint(name, f"{__name__}:{at}", tier.ENTRY_POINTS) for name, at in names.items()])
    monkeypatch.setattr(tier, "entry_points", lambda group: installed.select(group=group))
    flip, draws = find_transforms(["flip", "draws"])
    assert (flip.name, type(flip.transform), flip.takes_rng) == ("flip", Flip, False)
    assert (draws.name, type(draws.transform), draws.takes_rng) == ("draws", Draws, True)
    with pytest.raises(UsageError, match=r"\['flop'\].*installed are: bad, draws, flip, gone, unmade"):
        find_transforms(["flip", "flop"])
    for name, reason in (("bad", "TypeError"), ("unmade", "ZeroDivisionError"), ("gone", "AttributeError")):
        with pytest.raises(UsageError, match=rf"The transform '{name}'.*could not be made \({reason}"):
            find_transforms([name])


def test_what_is_said_of_them() -> None:
    said = describe_transforms(_named(Flip(), Draws(), Flip()))
    assert said.startswith("Patches are changed on the CPU by the transforms mine_0, mine_1, mine_2;")
    assert said.endswith("; one thread at a time where they draw from global generators (mine_0, mine_2).")
    assert describe_transforms(_named(Draws())) == "Patches are changed on the CPU by the transforms mine_0."
