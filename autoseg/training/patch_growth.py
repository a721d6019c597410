"""A sampler and a place in the course of a training in, the sampler of that place out: small patches first.

Nothing is remembered: the patch of a step follows from the step and the schedule, so a resumed training sees what an
uninterrupted one sees.
"""

import math
from dataclasses import replace
from itertools import pairwise

from autoseg import console
from autoseg.records.course import PatchGrowth
from autoseg.records.geometry import IntTriple
from autoseg.records.recipe import Recipe
from autoseg.training.batches import Sampler
from autoseg.training.schedule import TrainingSchedule, cooldown_of

# Voxels of the coarsest feature map on an axis, where the plan's patch has as many: nnU-Net's own limit. Below 3 the
# weight gradients of torch's bfloat16 convolutions on a CPU are not finite now and then (docs/experiments.md).
_SMALLEST = 4


def part_at(sampler: Sampler, recipe: Recipe, schedule: TrainingSchedule, step: int) -> tuple[Sampler, int]:
    """The sampler of global step `step` and the first step after it that may need another one."""
    cooldown = cooldown_of(recipe.schedule, schedule)
    end = schedule.num_steps if cooldown is None else cooldown.start
    if step < end:
        for stage in recipe.patch_growth.stages:
            stop = math.ceil(stage.until * schedule.planned_steps)
            if step < stop:
                return grown(sampler, stage.fraction, recipe.patch_growth.keeps_voxels), min(stop, end)
    return sampler, schedule.num_steps


def stage_shares(growth: PatchGrowth, end: float = 1.0) -> list[tuple[float, float]]:
    """(share of the planned steps, fraction of the patch's edge) of every part of a training, the whole patch last.

    Args:
        growth: of the recipe.
        end: share of the steps after which the patch is whole in any case, since the cooldown begins.
    """
    ends = [0.0, *(min(stage.until, end) for stage in growth.stages), 1.0]
    fractions = [*(stage.fraction for stage in growth.stages), 1.0]
    return [(stop - start, f) for (start, stop), f in zip(pairwise(ends), fractions, strict=True) if stop > start]


def warn_of_idle_growth(sampler: Sampler, recipe: Recipe) -> None:
    """Tell the user of stages whose patch is the whole one, since the network's strides allow no smaller one."""
    growth = recipe.patch_growth
    idle = [s.fraction for s in growth.stages if grown(sampler, s.fraction, False).patch_zyx == sampler.patch_zyx]
    if idle:
        fractions = ", ".join(f"{fraction:g}" for fraction in idle)
        console.warn(
            f"recipe.patch_growth: {fractions} of the patch {sampler.patch_zyx} is the whole patch, since fewer than "
            f"{_SMALLEST} voxels would be left after the network's strides of {sampler.divisor_zyx}: nothing is saved."
        )


def grown(sampler: Sampler, fraction: float, keeps_voxels: bool) -> Sampler:
    """The sampler with a patch of `fraction` of the edge, in batches of at most as many voxels if `keeps_voxels`."""
    if fraction == 1:
        return sampler
    z, y, x = (
        _edge(whole, fraction, divisor) for whole, divisor in zip(sampler.patch_zyx, sampler.divisor_zyx, strict=True)
    )
    patch: IntTriple = (z, y, x)
    ratio = math.prod(sampler.patch_zyx) / math.prod(patch) if keeps_voxels else 1.0
    return replace(sampler, patch_zyx=patch, batch_size=max(sampler.batch_size, math.floor(sampler.batch_size * ratio)))


def _edge(whole: int, fraction: float, divisor: int) -> int:
    """The multiple of `divisor` nearest to the wanted edge, with some voxels left on the coarsest feature map."""
    wanted = round(whole * fraction / divisor) * divisor
    return max(wanted, min(whole, _SMALLEST * divisor))
