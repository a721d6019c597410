"""Loaded models and one case on their grids in, its logits or its segmentation on the file's own grid out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoseg.errors import ModelError
from autoseg.inference.export import (
    Disagreement,
    Labels,
    Probabilities,
    labels_from_probabilities,
    previous_stage_labels,
    slabs,
    to_native_disagreement,
    to_native_labels,
    to_native_probabilities,
)
from autoseg.inference.model import Model
from autoseg.inference.sliding_window import Answer, predict_logits, prediction_precision
from autoseg.records.plan import Plan
from autoseg.records.results import PreprocessedCase

Watch = Callable[[Sequence[Tensor], Sequence[Disagreement]], None]

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


def case_answer(model: Model, grids: Mapping[str, OnGrid], device: torch.device) -> Answer:
    """What all folds of a model together say about a case, on the grid of the model's configuration.

    Args:
        model: networks on `device`.
        grids: configuration -> the case prepared for it.
        device: where to compute.

    Raises:
        ModelError: the networks' values are not finite.
    """
    return _answer(model, model.networks, _input(model, grids, device), device)


def fold_answers(model: Model, grids: Mapping[str, OnGrid], device: torch.device) -> Iterator[Answer]:
    """What each fold of a model says alone, one after another; arguments and errors as for `case_answer`."""
    image = _input(model, grids, device)
    for network in model.networks:
        yield _answer(model, [network], image, device)


def _input(model: Model, grids: Mapping[str, OnGrid], device: torch.device) -> Tensor:
    """The case's image; for a cascade with the first stage's class numbers, which all its folds make together."""
    here, labels = grids[model.configuration], model.plan.labels
    if model.previous is None:
        return here.image
    earlier = grids[model.previous.configuration]
    logits = case_answer(model.previous, grids, device).logits
    probabilities = to_native_probabilities(logits, earlier.meta, labels)
    classes = previous_stage_labels(probabilities, earlier.meta, here.meta, labels)
    return torch.cat([here.image, torch.from_numpy(classes)[None].float()])


def _answer(model: Model, networks: Sequence[nn.Module], image: Tensor, device: torch.device) -> Answer:
    labels, settings = model.plan.labels, model.settings
    return predict_logits(
        networks,
        image,
        settings.patch_zyx,
        labels.num_heads,
        settings.recipe.mirroring,
        labels,
        device,
        precision=prediction_precision(settings.recipe, device),
        has_previous=model.previous is not None,
    )


def segment(
    models: Sequence[Model], grids: Mapping[str, OnGrid], device: torch.device, watch: Watch | None = None
) -> Labels:
    """Segmentation of one case by one model, or by the mean of several models' probabilities.

    Args:
        models: one a configuration.
        grids: configuration -> the case prepared for it.
        device: where to compute.
        watch: is shown the case slab by slab: the probabilities `H z y x` of each model, and the disagreement
            `z y x` (uint8, 255 for 1) of the mirrorings of each model that mirrors, on the crop box of the turned grid.

    Returns:
        `Z Y X` int16 internal class numbers on the grid of the image file.
    """
    labels = models[0].plan.labels
    metas = [grids[model.configuration].meta for model in models]
    if len(models) == 1:
        answer = case_answer(models[0], grids, device)
        if watch is None:
            return to_native_labels(answer.logits, metas[0], labels)
        show, apart = watch, _disagreement(answer, metas[0])
        return to_native_labels(
            answer.logits, metas[0], labels, lambda rows, slab: show([slab], [one[rows] for one in apart])
        )
    probabilities, apart = [], []
    for model, meta in zip(models, metas, strict=True):
        answer = case_answer(model, grids, device)
        probabilities.append(to_native_probabilities(answer.logits, meta, labels))
        apart += _disagreement(answer, meta) if watch is not None else []
    if watch is not None:
        show_slabs(probabilities, apart, watch)
    return labels_from_probabilities(probabilities, metas[0], labels)


def show_slabs(probabilities: Sequence[Probabilities], apart: Sequence[Disagreement], watch: Watch) -> None:
    """Show whole volumes, one of probabilities a model and one of disagreement a model that mirrors, slab by slab."""
    for rows in slabs(probabilities[0].shape):
        watch([torch.from_numpy(one[:, rows]) for one in probabilities], [one[rows] for one in apart])


def _disagreement(answer: Answer, meta: PreprocessedCase) -> list[Disagreement]:
    """Disagreement `z y x` on the crop box as it is stored out of fold, if there is one."""
    return [] if answer.disagreement is None else [to_native_disagreement(answer.disagreement, meta)]
