"""The patch of every step by hand: stages in order, multiples of the strides, the whole patch in every cooldown."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from autoseg.records.course import PatchGrowth, PatchStage
from autoseg.records.recipe import Schedule
from autoseg.training.batches import Sampler, batches
from autoseg.training.patch_growth import grown, part_at, stage_shares, warn_of_idle_growth
from autoseg.training.schedule import TrainingSchedule, with_cooldown
from tests.training.tools import RECIPE, make_sampler, make_source

SCHEDULE = TrainingSchedule(epochs=5, iterations_per_epoch=2, seed=7, precision="float32", device="cpu")
GROWTH = PatchGrowth(stages=(PatchStage(until=0.25, fraction=0.5), PatchStage(until=0.5, fraction=0.75)))
RECIPE_GROWING = RECIPE.model_copy(update={"patch_growth": GROWTH})


def _sampler(patch: tuple[int, int, int] = (16, 16, 8), divisor: tuple[int, int, int] = (2, 2, 1)) -> Sampler:
    return replace(make_sampler(make_source([(20, 20, 20)]), RECIPE_GROWING, patch), divisor_zyx=divisor)


def test_stages_follow_one_another_by_hand() -> None:
    found = [part_at(_sampler(), RECIPE_GROWING, SCHEDULE, step) for step in range(10)]
    # 2.5 of 10 steps are 3, then up to 5.
    assert [sampler.patch_zyx for sampler, _ in found] == [(8, 8, 4)] * 3 + [(12, 12, 6)] * 2 + [(16, 16, 8)] * 5
    assert [stop for _, stop in found] == [3] * 3 + [5] * 2 + [10] * 5
    assert {sampler.batch_size for sampler, _ in found} == {2}


def test_batches_of_a_stage_have_its_patch() -> None:
    sampler, _ = part_at(_sampler(), RECIPE_GROWING, SCHEDULE, 0)
    (batch,) = batches(sampler, [(0, 0)])
    assert batch.images.shape == (2, 1, 8, 8, 4)
    assert batch.labels.shape == (2, 8, 8, 4)


def test_smaller_patches_in_larger_batches_if_wanted() -> None:
    small = grown(_sampler(), 0.5, True)
    assert (small.patch_zyx, small.batch_size) == ((8, 8, 4), 16)
    (batch,) = batches(small, [(0, 0)])
    assert batch.images.shape == (16, 1, 8, 8, 4)
    assert grown(_sampler(), 0.75, True).batch_size == 4  # 2 * 2048 / 864 = 4.7, and 5 would be more than planned


def test_slices_stay_slices_and_the_coarsest_map_keeps_four_voxels() -> None:
    assert grown(_sampler((1, 64, 64), (1, 16, 8)), 0.25, False).patch_zyx == (1, 64, 32)
    assert grown(_sampler((32, 32, 32), (8, 4, 2)), 0.25, False).patch_zyx == (32, 16, 8)


@given(st.integers(1, 12), st.sampled_from([1, 2, 4, 8, 32]), st.floats(0.01, 1.0))
def test_edges_are_multiples_within_the_plans_patch(times: int, divisor: int, fraction: float) -> None:
    whole = times * divisor
    edges = grown(_sampler((whole, whole, whole), (divisor, divisor, divisor)), fraction, False).patch_zyx
    assert all(edge % divisor == 0 and min(whole, 4 * divisor) <= edge <= whole for edge in edges)


def test_a_cooldown_sees_the_whole_patch() -> None:
    early = with_cooldown(RECIPE.schedule, SCHEDULE, 2, "asked")
    assert part_at(_sampler(), RECIPE_GROWING, early, 1)[1] == 2
    assert part_at(_sampler(), RECIPE_GROWING, early, 2)[0].patch_zyx == (16, 16, 8)
    wsd = RECIPE_GROWING.model_copy(update={"schedule": Schedule(name="wsd", cooldown_fraction=0.6)})
    patches = [part_at(_sampler(), wsd, SCHEDULE, step)[0].patch_zyx for step in range(5)]
    assert patches == [(8, 8, 4)] * 3 + [(12, 12, 6)] + [(16, 16, 8)]


def test_shares_add_up() -> None:
    assert stage_shares(GROWTH) == [(0.25, 0.5), (0.25, 0.75), (0.5, 1.0)]
    assert stage_shares(PatchGrowth()) == [(1.0, 1.0)]
    assert stage_shares(GROWTH, end=0.4) == [(0.25, 0.5), (pytest.approx(0.15), 0.75), (0.6, 1.0)]
    assert stage_shares(GROWTH, end=0.2) == [(0.2, 0.5), (0.8, 1.0)]  # the cooldown sees the whole patch


def test_stages_that_do_nothing_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    coarse = _sampler((128, 128, 128), (32, 32, 32))
    warn_of_idle_growth(coarse, RECIPE_GROWING)
    assert "0.5, 0.75 of the patch (128, 128, 128) is the whole patch" in capsys.readouterr().err
    warn_of_idle_growth(_sampler((128, 128, 128), (8, 8, 8)), RECIPE_GROWING)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("edge", "divisor", "fraction"), [(112, 16, 0.8), (104, 8, 0.75), (96, 8, 0.5)])
def test_larger_batches_of_small_patches_hold_no_more_voxels(edge: int, divisor: int, fraction: float) -> None:
    sampler = _sampler((edge,) * 3, (divisor,) * 3)
    part = grown(sampler, fraction, True)
    assert part.batch_size * math.prod(part.patch_zyx) <= sampler.batch_size * edge**3


def test_stages_out_of_order_are_refused() -> None:
    with pytest.raises(ValidationError, match="one after the other"):
        PatchGrowth(stages=(PatchStage(until=0.5, fraction=0.5), PatchStage(until=0.25, fraction=0.75)))
