"""A model folder of ours in, a results folder that nnU-Net v2 predicts with out.

    <out>/plans.json, dataset.json, fold_<k>/checkpoint_final.pth

What nnU-Net has no step for is refused: other networks than its two U-Nets, classes exchanged in mirroring, a
distractor, labels that are not 0, 1, 2, ..., cascades that hand probabilities on. Images turned to R-A-S are no
obstacle: nnU-Net's reader `NibabelIOWithReorient` turns them likewise (where no axis is more than 45 degrees off).
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoseg import console
from autoseg.errors import UsageError
from autoseg.inference.model import WEIGHTS, load_model, read_fold
from autoseg.interop.export_folds import folds_to_export
from autoseg.interop.nnunet_names import nnunet_names, with_copies
from autoseg.interop.nnunet_plans import (
    ARCHITECTURES,
    NORMALIZATIONS,
    ORIENTATIONS,
    RESAMPLER,
    RESAMPLING,
    architecture_of,
)
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import Configuration, Plan
from autoseg.storage import tensors
from autoseg.storage.atomic import filled_folder

_TRAINER = "nnUNetTrainer"
_FILE_ENDING = ".nii.gz"


def export_nnunet(model: Path, output: Path) -> Path:
    """Write the folds of a model folder in nnU-Net's layout.

    Args:
        model: a folder or a zip, of which one configuration predicts.
        output: folder of the results; missing or empty.

    Returns:
        `output`, as `nnUNetv2_predict_from_modelfolder -m` takes it.

    Raises:
        UsageError: nnU-Net could not predict the same; every reason is named.
        ModelError: it is no model, or a file is damaged.
        ResourceError: the disk is full.
    """
    with folds_to_export(model, output) as folders:
        plan, trained = read_fold(folders[0])
        settings = plan.configurations[trained.configuration]  # type: ignore[index]
        if reasons := _obstacles(plan, settings):
            raise UsageError(f"{model} cannot be exported to nnU-Net: {'; '.join(reasons)}.")
        if settings.tile_weights != "nnunet":
            console.warn(
                "nnU-Net weights overlapping tiles around a point half a voxel off the middle: where an image has "
                "several tiles, a few voxels differ (docs/how-to/exchange_models.md: how many, and how to avoid it)."
            )
        load_model(folders, torch.device("cpu"))  # all folds are of one configuration, and their weights fit
        with filled_folder(output) as folder:
            _write_json(folder / "plans.json", _plans(plan, trained.configuration, settings))
            _write_json(folder / "dataset.json", _dataset(plan))
            for fold in folders:
                _, one = read_fold(fold)
                weights = tensors.load(fold / WEIGHTS)[0][WEIGHTS]
                content = _checkpoint(weights, settings, trained.configuration, one.fold, one.epochs)
                path = folder / f"fold_{one.fold}" / "checkpoint_final.pth"
                path.parent.mkdir()
                torch.save(content, path)
    return output


def _obstacles(plan: Plan, settings: Configuration) -> list[str]:
    """Everything that nnU-Net would do otherwise."""
    labels, mirroring = plan.labels, settings.recipe.mirroring
    single = labels.has_regions and all(len(region.members) == 1 for region in labels.regions)
    numbered = labels.class_values == tuple(range(labels.num_classes))
    found = {
        f"its network is {settings.network.architecture}, nnU-Net has {', '.join(ARCHITECTURES.values())}": (
            settings.network.architecture not in ARCHITECTURES.values()
        ),
        "it was trained with distractors, a class that nnU-Net would paint": settings.recipe.distractors is not None,
        "mirroring exchanges classes, which nnU-Net cannot; predict without the left-right axis first": (
            mirroring.in_prediction and bool(mirroring.swap_pairs)
        ),
        "it hands probabilities from stage to stage (previous_stage_as), nnU-Net labels": (
            settings.previous_stage is not None and settings.previous_stage_as != "labels"
        ),
        f"label values are {list(labels.class_values)}, nnU-Net's are 0, 1, 2, ...": (
            labels.class_values[0] != 0 if labels.has_regions else not numbered
        ),
        "every region is a single class, which nnU-Net reads as classes that exclude one another": single,
    }
    return [reason for reason, holds in found.items() if holds]


def _plans(plan: Plan, name: str, settings: Configuration) -> dict[str, Any]:
    reader = next(theirs for theirs, orientation in ORIENTATIONS.items() if orientation == plan.orientation)
    inverse = [plan.transpose.index(axis) for axis in range(3)]
    channels = range(len(plan.channel_names))
    known = {str(c): plan.intensities.get(str(c)) for c in channels}
    configurations = {name: _configuration(settings)}
    if settings.previous_stage is not None:
        configurations[name]["previous_stage"] = settings.previous_stage
    return {
        "dataset_name": plan.dataset,
        "plans_name": plan.name,
        "original_median_spacing_after_transp": list(plan.original_median_spacing_mm),
        "original_median_shape_after_transp": [round(n) for n in settings.median_shape],
        "image_reader_writer": reader,
        "transpose_forward": list(plan.transpose),
        "transpose_backward": inverse,
        "configurations": configurations,
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            channel: {} if values is None else values.model_dump() for channel, values in known.items()
        },
    }


def _configuration(settings: Configuration) -> dict[str, Any]:
    theirs = {ours: name for name, ours in NORMALIZATIONS.items()}
    content: dict[str, Any] = {
        "data_identifier": "autoseg",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": settings.batch_size,
        "patch_size": list(settings.patch_size),
        "median_image_size_in_voxels": list(settings.median_shape[-len(settings.patch_size) :]),
        "spacing": list(settings.spacing_mm),
        "normalization_schemes": [theirs[scheme] for scheme in settings.normalization],
        "use_mask_for_norm": list(settings.use_mask_for_norm),
        "batch_dice": settings.batch_dice,
        "architecture": architecture_of(settings),
    }
    for function, arguments in RESAMPLING.items():
        content |= {function: RESAMPLER, f"{function}_kwargs": arguments}
    return content


def _dataset(plan: Plan) -> dict[str, Any]:
    labels = plan.labels
    content: dict[str, Any] = {
        "name": plan.dataset,
        "channel_names": {str(number): name for number, name in enumerate(plan.channel_names)},
        "labels": _label_entries(labels),
        "numTraining": 0,
        "file_ending": _FILE_ENDING,
    }
    if labels.has_regions:
        content["regions_class_order"] = [labels.class_values[number] for number in labels.region_order]
    return content


def _label_entries(labels: LabelScheme) -> dict[str, int | list[int]]:
    entries: dict[str, int | list[int]] = {"background": 0}
    if labels.has_regions:
        entries |= {region.name: [labels.class_values[m] for m in region.members] for region in labels.regions}
    else:
        entries |= dict(zip(labels.class_names[1:], labels.class_values[1:], strict=True))
    if labels.ignore_value is not None:
        entries["ignore"] = max(labels.class_values) + 1  # nnU-Net's rule; nothing predicts it
    return entries


def _checkpoint(
    weights: dict[str, Tensor], settings: Configuration, configuration: str, fold: str, epochs: int
) -> dict[str, Any]:
    """What nnU-Net's predictor reads of a checkpoint; without an optimiser's state its training cannot go on."""
    names = nnunet_names(weights, settings.network)
    return {
        "network_weights": {copy: value for name, value in weights.items() for copy in with_copies(names[name])},
        "trainer_name": _TRAINER,
        "init_args": {"configuration": configuration, "fold": fold},
        "inference_allowed_mirroring_axes": _mirror_axes(settings),
        "current_epoch": epochs,
    }


def _mirror_axes(settings: Configuration) -> tuple[int, ...] | None:
    """Axes of the network's input; None for none, since nnU-Net fails on an empty list."""
    mirroring, offset = settings.recipe.mirroring, 3 - len(settings.patch_size)
    axes = tuple(axis - offset for axis in sorted(mirroring.axes) if axis >= offset and settings.patch_zyx[axis] > 1)
    return axes if mirroring.in_prediction and axes else None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1), "utf-8")
