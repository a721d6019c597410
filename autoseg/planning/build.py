"""A fingerprint, a dataset and a preset in, the plan out.

The order of decisions: axes, target spacing and median shape (`grids`); resolutions with patch, batch and network
(`stages`); normalisation; recipes. Only `presets` holds the numbers by which presets differ.
"""

import re

import numpy as np

from autoseg.errors import UsageError
from autoseg.planning.configurations import Demand, Stage
from autoseg.planning.grids import Grid, build_grid, knows_orientations
from autoseg.planning.normalization import choose_normalization
from autoseg.planning.presets import PRESETS, MemoryBudget, Orientation, Preset, VoxelBudget, resolve_preset
from autoseg.planning.recipes import plan_recipe
from autoseg.planning.spacing import as_triple
from autoseg.planning.stages import Stages, plan_stages
from autoseg.planning.step_cost import GIB, describe_need, need_of_configuration, usable_bytes
from autoseg.records.dataset import Dataset
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import PLAN_NAME, Configuration, ConfigurationName, Plan
from autoseg.records.recipe import Recipe


def make_plan(
    fingerprint: Fingerprint,
    dataset: Dataset,
    preset: str,
    *,
    name: str | None = None,
    gpu_memory_gib: float | None = None,
    device_kind: str = "cpu",
    orientation: Orientation | None = None,
    num_training: int | None = None,
) -> Plan:
    """Plan all configurations that the dataset needs.

    Args:
        fingerprint: measured by autoseg or by nnU-Net.
        dataset: channels and labels.
        preset: key of `PRESETS`, or `auto`.
        name: of the plan; the preset's by default.
        gpu_memory_gib: memory of the card to plan for; the preset's own by default.
        device_kind: `cpu` or `cuda`; decides what `auto` means.
        orientation: instead of the preset's.
        num_training: training cases, where `dataset` does not list them.

    Raises:
        UsageError: unknown preset, impossible name, or nothing fits into the memory.
        DataError: the fingerprint measures no case.
    """
    key = resolve_preset(preset, device_kind, gpu_memory_gib)
    if name is not None and not re.fullmatch(PLAN_NAME, name):
        raise UsageError(
            f"Plan name {name!r}: use up to 64 letters, digits, `.`, `_` and `-`, a letter or digit first."
        )
    rules = PRESETS[key]
    turned_to = orientation or rules.orientation
    reasons = dict(rules.reasons)
    if orientation is not None and orientation != rules.orientation:
        reasons["orientation"] = "set by hand"
    if turned_to == "canonical" and not knows_orientations(fingerprint):
        reasons["orientation"] = "the fingerprint holds no orientations: its axes were taken as canonical"
    grid = build_grid(fingerprint, turned_to, rules.first_axis, reasons)
    num_cases = num_training or dataset.num_training or len(fingerprint.spacings)
    demand = Demand(dataset.labels, num_cases, gpu_memory_gib, len(dataset.channel_names))
    stages = plan_stages(rules, demand, grid, reasons)
    recipes = _plan_recipes(rules, stages, dataset, fingerprint, turned_to, grid, reasons)
    configurations = _build_configurations(rules, stages, recipes, dataset, fingerprint)
    if isinstance(rules.budget, MemoryBudget):
        _explain_memory(rules.budget, demand, stages, configurations, reasons)
    return Plan(
        name=name or key,
        preset=key,
        dataset=dataset.name,
        channel_names=dataset.channel_names,
        labels=dataset.labels,
        orientation=turned_to,
        transpose=grid.transpose,
        intensities=fingerprint.foreground_intensity_properties_per_channel,
        original_median_spacing_mm=as_triple(np.median(grid.spacings_mm, axis=0)),
        configurations=configurations,
        reasons=reasons,
        planned_for=_planned_for(rules, gpu_memory_gib),
    )


def _plan_recipes(
    rules: Preset,
    stages: Stages,
    dataset: Dataset,
    fingerprint: Fingerprint,
    orientation: Orientation,
    grid: Grid,
    reasons: dict[str, str],
) -> dict[ConfigurationName, Recipe]:
    recipes: dict[ConfigurationName, Recipe] = {}
    for which, stage in stages.items():
        patch = stage.fitted.patch_size
        recipes[which], why = plan_recipe(rules, patch, dataset.labels, fingerprint, orientation, grid.transpose)
        if stage.fitted.recomputes:
            recipes[which] = recipes[which].model_copy(update={"recompute_activations": True})
            why["recompute_activations"] = "so that this card holds a patch nearer to that of the preset's own card"
        reasons.update({f"{which}.recipe.{field}": reason for field, reason in why.items()})
    return recipes


def _build_configurations(
    rules: Preset,
    stages: Stages,
    recipes: dict[ConfigurationName, Recipe],
    dataset: Dataset,
    fingerprint: Fingerprint,
) -> dict[ConfigurationName, Configuration]:
    schemes, masked = choose_normalization(dataset.channel_names, fingerprint.median_relative_size_after_cropping)

    def build(which: ConfigurationName, stage: Stage) -> Configuration:
        return Configuration(
            spacing_mm=tuple(float(s) for s in stage.spacing_mm),
            patch_size=stage.fitted.patch_size,
            batch_size=stage.fitted.batch_size,
            median_shape=as_triple(np.array([1.0, *stage.median_shape])[-3:]),
            normalization=schemes,
            use_mask_for_norm=masked,
            # nnU-Net: where patches are small against the image many lack a class, so the batch is taken as one.
            batch_dice=which == "2d" or (which != "3d_lowres" and "3d_lowres" in stages),
            network=stage.fitted.network,
            previous_stage="3d_lowres" if which == "3d_cascade_fullres" else None,
            tile_weights=rules.tile_weights,
            recipe=recipes[which],
        )

    return {which: build(which, stage) for which, stage in stages.items()}


def _explain_memory(
    budget: MemoryBudget,
    demand: Demand,
    stages: Stages,
    configurations: dict[ConfigurationName, Configuration],
    reasons: dict[str, str],
) -> None:
    """Write into `reasons` what each configuration needs, and what bounds its batch."""
    gib = budget.gib if demand.gpu_memory_gib is None else demand.gpu_memory_gib
    for which, settings in configurations.items():
        need = need_of_configuration(settings, demand.labels, demand.num_channels, "cuda")
        reasons[f"{which}.patch_size"] = (
            f"the largest of which two samples fit; {describe_need(need, gib)}; "
            f"{gib - usable_bytes(gib) / GIB:.1f} GiB are left to CUDA"
        )
        if stages[which].fitted.batch_limit:
            reasons[f"{which}.batch_size"] = stages[which].fitted.batch_limit


def _planned_for(rules: Preset, gpu_memory_gib: float | None) -> str:
    if isinstance(rules.budget, VoxelBudget):
        return "cpu"
    return f"cuda {rules.budget.gib if gpu_memory_gib is None else gpu_memory_gib:g} GiB"
