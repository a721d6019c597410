"""A trained model's plan and another dataset in, a plan for that dataset with the model's networks out.

For fine-tuning: what the weights mean something for is the model's (network, patch, batch, spacing, orientation, order
of axes, normalisation of channels of the same name, and how it is trained); what the dataset decides is planned by the
rules of the model's preset (labels, sampling and loss for its classes, mirroring of its left and right, median shapes).
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from autoseg.errors import UsageError
from autoseg.planning.grids import Grid, build_grid
from autoseg.planning.normalization import choose_normalization
from autoseg.planning.presets import PRESETS, Preset
from autoseg.planning.recipes import plan_recipe
from autoseg.planning.spacing import as_triple
from autoseg.records.dataset import Dataset
from autoseg.records.fine_tuning import matching_names
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Configuration, ConfigurationName, Plan
from autoseg.records.recipe import Recipe

Item = TypeVar("Item")

_DATASETS_OWN = ("loss", "sampling", "mirroring", "distractors")
"""Fields of a recipe that depend on labels."""


def plan_like(
    model: Plan, configuration: ConfigurationName, fingerprint: Fingerprint, dataset: Dataset, name: str
) -> Plan:
    """Plan a dataset so that the weights of a model fit.

    Args:
        model: plan that the model was trained with.
        configuration: that was trained; of one with distractors its base is planned, of a cascade both stages.
        fingerprint: of the dataset.
        dataset: its labels and channels.
        name: of the plan.

    Raises:
        UsageError: the model's preset is unknown here, or its networks see volumes where the dataset has slices.
    """
    if model.preset not in PRESETS:
        raise UsageError(f"The model was planned by the preset {model.preset!r}, which this autoseg does not know.")
    rules = PRESETS[model.preset]
    settings = model.configurations[configuration]
    if settings.recipe.distractors is not None:
        base = settings.recipe.distractors.base
        configuration = next(key for key in model.configurations if key == base)
        settings = model.configurations[configuration]
    wanted = [stage for stage in (settings.previous_stage, configuration) if stage is not None]
    grid = _on_axes_of(model, build_grid(fingerprint, model.orientation, rules.first_axis, {}))
    sources = matching_names(model.channel_names, dataset.channel_names)
    reasons = {"all": f"as in plan {model.name} of {model.dataset}, whose {configuration} is to be fine-tuned"}
    configurations = {}
    for which in wanted:
        recipe, why = _recipe(rules, model, model.configurations[which], dataset, fingerprint)
        reasons.update({f"{which}.recipe.{field}": reason for field, reason in why.items()})
        configurations[which] = _configuration(model.configurations[which], grid, sources, dataset, fingerprint, recipe)
    measured = fingerprint.foreground_intensity_properties_per_channel
    known = {str(new): model.intensities.get(str(old)) for new, old in enumerate(sources) if old is not None}
    return Plan(
        name=name,
        preset=model.preset,
        dataset=dataset.name,
        channel_names=dataset.channel_names,
        labels=dataset.labels,
        orientation=model.orientation,
        transpose=model.transpose,
        intensities={channel: known.get(channel) or values for channel, values in measured.items()},
        original_median_spacing_mm=as_triple(np.median(grid.spacings_mm, axis=0)),
        configurations=configurations,
        reasons=reasons,
        planned_for=model.planned_for,
    )


def _on_axes_of(model: Plan, grid: Grid) -> Grid:
    """The grid with its axes in the model's order."""
    columns = [grid.transpose.index(axis) for axis in model.transpose]
    return Grid(grid.spacings_mm[:, columns], grid.shapes[:, columns], grid.target_mm[columns], model.transpose)


def _recipe(
    rules: Preset, model: Plan, settings: Configuration, dataset: Dataset, fingerprint: Fingerprint
) -> tuple[Recipe, dict[str, str]]:
    """The model's recipe with what labels decide planned for this dataset."""
    planned, why = plan_recipe(
        rules, settings.patch_size, dataset.labels, fingerprint, model.orientation, model.transpose
    )
    own = {field: getattr(planned, field) for field in _DATASETS_OWN}
    return settings.recipe.model_copy(update=own), {field: why[field] for field in why if field in _DATASETS_OWN}


def _configuration(
    known: Configuration,
    grid: Grid,
    sources: Sequence[int | None],
    dataset: Dataset,
    fingerprint: Fingerprint,
    recipe: Recipe,
) -> Configuration:
    shape = grid.median_shape(np.array(known.spacing_mm))
    if not known.is_2d and grid.median_shape(grid.target_mm)[0] == 1:
        raise UsageError(f"{dataset.name} has single slices, and the model sees volumes: name a 2d model.")
    schemes, masked = choose_normalization(dataset.channel_names, fingerprint.median_relative_size_after_cropping)
    changes = {
        "median_shape": as_triple(np.array([1.0, *shape])[-3:]),
        "normalization": _of_channels(known.normalization, schemes, sources),
        "use_mask_for_norm": _of_channels(known.use_mask_for_norm, masked, sources),
        "recipe": recipe,
        "previous_stage_as": "probabilities",  # what a training here learns from, whatever the model's own stages pass
    }
    return Configuration.model_validate({**dict(known), **changes})


def _of_channels(known: Sequence[Item], fresh: Sequence[Item], sources: Sequence[int | None]) -> tuple[Item, ...]:
    """The model's value for channels that it has, a fresh one for the others."""
    return tuple(fresh[new] if old is None else known[old] for new, old in enumerate(sources))
