"""A results folder as nnU-Net v2 writes it, made without nnU-Net: from one of our networks with random weights."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoseg.interop.nnunet_choice import INFORMATION
from autoseg.interop.nnunet_names import nnunet_names, with_copies
from autoseg.interop.nnunet_postprocessing import KEEP_LARGEST
from autoseg.networks.build import build_network
from autoseg.records.plan import NetworkSpec
from tests.differential import nnunet_models as nn


def results_folder(folder: Path, folds: tuple[str, ...] = ("0",), **changes: Any) -> Path:
    """`changes` replace fields of the one configuration, `3d_fullres`."""
    network = nn.architecture("PlainConvUNet", *nn.ISOTROPIC)
    settings = {**nn.configuration((1.0, 1.0, 1.0), (8, 8, 8), network), **changes}
    model = folder / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    model.mkdir(parents=True)
    (model / "plans.json").write_text(json.dumps(nn.plans({"3d_fullres": settings})))
    (model / "dataset.json").write_text(json.dumps(nn.dataset(nn.LABELS)))
    for seed, fold in enumerate(folds):
        (model / f"fold_{fold}").mkdir()
        torch.save(checkpoint(seed), model / f"fold_{fold}" / "checkpoint_final.pth")
    return model


def spec() -> NetworkSpec:
    strides, kernels = nn.ISOTROPIC
    return NetworkSpec(
        architecture="plain_unet", features_per_stage=(8, 12, 16), strides=strides, kernel_sizes=kernels,
        blocks_per_stage=(1, 2, 2), decoder_blocks_per_stage=(1, 2),
    )  # fmt: skip


def checkpoint(seed: int = 0) -> dict[str, Any]:
    """Everything that nnU-Net's trainer saves, numpy's numbers among it."""
    weights = build_network(spec(), 1, 3, seed).state_dict()
    names = nnunet_names(weights, spec())
    return {
        "network_weights": {copy: value for name, value in weights.items() for copy in with_copies(names[name])},
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {"train_losses": [np.float32(0.5)], "dice_per_class_or_region": [[np.float64(0.1)]], "lrs": [0.01]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 17,
        "init_args": {"configuration": "3d_fullres", "fold": 0, "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 2),
    }


def folder_name(configuration: str) -> str:
    return f"nnUNetTrainer__nnUNetPlans__{configuration}"


def write_choice(folder: Path, names: Sequence[str], folds: Sequence[int], *steps: Any) -> Path:
    """As `nnUNetv2_find_best_configuration` leaves it; post-processing of an ensemble only where there are `steps`."""
    models = [{"configuration": n, "trainer": "nnUNetTrainer", "plans_identifier": "nnUNetPlans"} for n in names]
    best = {"result_on_crossval_pre_pp": 0.5, "postprocessing_file": "x.pkl", "selected_model_or_models": models}
    content = {"folds": folds, "dataset_name_or_id": 901, "best_model_or_ensemble": best}
    folder.mkdir(exist_ok=True)
    (folder / INFORMATION).write_text(json.dumps(content))
    if steps:
        ensemble = "___".join(["ensemble", *map(folder_name, names), "_".join(map(str, folds))])
        (folder / "ensembles" / ensemble).mkdir(parents=True)
        rule = {
            "postprocessing_fns": [KEEP_LARGEST] * len(steps),
            "postprocessing_kwargs": [{"labels_or_regions": step} for step in steps],
        }
        (folder / "ensembles" / ensemble / "postprocessing.json").write_text(json.dumps(rule))
    return folder / INFORMATION
