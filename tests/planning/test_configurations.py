from typing import Any

import numpy as np
import pytest

from autoseg.planning import configurations
from autoseg.planning.configurations import Demand, Fitted, Resolution, Stage, fit, plan_lowres
from autoseg.planning.presets import PRESETS
from autoseg.planning.step_cost import StepNeed, trace_need, usable_bytes
from tests.planning.examples import scheme

NNUNET = PRESETS["nnunet"]
CT = Resolution(np.array([1.6, 0.79, 0.79]), np.array([187.0, 512.0, 512.0]), 187.0 * 512 * 512)


def _stage(demand: Demand, spacing: tuple[float, ...], shape: tuple[float, ...]) -> Stage:
    spacing_mm, median = np.array(spacing, dtype=float), np.array(shape, dtype=float)
    return Stage(spacing_mm, median, fit(NNUNET, demand, Resolution(spacing_mm, median, float(np.prod(median)))))


def test_a_large_volume_gets_a_coarser_stage_whose_patch_covers_a_quarter() -> None:
    demand = Demand(scheme(), num_cases=100, gpu_memory_gib=None)
    fullres = _stage(demand, (1, 0.8, 0.8), (480, 512, 512))
    lowres = plan_lowres(NNUNET, demand, fullres)
    assert lowres is not None
    assert np.prod(lowres.fitted.patch_size) >= 0.24 * np.prod(lowres.median_shape)
    np.testing.assert_allclose(lowres.spacing_mm / fullres.spacing_mm, lowres.spacing_mm[0])


def test_no_coarser_stage_where_the_patch_sees_enough() -> None:
    demand = Demand(scheme(), num_cases=100, gpu_memory_gib=None)
    assert plan_lowres(NNUNET, demand, _stage(demand, (1, 1, 1), (140, 170, 140))) is None


def test_no_coarser_stage_of_less_than_half_the_voxels() -> None:
    demand = Demand(scheme(), num_cases=100, gpu_memory_gib=None)
    fullres = _stage(demand, (1, 1, 1), (210, 210, 210))
    assert np.prod(fullres.fitted.patch_size) < 0.25 * 210**3
    assert plan_lowres(NNUNET, demand, fullres) is None


def test_a_few_huge_slices_end_the_search() -> None:
    demand = Demand(scheme(), num_cases=100, gpu_memory_gib=0.5)
    assert plan_lowres(NNUNET, demand, _stage(demand, (1, 1, 1), (2, 20000, 20000))) is None


def test_batch_is_bounded_by_the_dataset_and_never_below_two() -> None:
    shape = (36, 50, 35)
    many, few = (_stage(Demand(scheme(), cases, None), (1, 1, 1), shape).fitted.batch_size for cases in (1000, 20))
    assert many > few == 2
    # 5 % of the voxels of 200 cases over those of the patch 40 x 56 x 40
    assert _stage(Demand(scheme(), 200, None), (1, 1, 1), shape).fitted.batch_size == round(
        36 * 50 * 35 * 200 * 0.05 / (40 * 56 * 40)
    )


def test_memory_scales_the_budget() -> None:
    small, large = (
        np.prod(_stage(Demand(scheme(), 100, gib), (1, 1, 1), (300, 300, 300)).fitted.patch_size) for gib in (4, 16)
    )
    assert small < large


def test_a_card_is_left_no_room_for_a_further_step_of_any_axis() -> None:
    def fitted(gib: float) -> Fitted:
        demand = Demand(scheme(), num_cases=41, gpu_memory_gib=gib)
        return fit(PRESETS["default"], demand, CT)

    found = fitted(24)
    assert found.patch_size == (128, 256, 256), "halving the step frees a sixth of the card: 112 would leave it idle"
    recipe = PRESETS["default"].recipe.model_dump_json()
    need = trace_need(found.network, found.patch_size, found.batch_size, 1, scheme(), recipe).num_bytes
    assert 0.95 < need / usable_bytes(24) <= 1
    assert fitted(24.5).patch_size == found.patch_size


def test_the_search_goes_on_until_what_is_found_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that needs a little more than there is, of a patch that the line takes for small: four searches found it
    again and again (resenc_m, 4 GiB, 2-D images of 949x1281)."""
    gib = 25.5
    demand = Demand(scheme(), num_cases=41, gpu_memory_gib=gib)

    def fitted() -> Fitted:
        return fit(PRESETS["default"], demand, CT)

    first, recipe = fitted(), PRESETS["default"].recipe.model_dump_json()
    need = trace_need(first.network, first.patch_size, first.batch_size, 1, scheme(), recipe).num_bytes
    factor = 1.003 * usable_bytes(gib) / need
    assert factor > 1.07, "the line must be this far off"

    def dearer(*arguments: Any) -> StepNeed:
        found = trace_need(*arguments)
        return found._replace(num_bytes=int(found.num_bytes * factor))

    monkeypatch.setattr(configurations, "trace_need", dearer)
    second = fitted()
    need = dearer(second.network, second.patch_size, second.batch_size, 1, scheme(), recipe).num_bytes
    assert need <= usable_bytes(gib)
