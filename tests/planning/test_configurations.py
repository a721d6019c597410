import numpy as np

from autoseg.planning.configurations import Demand, Stage, fit, plan_lowres
from autoseg.planning.presets import PRESETS
from tests.planning.examples import scheme

NNUNET = PRESETS["nnunet"]


def _stage(demand: Demand, spacing: tuple[float, ...], shape: tuple[float, ...]) -> Stage:
    spacing_mm, median = np.array(spacing, dtype=float), np.array(shape, dtype=float)
    return Stage(spacing_mm, median, fit(NNUNET, demand, spacing_mm, median, float(np.prod(median))))


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
