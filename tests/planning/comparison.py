"""nnU-Net's plans and ours brought to one form, so that tests can compare every field that must agree."""

from typing import Any

from autoseg.records.dataset import Dataset
from autoseg.records.fingerprint import Fingerprint, IntensityStatistics
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import Plan

SCHEMES = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale",
    "RGBTo01Normalization": "rgb",
}


def dataset_of(dataset_json: dict[str, Any]) -> Dataset:
    """A dataset without files; the labels' values play no part in planning, their number does."""
    count = len(dataset_json["labels"])
    names = dataset_json.get("channel_names") or dataset_json["modality"]
    return Dataset(
        name="Peer",
        root="/nowhere",
        layout="nnunet",
        channel_names=tuple(names.values()),
        labels=LabelScheme(
            class_names=tuple(f"class {i}" for i in range(max(count, 2))),
            class_values=tuple(range(max(count, 2))),
            num_entries=count,
        ),
        file_ending=".nii.gz",
        training=(),
    )


def fingerprint_of(content: dict[str, Any]) -> Fingerprint:
    """nnU-Net's fingerprint as our record."""
    return Fingerprint.model_validate(content)


def statistics() -> IntensityStatistics:
    """Any intensities."""
    return IntensityStatistics(mean=1, median=1, std=1, min=0, max=2, percentile_00_5=0, percentile_99_5=2)


def ours(plan: Plan) -> dict[str, Any]:
    """The fields that must agree, by configuration."""
    found = {}
    for name, c in plan.configurations.items():
        found[str(name)] = {
            "spacing": list(c.spacing_mm),
            "patch_size": list(c.patch_size),
            "batch_size": c.batch_size,
            "median_shape": list(c.median_shape),
            "normalization": list(c.normalization),
            "use_mask_for_norm": list(c.use_mask_for_norm),
            "batch_dice": c.batch_dice,
            "strides": [list(s) for s in c.network.strides],
            "kernel_sizes": [list(k) for k in c.network.kernel_sizes],
            "features": list(c.network.features_per_stage),
            "blocks": list(c.network.blocks_per_stage),
            "decoder_blocks": list(c.network.decoder_blocks_per_stage),
            "residual": c.network.architecture == "residual_unet",
            "previous_stage": c.previous_stage,
        }
    return {"transpose": list(plan.transpose), "configurations": found}


def theirs(plans: dict[str, Any]) -> dict[str, Any]:
    """The same from nnU-Net's plans.json, or from the reference file, which flattens the network."""
    raw = plans["configurations"]
    found = {}
    for name, own in raw.items():
        c = {**raw[own["inherits_from"]], **own} if "inherits_from" in own else own
        network = c["architecture"]["arch_kwargs"] if "architecture" in c else c
        blocks = next(network[k] for k in ("n_conv_per_stage", "n_blocks_per_stage", "blocks") if k in network)
        decoder = next(network[k] for k in ("n_conv_per_stage_decoder", "decoder_convs") if k in network)
        class_name = c["architecture"]["network_class_name"] if "architecture" in c else c["network"]
        found[name] = {
            "spacing": c["spacing"],
            "patch_size": c["patch_size"],
            "batch_size": c["batch_size"],
            "median_shape": [float(v) for v in [1, *c["median_image_size_in_voxels"]][-3:]],
            "normalization": [SCHEMES[s] for s in c["normalization_schemes"]],
            "use_mask_for_norm": c["use_mask_for_norm"],
            "batch_dice": c["batch_dice"],
            "strides": network["strides"],
            "kernel_sizes": network["kernel_sizes"],
            "features": network["features_per_stage"],
            "blocks": blocks,
            "decoder_blocks": decoder,
            "residual": "ResidualEncoderUNet" in class_name,
            "previous_stage": c.get("previous_stage"),
        }
    return {"transpose": plans["transpose_forward"], "configurations": found}
