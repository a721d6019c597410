"""nnU-Net's plans.json and dataset.json in, our plan out; or a clear reason why we could not predict the same.

Everything that decides a prediction is compared with what we do exactly as nnU-Net does: the network's class (a fixed
table, nothing is imported by name), its parts, the preprocessor, the resampling functions, the normalisation and the
image reader. Anything else is refused rather than approximated.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from autoseg.datasets.description import parse_channels, parse_labels
from autoseg.datasets.findings import Finding, raise_faults
from autoseg.errors import DataError, ModelError
from autoseg.interop.checkpoints import CheckpointFacts
from autoseg.records.base import parse_record
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import Configuration, ConfigurationName, Plan

ARCHITECTURES = {"PlainConvUNet": "plain_unet", "ResidualEncoderUNet": "residual_unet"}
"""Last part of nnU-Net's `network_class_name` -> ours."""
NORMALIZATIONS = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale",
    "RGBTo01Normalization": "rgb",
}
ORIENTATIONS: dict[str, Literal["canonical", "stored"]] = {
    "SimpleITKIO": "stored",
    "NibabelIO": "stored",
    "NaturalImage2DIO": "stored",
    "Tiff3DIO": "stored",
    "NibabelIOWithReorient": "canonical",
}
"""nnU-Net's reader -> whether arrays come as stored or turned to R-A-S, as our `canonical` does."""
RESAMPLING = {
    "resampling_fn_data": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "resampling_fn_seg": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    "resampling_fn_probabilities": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
}
"""Function -> the arguments that our resampling equals, of `resample_data_or_seg_to_shape`."""
RESAMPLER = "resample_data_or_seg_to_shape"

_NETWORK_FIELDS = {
    "n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "n_conv_per_stage", "n_blocks_per_stage",
    "n_conv_per_stage_decoder", "conv_bias", "norm_op", "norm_op_kwargs", "dropout_op", "dropout_op_kwargs", "nonlin",
    "nonlin_kwargs", "deep_supervision", "nonlin_first",
}  # fmt: skip


def import_plan(
    plans: Mapping[str, Any], dataset: dict[str, Any], facts: CheckpointFacts, where: Path, name: str | None = None
) -> tuple[Plan, ConfigurationName]:
    """The plan of one trained configuration.

    Args:
        plans: content of `plans.json`.
        dataset: content of `dataset.json`.
        facts: of the folder's first checkpoint.
        where: the model's folder, for messages.
        name: of the plan; default: nnU-Net's.

    Returns:
        A plan with that configuration alone, and its name among ours.

    Raises:
        ModelError: something in it is not nnU-Net's own, or is missing.
    """
    try:
        settings = resolved(plans["configurations"], facts.configuration)
        ours = _our_name(facts.configuration, settings)
        reader = str(plans["image_reader_writer"])
        if reader not in ORIENTATIONS:
            raise ModelError(f"image_reader_writer {reader} is not nnU-Net's own; known are {', '.join(ORIENTATIONS)}")
        intensities = plans.get("foreground_intensity_properties_per_channel") or plans.get(
            "foreground_intensity_properties_by_modality", {}
        )
        content = {
            "name": name or re.sub(r"[^A-Za-z0-9._-]", "_", str(plans["plans_name"]))[:64],
            "preset": "imported",
            "dataset": str(plans["dataset_name"]),
            **_labels_and_channels(dataset, where),
            "orientation": ORIENTATIONS[reader],
            "transpose": plans["transpose_forward"],
            "intensities": _intensities(intensities, settings["normalization_schemes"]),
            "original_median_spacing_mm": plans["original_median_spacing_after_transp"],
            "configurations": {ours: _configuration(settings, facts)},
            "reasons": {"source": f"nnU-Net: {facts.trainer}, {plans['plans_name']}, {facts.configuration}"},
        }
        json.dumps(content, allow_nan=False)  # Python's reader takes NaN and 1e999, which no plan can have
    except ModelError as error:
        raise ModelError(f"{where} cannot be imported: {error}.") from error
    except KeyError as error:
        raise ModelError(f"{where} cannot be imported: its plans.json has no {error}.") from error
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise ModelError(f"{where} cannot be imported: its plans.json is not as nnU-Net writes it: {error}.") from error
    return parse_record(content, Plan, str(where / "plans.json"), ModelError), ours


def resolved(configurations: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration with what it inherits from others; raises ModelError when they inherit in a circle."""
    chain: list[str] = []
    link: str | None = name
    while link is not None:
        if link in chain:
            raise ModelError(f"configurations {', '.join(chain)} inherit from one another in a circle")
        if link not in configurations:
            raise ModelError(f"plans.json has no configuration {link!r}")
        chain.append(link)
        link = configurations[link].get("inherits_from")
    merged: dict[str, Any] = {}
    for known in reversed(chain):
        merged.update(configurations[known])
    return merged


def _our_name(theirs: str, settings: Mapping[str, Any]) -> ConfigurationName:
    """Ours for a configuration by what it is: names such as `3d_fullres_bs4` are free there."""
    if settings.get("previous_stage"):
        return "3d_cascade_fullres"
    if len(settings["patch_size"]) == 2:
        return "2d"
    known = get_args(ConfigurationName)
    if theirs in known:
        return theirs  # type: ignore[return-value]
    return "3d_lowres" if "lowres" in theirs else "3d_fullres"


def _intensities(given: Mapping[str, Any], schemes: Sequence[str]) -> dict[str, Any]:
    """Of the channels that have them: nnU-Net leaves NaN, or nothing, where no foreground was measured."""
    known = {str(key): value for key, value in given.items() if value and all(map(math.isfinite, value.values()))}
    for channel, scheme in enumerate(schemes):
        if scheme == "CTNormalization" and str(channel) not in known:
            raise ModelError(f"channel {channel} has CTNormalization and no intensities in plans.json")
    return known


def _labels_and_channels(dataset: dict[str, Any], where: Path) -> dict[str, Any]:
    findings: list[Finding] = []
    given = dict(dataset)
    labels = given.get("labels")
    if isinstance(labels, dict) and not any(isinstance(v, list) and len(v) > 1 for v in labels.values()):
        # nnU-Net counts lists of one value as plain labels where there is no list of several.
        given["labels"] = {k: v[0] if isinstance(v, list) and v else v for k, v in labels.items()}
    channels, scheme = parse_channels(given, findings), parse_labels(given, findings)
    try:
        raise_faults(findings, str(where / "dataset.json"))
    except DataError as error:
        raise ModelError(str(error)) from error
    assert scheme is not None, "labels are missing without a fault"
    _check_consecutive(scheme)
    return {"channel_names": channels, "labels": scheme.model_dump()}


def _check_consecutive(scheme: LabelScheme) -> None:
    if not scheme.has_regions and scheme.class_values != tuple(range(scheme.num_classes)):
        raise ModelError(f"labels have the values {list(scheme.class_values)}; nnU-Net numbers them 0, 1, 2, ...")


def _configuration(settings: Mapping[str, Any], facts: CheckpointFacts) -> dict[str, Any]:
    _check_preprocessing(settings)
    patch: Sequence[int] = settings["patch_size"]
    schemes = settings["normalization_schemes"]
    if unknown := [scheme for scheme in schemes if scheme not in NORMALIZATIONS]:
        raise ModelError(
            f"normalisation {', '.join(unknown)} is not nnU-Net's own; known are {', '.join(NORMALIZATIONS)}"
        )
    offset = 3 - len(patch)
    previous = settings.get("previous_stage")
    return {
        "spacing_mm": settings["spacing"],
        "patch_size": patch,
        "batch_size": settings.get("batch_size", 2),
        "median_shape": (1, *settings.get("median_image_size_in_voxels", patch))[-3:],
        "normalization": [NORMALIZATIONS[scheme] for scheme in schemes],
        "use_mask_for_norm": settings["use_mask_for_norm"],
        "batch_dice": settings.get("batch_dice", False),
        "network": network_spec(settings, len(patch)),
        "previous_stage": "3d_lowres" if previous else None,
        "previous_stage_as": "labels" if previous else "probabilities",
        "tile_weights": "nnunet",
        "recipe": {"mirroring": {"axes": [axis + offset for axis in facts.mirror_axes]}},
    }


def _check_preprocessing(settings: Mapping[str, Any]) -> None:
    if (preprocessor := settings.get("preprocessor_name", "DefaultPreprocessor")) != "DefaultPreprocessor":
        raise ModelError(f"preprocessor {preprocessor} is not nnU-Net's default one")
    for field, expected in RESAMPLING.items():
        function = settings.get(field, RESAMPLER)
        arguments = {**expected, **settings.get(f"{field}_kwargs", {})}
        if function != RESAMPLER or arguments != expected:
            raise ModelError(f"{field} is {function} with {arguments}; only {RESAMPLER} with {expected} is known")


def network_spec(settings: Mapping[str, Any], dims: int) -> dict[str, Any]:
    """Fields of our `NetworkSpec`; raises ModelError for a network that is not nnU-Net's plain or residual U-Net."""
    if "architecture" not in settings:
        return _older_network_spec(settings)
    class_name = str(settings["architecture"]["network_class_name"])
    architecture = ARCHITECTURES.get(class_name.rsplit(".", 1)[-1])
    if architecture is None or not class_name.startswith("dynamic_network_architectures."):
        raise ModelError(f"network class {class_name} is not in the table of known ones ({', '.join(ARCHITECTURES)})")
    parts = settings["architecture"]["arch_kwargs"]
    _check_parts(parts, dims)
    count = len(parts["features_per_stage"])
    blocks = parts["n_conv_per_stage" if architecture == "plain_unet" else "n_blocks_per_stage"]
    return {
        "architecture": architecture,
        "features_per_stage": parts["features_per_stage"],
        "strides": parts["strides"],
        "kernel_sizes": parts["kernel_sizes"],
        "blocks_per_stage": _each(blocks, count),
        # Theirs are listed from the coarsest stage.
        "decoder_blocks_per_stage": _each(parts["n_conv_per_stage_decoder"], count - 1)[::-1],
    }


def _older_network_spec(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same from plans of nnU-Net before 2.4, which have no `architecture`."""
    architecture = ARCHITECTURES.get(str(settings["UNet_class_name"]))
    if architecture is None:
        raise ModelError(f"network class {settings['UNet_class_name']} is not known ({', '.join(ARCHITECTURES)})")
    blocks = settings["n_conv_per_stage_encoder"]
    base, most = settings["UNet_base_num_features"], settings["unet_max_num_features"]
    return {
        "architecture": architecture,
        "features_per_stage": [min(base * 2**stage, most) for stage in range(len(blocks))],
        "strides": settings["pool_op_kernel_sizes"],
        "kernel_sizes": settings["conv_kernel_sizes"],
        "blocks_per_stage": blocks,
        "decoder_blocks_per_stage": settings["n_conv_per_stage_decoder"][::-1],
    }


def _check_parts(parts: Mapping[str, Any], dims: int) -> None:
    """Raise ModelError unless convolutions, norms and activations are those that our U-Nets are made of."""
    if unknown := sorted(set(parts) - _NETWORK_FIELDS):
        raise ModelError(f"the network has settings that are not known: {', '.join(unknown)}")
    slope = (parts.get("nonlin_kwargs") or {}).get("negative_slope", 0.01)
    norm = {"eps": 1e-5, "affine": False, **(parts.get("norm_op_kwargs") or {})}
    wrong = {
        "conv_op": not str(parts["conv_op"]).endswith(f".Conv{dims}d"),
        "conv_bias": parts["conv_bias"] is not True,
        "norm_op": not str(parts["norm_op"]).endswith(f".InstanceNorm{dims}d"),
        "norm_op_kwargs": norm != {"eps": 1e-5, "affine": True},
        "dropout_op": parts.get("dropout_op") is not None,
        "nonlin": not str(parts["nonlin"]).endswith(".LeakyReLU"),
        "nonlin_kwargs": slope != 0.01,
        "nonlin_first": bool(parts.get("nonlin_first", False)),
    }
    if found := [f"{field} {parts.get(field)}" for field, is_wrong in wrong.items() if is_wrong]:
        raise ModelError(f"the network is not made as nnU-Net's own: {', '.join(found)}")


def _each(value: int | Sequence[int], count: int) -> list[int]:
    return [value] * count if isinstance(value, int) else list(value)


def architecture_of(settings: Configuration) -> dict[str, Any]:
    """nnU-Net's `architecture` of a configuration whose network is in the table: `network_spec` undone."""
    network, dims = settings.network, len(settings.patch_size)
    classes = {ours: theirs for theirs, ours in ARCHITECTURES.items()}
    blocks = "n_conv_per_stage" if network.architecture == "plain_unet" else "n_blocks_per_stage"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{classes[network.architecture]}",
        "arch_kwargs": {
            "n_stages": len(network.features_per_stage),
            "features_per_stage": list(network.features_per_stage),
            "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
            "kernel_sizes": [list(kernel) for kernel in network.kernel_sizes],
            "strides": [list(stride) for stride in network.strides],
            blocks: list(network.blocks_per_stage),
            "n_conv_per_stage_decoder": list(network.decoder_blocks_per_stage[::-1]),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
