"""What is measured before a training: seconds of steps, in which arithmetic, and what an interruption changes."""

import dataclasses

import pytest
import torch

from autoseg.records.course import PatchGrowth, PatchStage
from autoseg.records.plan import Configuration
from autoseg.training import probe as module
from autoseg.training.batches import Sampler
from tests.training.tools import RECIPE, SPEC, make_learner, make_sampler, make_source, scaled


def test_steps_of_growing_patches_are_measured_in_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = (PatchStage(until=0.25, fraction=0.5), PatchStage(until=0.5, fraction=0.75))
    recipe = RECIPE.model_copy(update={"patch_growth": PatchGrowth(stages=stages)})
    sampler = dataclasses.replace(make_sampler(make_source([(9, 9, 9)]), recipe), divisor_zyx=(1, 1, 1))

    def seconds(learner: object, part: Sampler, count: int, limit: float) -> list[float]:
        assert limit == pytest.approx(0.1)
        slow_first = [] if part.patch_zyx == (8, 8, 8) else [100.0]
        return [*slow_first, *[float(part.patch_zyx[0])] * 2][:count]

    monkeypatch.setattr(module, "_timed_steps", seconds)
    # Edges 4, 6 and 8 for a quarter, a quarter and a half of the steps; the first step of a new shape does not count.
    assert module._step_seconds(make_learner(recipe), sampler, 0.3)[0] == pytest.approx(4 / 4 + 6 / 4 + 8 / 2)


def test_an_interruption_does_not_make_steps_look_long() -> None:
    assert module._typical([0.5] * 19 + [60.0]) == pytest.approx(0.5)
    assert module._typical([0.4, 0.6]) == pytest.approx(0.5)


def test_steps_are_timed_until_the_limit() -> None:
    sampler = make_sampler(scaled(make_source([(8, 8, 8)]), 1e-3))
    assert len(module._timed_steps(make_learner(), sampler, 2, 0.0)) == 2
    assert 2 <= len(module._timed_steps(make_learner(), sampler, 2, 0.2)) <= 100


def configured(precision: str, patch: tuple[int, ...] = (8, 8, 8), **network: object) -> Configuration:
    return Configuration(
        spacing_mm=(1.0,) * len(patch),
        patch_size=patch,
        batch_size=2,
        median_shape=(8, 8, 8),
        normalization=("zscore",),
        use_mask_for_norm=(False,),
        batch_dice=False,
        network=SPEC.model_copy(update=network),
        recipe=RECIPE.model_copy(update={"precision": precision}),
    )


def test_precision_that_is_named_is_not_measured() -> None:
    assert module.precisions(configured("float16"), torch.device("cpu")) == ["float16"]
    assert module.precisions(configured("auto"), torch.device("cpu"))[0] == "float32"


def test_bfloat16_is_no_choice_on_a_cpu_where_its_gradients_are_unsound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_has_bfloat16_instructions", lambda: True)
    cpu, both = torch.device("cpu"), ["float32", "bfloat16"]
    assert module.precisions(configured("auto"), cpu) == both
    assert module.precisions(configured("auto", (4, 8, 8)), cpu) == ["float32"]  # 2 x 4 x 4 below, and kernels of 3
    flat = {"kernel_sizes": ((1, 3, 3), (1, 3, 3))}
    assert module.precisions(configured("auto", (4, 8, 8), **flat), cpu) == both
    plane = {"strides": ((1, 1), (2, 2)), "kernel_sizes": ((3, 3), (3, 3))}
    assert module.precisions(configured("auto", (4, 8), **plane), cpu) == both
    assert module.precisions(configured("bfloat16", (4, 8, 8)), cpu) == ["bfloat16"]


def test_steps_are_timed_with_the_trainings_own_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    tuned: list[bool] = []
    monkeypatch.setattr(module, "train_step", lambda *args: tuned.append(torch.backends.cudnn.benchmark))
    module._timed_steps(make_learner(), make_sampler(make_source([(8, 8, 8)])), 2, 0.0)
    assert tuned == [True, True]
    assert not torch.backends.cudnn.benchmark
