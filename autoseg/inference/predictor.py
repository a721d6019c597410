"""Loaded models and one case on their grids in, its segmentation on the file's own grid out, window by window.

Networks make the windows, one after another along z (`case_windows`); `segmentation` resamples and decides them. The
two may run in different threads: nothing else passes between them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoseg.errors import ModelError
from autoseg.inference.cascade_labels import native_labels_on_grid
from autoseg.inference.export import (
    Disagreement,
    Labels,
    blank_labels,
    crop_shape,
    head_values,
    mean_to_labels,
    native_windows,
    previous_stage_labels,
    probability_depth,
    to_disagreement,
    to_probabilities,
)
from autoseg.inference.labelling import logits_to_labels, logits_to_labels_into
from autoseg.inference.model import Model, with_previous
from autoseg.inference.padding import PaddedImage
from autoseg.inference.sliding_window import configured_window, predict_rows
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import Plan
from autoseg.records.results import PreprocessedCase
from autoseg.spatial.linear import Window
from autoseg.spatial.workers import Workers

Watch = Callable[[Sequence[Tensor], Sequence[Disagreement]], None]
Windows = tuple[Window, ...]
"""The same rows of the crop box in the answers of several networks."""

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


def network_rows(
    model: Model, networks: Sequence[nn.Module], image: Tensor | PaddedImage, device: torch.device
) -> Iterator[Tensor]:
    """Mean logits of some of a model's networks of an image (`network_input`), rows as `predict_rows` yields."""
    has_previous = model.previous is not None
    window = configured_window(model.settings, model.plan.labels, device, has_previous=has_previous, step=model.step)
    return predict_rows(networks, image, window, device)


def network_input(model: Model, grids: Mapping[str, OnGrid], device: torch.device) -> Tensor:
    """The case's image; for a cascade with the first stage's class numbers, which all its folds make together.

    Raises:
        ModelError: the first stage's values are not finite.
    """
    here, labels = grids[model.configuration], model.plan.labels
    if model.previous is None:
        return here.image
    if model.settings.previous_stage_as == "labels":
        found = native_labels_on_grid(segment([model.previous], grids, device), here.meta)
        return with_previous(here.image, found)
    earlier = grids[model.previous.configuration].meta
    depth = probability_depth(labels.num_heads, crop_shape(earlier))
    rows = network_rows(model.previous, model.previous.networks, network_input(model.previous, grids, device), device)
    windows = native_windows(rows, earlier, depth)
    probabilities = (to_probabilities(head_values(window, labels.num_heads), labels) for window in windows)
    classes = previous_stage_labels(probabilities, earlier, here.meta, labels)
    return with_previous(here.image, classes)


def case_windows(
    models: Sequence[Model], grids: Mapping[str, OnGrid], device: torch.device, whole: bool = False
) -> Iterator[Windows]:
    """Logits of models for one case, of each the mean of its folds.

    Args:
        models: one a configuration, networks on `device`.
        grids: configuration -> the case prepared for it.
        device: where to compute.
        whole: whether all heads of a window are wanted at a time, as probabilities are; so they are for several models.

    Yields:
        Of each model the window of the same rows, one after another along z.

    Raises:
        ModelError: the networks' values are not finite.
        MemoryError: not even the rows being summed fit into the memory.
    """
    metas = [grids[model.configuration].meta for model in models]
    num_heads = models[0].plan.labels.num_heads
    depth = probability_depth(num_heads, crop_shape(metas[0])) if whole or len(models) > 1 else None
    streams = []
    for model, meta in zip(models, metas, strict=True):
        rows = network_rows(model, model.networks, network_input(model, grids, device), device)
        streams.append(native_windows(rows, meta, depth))
    return zip(*streams, strict=True)


def segmentation(
    windows: Iterable[Windows], meta: PreprocessedCase, labels: LabelScheme, watch: Watch | None = None
) -> Labels:
    """Segmentation of one case by one model, or by the mean of several models' probabilities.

    Args:
        windows: as `case_windows` yields them, `whole` where there is a `watch`.
        meta: of any of the models (they share the crop and the turn).
        labels: scheme of the heads.
        watch: is shown the case window by window: the probabilities `H z y x` (float16) of each model, and the
            disagreement `z y x` (uint8, 255 for 1) of the mirrorings of each model that mirrors.

    Returns:
        `Z Y X` int16 internal class numbers on the grid of the image file.
    """
    native, cropped = blank_labels(meta)
    with Workers() as workers:
        for together in windows:
            if len(together) == 1 and watch is None:
                logits_to_labels_into(cropped, together[0], labels, 0.0, workers)
                continue
            logits = [head_values(window, labels.num_heads) for window in together]
            probabilities = [to_probabilities(values, labels) for values in logits]
            if watch is not None:
                apart = [to_disagreement(window, labels.num_heads) for window in together]
                watch(probabilities, [one for one in apart if one is not None])
            is_one = len(together) == 1
            classes = (
                logits_to_labels(logits[0], labels, threshold=0.0) if is_one else mean_to_labels(probabilities, labels)
            )
            cropped[together[0].where] = classes.cpu().numpy()
    return native


def segment(
    models: Sequence[Model], grids: Mapping[str, OnGrid], device: torch.device, watch: Watch | None = None
) -> Labels:
    """Segmentation of one case, networks and export in turn: `case_windows` and `segmentation` say the arguments."""
    meta, labels = grids[models[0].configuration].meta, models[0].plan.labels
    return segmentation(case_windows(models, grids, device, whole=watch is not None), meta, labels, watch)
