"""Loaded models and one case on their grids in, its logits or its segmentation on the file's own grid out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autoseg.errors import ModelError
from autoseg.inference.export import (
    Labels,
    labels_from_probabilities,
    previous_stage_labels,
    to_native_labels,
    to_native_probabilities,
)
from autoseg.inference.model import Model
from autoseg.inference.sliding_window import predict_logits, prediction_precision
from autoseg.records.plan import Plan
from autoseg.records.results import PreprocessedCase

_REMEDY = "The plan was changed between their trainings: train both with one plan, or predict with one of them alone."


@dataclass(frozen=True)
class OnGrid:
    """A case prepared for one configuration."""

    image: Tensor
    """`C Z Y X` float32, normalised and resampled."""
    meta: PreprocessedCase
    """How it came onto this grid."""


def needed_configurations(models: Sequence[Model]) -> tuple[tuple[str, Plan], ...]:
    """Configurations for which a case must be prepared: those of the models and of the stages before them.

    Returns:
        Each configuration once, with the plan of the model that needs it: plans are edited between trainings, so
        the models of an ensemble and the stages of a cascade may each have their own.

    Raises:
        ModelError: the models' plans differ in labels, channels, orientation or transpose, so that their answers
            cannot be joined; or two models need one configuration prepared in different ways.
    """
    stages: list[Model] = []
    for model in models:
        stage: Model | None = model
        while stage is not None:
            stages.append(stage)
            stage = stage.previous
    needed: dict[str, Model] = {}
    for stage in stages:
        other = _difference(stages[0].plan, stage.plan)
        if other is not None:
            raise ModelError(f"{stages[0].folders[0]} and {stage.folders[0]} differ in {other}. {_REMEDY}")
        known = needed.setdefault(stage.configuration, stage)
        if _preparation(known) != _preparation(stage):
            raise ModelError(
                f"{known.folders[0]} and {stage.folders[0]} want images prepared in different ways for "
                f"{stage.configuration}. {_REMEDY}"
            )
    return tuple((name, stage.plan) for name, stage in needed.items())


def _difference(first: Plan, second: Plan) -> str | None:
    """Name of a field that two plans must share to be used on one case, and do not."""
    names = ("labels", "channel_names", "orientation", "transpose")
    return next((name for name in names if getattr(first, name) != getattr(second, name)), None)


def _preparation(model: Model) -> object:
    """All of a plan that decides how an image is brought onto the grid of the model's configuration."""
    settings = model.settings
    intensities = model.plan.intensities if "ct" in settings.normalization else {}
    return settings.spacing_mm, settings.normalization, settings.use_mask_for_norm, intensities


def case_logits(model: Model, grids: Mapping[str, OnGrid], device: torch.device) -> Tensor:
    """Logits `H Z Y X` of one case on the grid of the model's configuration; a cascade's first stage comes first.

    Args:
        model: networks on `device`.
        grids: configuration -> the case prepared for it.
        device: where to compute.

    Raises:
        ModelError: the networks' values are not finite.
    """
    here, labels, settings = grids[model.configuration], model.plan.labels, model.settings
    image = here.image
    if model.previous is not None:
        earlier = grids[model.previous.configuration]
        probabilities = to_native_probabilities(case_logits(model.previous, grids, device), earlier.meta, labels)
        classes = previous_stage_labels(probabilities, earlier.meta, here.meta, labels)
        image = torch.cat([image, torch.from_numpy(classes)[None].float()])
    return predict_logits(
        model.networks,
        image,
        settings.patch_zyx,
        labels.num_heads,
        settings.recipe.mirroring,
        labels,
        device,
        precision=prediction_precision(settings.recipe, device),
        has_previous=model.previous is not None,
    )


def segment(models: Sequence[Model], grids: Mapping[str, OnGrid], device: torch.device) -> Labels:
    """Segmentation of one case by one model, or by the mean of several models' probabilities.

    Returns:
        `Z Y X` int16 internal class numbers on the grid of the image file.
    """
    labels = models[0].plan.labels
    if len(models) == 1:
        model = models[0]
        return to_native_labels(case_logits(model, grids, device), grids[model.configuration].meta, labels)
    metas = [grids[model.configuration].meta for model in models]
    probabilities = [
        to_native_probabilities(case_logits(model, grids, device), meta, labels)
        for model, meta in zip(models, metas, strict=True)
    ]
    return labels_from_probabilities(probabilities, metas[0], labels)
