"""A model folder in, a MONAI bundle out: its networks as TorchScript, its preparation as MONAI's own transforms.

    <out>/models/model.ts            images N C X Y Z in MONAI's order of axes in, logits N H X Y Z out, and metadata
    <out>/models/model.pt            the same weights as a state dictionary, which the bundle specification asks for
    <out>/configs/metadata.json      what goes in and out, in the bundle specification's words
    <out>/configs/inference.json     `python -m monai.bundle run --config_file configs/inference.json --bundle_root .`
    <out>/docs/README.md

The inference reads, normalises, resamples and blends as MONAI does: close to autoseg's, not the same to the voxel. A
2-D network is a window of one slice; of regions the masks are painted over one another. What MONAI has no transform for
(cropping to nonzero with masks, cascades) is refused.
"""

import importlib.metadata
import io
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoseg.errors import ModelError, UsageError
from autoseg.inference.model import Model, load_model
from autoseg.interop.export_folds import folds_to_export
from autoseg.interop.exportable_module import exportable_module
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import Configuration, Plan
from autoseg.storage.atomic import filled_folder
from autoseg.version import __version__

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
_MONAI = "1.4.0"  # the oldest that has all that the configuration uses
_TOLERANCE = 1e-3


class _MonaiAxes(nn.Module):
    """A network that takes `N C X Y Z` and turns it to the plan's `N C Z Y X` (transposed) inside."""

    def __init__(self, network: nn.Module, transpose: tuple[int, int, int]) -> None:
        super().__init__()
        self.network = network
        inward = [4 - axis for axis in transpose]  # array axis z y x of the plan -> axis of N C X Y Z
        self.inward = [0, 1, *inward]
        self.outward = [0, 1, *(2 + inward.index(axis) for axis in (2, 3, 4))]

    def forward(self, x: Tensor) -> Tensor:
        """Map `N C X Y Z` to `N H X Y Z`."""
        y: Tensor = self.network(x.permute(self.inward))
        return y.permute(self.outward)


def export_monai_bundle(model: Path, output: Path) -> Path:
    """Write all folds of a configuration as one bundle.

    Args:
        model: a folder or a zip, of which one configuration predicts.
        output: folder of the bundle; missing or empty.

    Returns:
        `output`.

    Raises:
        UsageError: MONAI's transforms cannot prepare images as the plan says; every reason is named.
        ModelError: it is no model, or a file is damaged.
        ResourceError: the disk is full.
    """
    with folds_to_export(model, output) as folders:
        loaded = load_model(folders, torch.device("cpu"))
    if reasons := _obstacles(loaded.plan, loaded.settings):
        raise UsageError(f"{model} cannot become a MONAI bundle: {'; '.join(reasons)}.")
    with filled_folder(output) as folder:
        for name in ("models", "configs", "docs"):
            (folder / name).mkdir()
        metadata = _metadata(loaded)
        _write_network(loaded, metadata, folder / "models")
        _write_json(folder / "configs" / "metadata.json", metadata)
        _write_json(folder / "configs" / "inference.json", _inference(loaded))
        (folder / "docs" / "README.md").write_text(_readme(loaded), "utf-8")
    return output


def _obstacles(plan: Plan, settings: Configuration) -> list[str]:
    found = {
        "it is a cascade, whose stages MONAI's inference cannot join; either stage can be exported with `autoseg "
        f"export torch` or `onnx`, and its {settings.previous_stage} as a bundle of its own": (
            settings.previous_stage is not None
        ),
        "it normalises inside a mask": any(settings.use_mask_for_norm),
        "its channels are normalised in different ways": len(set(settings.normalization)) > 1,
        f"its normalisation is {settings.normalization[0]}": settings.normalization[0] not in ("ct", "zscore", "none"),
        "it has several channels with intensities of their own": (
            settings.normalization[0] == "ct" and len(settings.normalization) > 1
        ),
        "its images are not turned to R-A-S (orientation stored), as MONAI's readers are": plan.orientation == "stored",
        f"label values {list(plan.labels.class_values)} are not 0, 1, 2, ...": (
            not plan.labels.has_regions and plan.labels.class_values != tuple(range(plan.labels.num_classes))
        ),
    }
    return [reason for reason, holds in found.items() if holds]


def _write_network(model: Model, metadata: dict[str, Any], folder: Path) -> None:
    path = folder / "model.ts"
    network = _MonaiAxes(exportable_module(model.networks), model.plan.transpose).eval().requires_grad_(False)
    channels = len(model.plan.channel_names)
    example = torch.randn((1, channels, *_patch_xyz(model)), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), warnings.catch_warnings():
        # The trace holds for one patch at a time, which is what the inference asks for.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, example)  # type: ignore[no-untyped-call]
        # The name under which `monai.bundle.load` looks for the metadata; without them it fails.
        _save_without_paths(traced, path, {"metadata.json": json.dumps(metadata)})
        other = example.flip(2) * 2 + 1
        found, expected = torch.jit.load(path)(other), network(other)  # type: ignore[no-untyped-call]
    if not float((found - expected).abs().max()) <= _TOLERANCE * float(expected.abs().max()):
        raise ModelError("The traced network gives other logits than the model; it was not written.")
    torch.save(dict(network.state_dict()), folder / "model.pt")


def _save_without_paths(network: torch.jit.ScriptModule, path: Path, beside: dict[str, str]) -> None:
    """Save a traced network without what is there for debugging: it names folders of this machine."""
    whole = io.BytesIO()
    torch.jit.save(network, whole, beside)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            if not name.endswith(".debug_pkl"):
                target.writestr(name, source.read(name))


def _patch_xyz(model: Model) -> list[int]:
    return [model.settings.patch_zyx[model.plan.transpose.index(axis)] for axis in (2, 1, 0)]


def _spacing_xyz(model: Model) -> list[float]:
    """Of the network's grid; -1, which keeps the image's own, across the slices of a 2-D network."""
    spacing_mm = (-1.0, *model.settings.spacing_mm)[-3:]
    return [spacing_mm[model.plan.transpose.index(axis)] for axis in (2, 1, 0)]


def _metadata(model: Model) -> dict[str, Any]:
    plan, labels = model.plan, model.plan.labels
    heads = [region.name for region in labels.regions] if labels.has_regions else labels.class_names
    patch = _patch_xyz(model)
    return {
        "schema": SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported by autoseg {__version__}"},
        "monai_version": _MONAI,
        "pytorch_version": importlib.metadata.version("torch").split("+")[0],
        "numpy_version": importlib.metadata.version("numpy"),
        "required_packages_version": {"nibabel": importlib.metadata.version("nibabel")},
        "name": f"{plan.dataset} {model.configuration}",
        "task": f"Segmentation of {', '.join(target.name for target in labels.targets)}",
        "description": f"{model.settings.network.architecture}, mean logits of {len(model.networks)} folds",
        "authors": "not stated",
        "copyright": "not stated",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": ", ".join(plan.channel_names),
                    "num_channels": len(plan.channel_names),
                    "spatial_shape": patch,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": {str(number): name for number, name in enumerate(plan.channel_names)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "classes" if labels.has_regions else "segmentation",
                    "num_channels": len(heads),
                    "spatial_shape": patch,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": {str(number): name for number, name in enumerate(heads)},
                }
            },
        },
    }


def _inference(model: Model) -> dict[str, Any]:
    """Images of `datalist` in, segmentations in `output_dir` out; needs MONAI and nibabel alone."""
    return {
        "imports": ["$import functools", "$import glob", "$import torch", "$import monai"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/segmentations'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "datalist": "$[{'image': name} for name in sorted(glob.glob(@dataset_dir + '/*.nii.gz'))]",
        "network_def": "$torch.jit.load(@bundle_root + '/models/model.ts', map_location=@device).eval()",
        "preprocessing": {"_target_": "Compose", "transforms": _transforms(model)},
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": _patch_xyz(model),
            "overlap": 0.5,
            "mode": "gaussian",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                    "nearest_interp": False,
                    "to_tensor": True,
                },
                *_deciding(model.plan.labels),
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_postfix": "",
                    "separate_folder": False,
                    "resample": False,
                },
            ],
        },
        "predict": "$lambda batch: {**batch, 'pred': @inferer(batch['image'].to(@device), @network_def)}",
        "finish": "$lambda batch: [@postprocessing(case) for case in monai.data.decollate_batch(batch)]",
        "run": ["$[@finish(@predict(batch)) for batch in @dataloader]"],
    }


def _deciding(labels: LabelScheme) -> list[dict[str, Any]]:
    """Logits to label values: the class of the largest, or each region's value where it is, later over earlier."""
    if not labels.has_regions:
        return [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}]
    values = [labels.class_values[number] for number in labels.region_order]
    paint = "lambda below, step: below * (1 - step[0]) + step[1] * step[0]"
    masks = f"zip(masks.split(1), {values})"
    return [
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
        {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
        {
            "_target_": "Lambdad",
            "keys": "pred",
            "func": f"$lambda masks: functools.reduce({paint}, {masks}, torch.zeros_like(masks[:1]))",
        },
    ]


def _transforms(model: Model) -> list[dict[str, Any]]:
    settings, plan = model.settings, model.plan
    steps: list[dict[str, Any]] = [
        {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
    ]
    if settings.normalization[0] == "ct":
        known = plan.intensities["0"]
        low, high = known.percentile_00_5, known.percentile_99_5
        clip = {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": low, "a_max": high, "clip": True}
        steps.append({**clip, "b_min": low, "b_max": high})
        steps.append(
            {"_target_": "NormalizeIntensityd", "keys": "image", "subtrahend": known.mean, "divisor": known.std}
        )
    if settings.normalization[0] == "zscore":
        steps.append({"_target_": "NormalizeIntensityd", "keys": "image", "channel_wise": True})
    spacing = {"_target_": "Spacingd", "keys": "image", "pixdim": _spacing_xyz(model), "mode": 3}
    return [*steps, {**spacing, "padding_mode": "nearest"}, {"_target_": "EnsureTyped", "keys": "image"}]


def _readme(model: Model) -> str:
    run = "python -m monai.bundle run --config_file configs/inference.json --bundle_root . --dataset_dir IMAGES"
    return (
        f"# {model.plan.dataset}, {model.configuration}\n\nExported by autoseg {__version__}. "
        f"Segment a folder of NIfTI images with\n\n    {run}\n\n"
        "MONAI prepares and blends a little differently from autoseg and does not mirror: segmentations are close to "
        "those of `autoseg predict`, not the same to the voxel.\n"
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1), "utf-8")
