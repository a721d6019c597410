"""The time of a step, predicted from a small one: what is cut, how it is scaled, and which precision is meant."""

from math import prod

import pytest
import torch

from autoseg.networks.blocks import RECOMPUTES
from autoseg.planning.step_cost import Kind, StepNeed, need_of_configuration
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import Configuration, NetworkSpec
from autoseg.records.recipe import Optimizer, Recipe
from autoseg.training import step_time as module
from autoseg.training.step_time import predict_step_time
from tests.planning.examples import scheme

CPU = torch.device("cpu")


def _settings(
    features: tuple[int, ...], patch: tuple[int, ...], batch: int, *, architecture: str = "plain_unet"
) -> Configuration:
    dims, n = len(patch), len(features)
    return Configuration(
        spacing_mm=(1.0,) * dims,
        patch_size=patch,
        batch_size=batch,
        median_shape=(64, 64, 64),
        normalization=("zscore",),
        use_mask_for_norm=(False,),
        batch_dice=False,
        network=NetworkSpec(
            architecture=architecture,
            features_per_stage=features,
            strides=((1,) * dims, *((2,) * dims,) * (n - 1)),
            kernel_sizes=((3,) * dims,) * n,
            blocks_per_stage=(2,) * n,
            decoder_blocks_per_stage=(2,) * (n - 1),
        ),
        recipe=Recipe(precision="float32", optimizer=Optimizer(name="adamw", momentum=0.9)),
    )


def _flops(settings: Configuration) -> int:
    need = need_of_configuration(settings, scheme(), 1, "cpu")
    assert need is not None
    return need.flops


def test_the_sample_has_the_finest_stages_and_little_arithmetic() -> None:
    settings = _settings((32, 64, 128, 256, 320), (64, 128, 96), 8)
    sample = module._sample(settings, scheme(), 1, "cpu")
    assert sample.network.features_per_stage == (32, 64, 128)
    assert sample.batch_size == 2
    assert all(edge % 4 == 0 for edge in sample.patch_size)
    assert max(sample.patch_size) <= 2 * min(sample.patch_size), "axes are cut evenly"
    assert _flops(sample) <= 10e9
    assert module._sample(settings, scheme(), 1, "cuda").patch_size == settings.patch_size


def test_what_is_small_is_measured_whole() -> None:
    settings = _settings((4, 8), (16, 16), 3)
    assert module._sample(settings, scheme(), 1, "cpu") == settings


def test_a_large_plan_is_cut_with_few_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace of a deep network takes a quarter of a second, and people wait for it."""
    calls = []

    def counted(settings: Configuration, labels: LabelScheme, num_channels: int, kind: Kind) -> StepNeed | None:
        calls.append(settings.patch_size)
        return need_of_configuration(settings, labels, num_channels, kind)

    monkeypatch.setattr(module, "need_of_configuration", counted)
    settings = _settings((32, 64, 128, 256, 320), (160, 320, 256), 2)
    assert _flops(module._sample(settings, scheme(), 1, "cpu")) <= 10e9
    assert len(calls) == 1


def test_recomputed_activations_are_measured_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The traced arithmetic has the second forward pass, so the timed steps must make it."""
    seen = []
    monkeypatch.setattr(module, "train_step", lambda learner, *_: seen.append(getattr(learner.network, RECOMPUTES)))
    monkeypatch.setattr(module, "_SECONDS", 0.0)
    settings = _settings((4, 8), (16, 16), 2)
    for again in (False, True):
        recipe = settings.recipe.model_copy(update={"recompute_activations": again})
        predict_step_time(settings.model_copy(update={"recipe": recipe}), scheme(), 1, CPU)
        assert set(seen) == {again}
        seen.clear()


def test_a_pyramid_keeps_its_stages() -> None:
    settings = _settings((8, 16, 16, 16), (32, 32), 2, architecture="fpn")
    assert module._sample(settings, scheme(), 1, "cpu").network == settings.network


def test_time_grows_with_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device of 1 GFLOP/s: the prediction is the arithmetic of the whole step, whatever the sample was."""
    monkeypatch.setattr(
        module, "_sample_seconds", lambda sample, labels, num_channels, precision, device: _flops(sample) / 1e9
    )
    settings = _settings((32, 64, 128, 256), (48, 64, 64), 4)
    found = predict_step_time(settings, scheme(), 1, CPU)
    assert found is not None
    assert found.seconds == pytest.approx(_flops(settings) / 1e9)
    assert found.precision == "float32"


def test_half_precision_must_be_clearly_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _settings((4, 8), (16, 16), 2)
    settings = settings.model_copy(update={"recipe": settings.recipe.model_copy(update={"precision": "auto"})})
    monkeypatch.setattr(module, "precisions", lambda settings, device: ["float32", "bfloat16"])
    for seconds, expected in ((0.9, "float32"), (0.8, "bfloat16")):
        times = {"float32": 1.0, "bfloat16": seconds}
        monkeypatch.setattr(module, "_sample_seconds", lambda a, b, c, precision, d, times=times: times[precision])
        found = predict_step_time(settings, scheme(), 1, CPU)
        assert found is not None
        assert found.precision == expected


def test_a_small_step_is_really_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock makes the first step slow and the others take 2, 3, 4 ... s: the fastest after the first is meant."""
    ticks = iter([0.0, 100.0, 100.0, 103.0, 103.0, 105.0, 105.0, 200.0])
    monkeypatch.setattr(module, "_now", lambda device: next(ticks))
    monkeypatch.setattr(module, "_SECONDS", 4.0)
    settings = _settings((4, 8), (16, 16), 2)
    found = predict_step_time(settings, scheme(), 1, CPU)
    assert found is not None
    assert found.seconds == pytest.approx(2.0)
    assert prod(settings.patch_size) == 256


def test_what_cannot_be_traced_is_not_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "need_of_configuration", lambda *_: None)
    assert predict_step_time(_settings((4, 8), (16, 16), 2), scheme(), 1, CPU) is None
