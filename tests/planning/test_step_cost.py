from math import prod

import pytest

from autoseg.losses.build import LOSSES
from autoseg.planning.build import make_plan
from autoseg.planning.presets import PRESETS, MemoryBudget
from autoseg.planning.step_cost import (
    GIB,
    describe_need,
    need_of_configuration,
    need_of_plan,
    trace_line,
    trace_need,
    usable_bytes,
)
from autoseg.records.plan import Configuration, Plan
from autoseg.records.recipe import LossTerm, Optimizer, Recipe
from tests.planning.examples import dataset, fingerprint, scheme

CT = fingerprint((2.5, 0.8, 0.8), (140, 512, 512), 100)
SMALL = fingerprint((1.0, 1.0, 1.0), (36, 50, 35), 208)
OURS = [name for name, preset in PRESETS.items() if isinstance(preset.budget, MemoryBudget)]


def _plan(gib: float, preset: str = "default") -> Plan:
    return make_plan(CT, dataset(), preset, gpu_memory_gib=gib)


def _needed(settings: Configuration) -> int:
    need = need_of_configuration(settings, scheme(), 1, "cuda")
    assert need is not None
    return need.num_bytes


def _voxels(settings: Configuration) -> int:
    return settings.batch_size * prod(settings.patch_size)


def test_a_larger_card_is_filled_too() -> None:
    voxels = []
    for gib in (8.0, 24.0, 80.0):
        settings = _plan(gib).configurations["3d_fullres"]
        needed = _needed(settings)
        # Patches grow by whole poolings, so that what is left is less than one of them.
        assert 0.75 * usable_bytes(gib) < needed < 1.02 * usable_bytes(gib)
        voxels.append(_voxels(settings))
    assert voxels[0] < voxels[1] < voxels[2]


def test_2d_takes_all_samples_that_fit() -> None:
    settings = _plan(8).configurations["2d"]
    assert settings.batch_size < 64
    one_more = settings.model_copy(update={"batch_size": settings.batch_size + 1})
    fits, does_not = (_needed(c) for c in (settings, one_more))
    assert fits <= 1.01 * usable_bytes(8)
    assert does_not > 0.99 * usable_bytes(8)


@pytest.mark.parametrize("which", ["2d", "3d_fullres"])
def test_the_line_is_the_trace(which: str) -> None:
    settings = _plan(8).configurations[which]  # type: ignore[index]
    line = trace_line(settings.network, 1, scheme(), Recipe().model_dump_json())
    exact = _needed(settings)
    assert line.fixed_bytes + line.bytes_a_voxel * _voxels(settings) == pytest.approx(exact, rel=0.03)


@pytest.mark.parametrize("preset", OURS)
def test_a_batch_is_never_most_of_a_small_dataset(preset: str) -> None:
    plan = make_plan(SMALL, dataset(channels=["MRI"]), preset, num_training=208)
    settings = plan.configurations["3d_fullres"]
    assert 2 <= settings.batch_size <= 8
    assert settings.batch_size * prod(settings.patch_size) <= 0.05 * 208 * 36 * 50 * 35
    assert "the memory would hold" in plan.reasons["3d_fullres.batch_size"]


def test_images_too_small_for_a_second_stage_are_planned() -> None:
    for preset in ("default", "resenc_m"):
        plan = make_plan(fingerprint((1.0, 1.0, 1.0), (6, 7, 5), 20), dataset(channels=["MRI"]), preset)
        settings = plan.configurations["3d_fullres"]
        assert settings.patch_size == (6, 7, 5)
        assert len(settings.network.strides) == 1
        assert _needed(settings) < usable_bytes(8)


def test_optimiser_and_average_are_counted() -> None:
    settings = _plan(8).configurations["3d_fullres"]
    weights = trace_need(settings.network, (64, 64, 64), 1, 1, scheme(), Recipe().model_dump_json()).num_bytes

    def needed(recipe: Recipe) -> int:
        return trace_need(settings.network, (64, 64, 64), 1, 1, scheme(), recipe.model_dump_json()).num_bytes

    adamw = needed(Recipe(optimizer=Optimizer(name="adamw"))) - weights
    assert adamw > 100e6
    assert needed(Recipe(ema_decay=0.99)) - weights == adamw


def test_a_previous_stage_costs_its_channels() -> None:
    plan = make_plan(CT, dataset(scheme([f"organ {n}" for n in range(30)])), "default")
    assert "3d_cascade_fullres" in plan.configurations
    for which in plan.configurations:
        need = need_of_plan(plan, which)
        assert need is not None
        assert need.num_bytes < 1.02 * usable_bytes(8)


def test_people_are_told() -> None:
    plan = _plan(24)
    need = need_of_plan(plan, "3d_fullres")
    assert need is not None
    text = describe_need(need, 24)
    assert (
        f"{need.num_bytes / GIB:.1f} GiB predicted, {100 * need.num_bytes / GIB / 24:.0f} % of the card's 24 GiB"
        in text
    )
    assert f"{need.flops / 1e9:.0f} GFLOP a step" in text
    assert text in plan.reasons["3d_fullres.patch_size"]


def test_a_small_card_recomputes_to_hold_the_patch_of_the_presets_own() -> None:
    small, own = (_plan(gib).configurations["3d_fullres"] for gib in (5.0, 8.0))
    assert small.recipe.recompute_activations
    assert not own.recipe.recompute_activations
    assert prod(small.patch_size) <= prod(own.patch_size)
    keeping = small.model_copy(update={"recipe": small.recipe.model_copy(update={"recompute_activations": False})})
    fits, does_not = (_needed(c) for c in (small, keeping))
    assert fits < 1.02 * usable_bytes(5) < does_not


def test_a_loss_that_looks_at_values_is_not_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES, "looks", lambda logits, target, context: logits.sum() * logits.sum().item())
    settings = _plan(8).configurations["2d"]
    tried = settings.model_copy(update={"recipe": Recipe(loss=(LossTerm(name="looks"),))})
    assert need_of_configuration(tried, scheme(), 1, "cuda") is None
    assert "cannot be predicted" in describe_need(None)
