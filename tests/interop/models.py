"""Model folders of ours with random weights, made without training."""

from pathlib import Path
from typing import Any

import torch

from autoseg.inference.model import WEIGHTS, new_network
from autoseg.networks.norm import InstanceNorm
from autoseg.records.base import write_record
from autoseg.records.labels import LabelScheme, Target
from autoseg.records.plan import Configuration, NetworkSpec, Plan
from autoseg.records.recipe import Mirroring, Recipe
from autoseg.records.results import TrainedFold
from autoseg.storage import tensors

PLAIN = NetworkSpec(
    architecture="plain_unet",
    features_per_stage=(6, 10, 12),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    blocks_per_stage=(1, 2, 2),
    decoder_blocks_per_stage=(2, 1),
)
RESIDUAL = PLAIN.model_copy(update={"architecture": "residual_unet"})
FLAT = NetworkSpec(
    architecture="residual_unet",
    features_per_stage=(6, 8),
    strides=((1, 1), (2, 2)),
    kernel_sizes=((3, 3), (3, 3)),
    blocks_per_stage=(1, 2),
    decoder_blocks_per_stage=(1,),
)
REGIONS = LabelScheme(
    class_names=("background", "shell", "rim", "core"),
    class_values=(0, 1, 2, 4),
    regions=(
        Target(name="whole", members=(1, 2, 3)),
        Target(name="inner", members=(2, 3)),
        Target(name="core", members=(3,)),
    ),
    region_order=(1, 2, 3),
    num_entries=4,
)
LABELS = LabelScheme(class_names=("background", "organ", "tumour"), class_values=(0, 1, 2), num_entries=3)


def model_folder(folder: Path, spec: NetworkSpec = PLAIN, folds: int = 2, **changes: Any) -> Path:
    """A configuration's folder; `changes` are fields of the plan, of the configuration or of its mirroring."""
    dims = len(spec.strides[0])
    name = "2d" if dims == 2 else "3d_fullres"
    content: dict[str, Any] = {
        "spacing_mm": (1.2, 0.9, 1.0)[-dims:],
        "patch_size": (8, 16, 16)[-dims:],
        "batch_size": 2,
        "median_shape": (20.0, 30.0, 28.0),
        "normalization": ("zscore",),
        "use_mask_for_norm": (False,),
        "batch_dice": False,
        "network": spec,
    }
    content |= {key: changes.pop(key) for key in list(changes) if key in Configuration.model_fields}
    mirroring = {key: changes.pop(key) for key in list(changes) if key in Mirroring.model_fields}
    settings = Configuration(**{"recipe": Recipe(mirroring=Mirroring(**mirroring)), **content})
    plan = Plan(
        **{
            "name": "ours", "preset": "default", "dataset": "Made", "channel_names": ("MRI",), "labels": LABELS,
            "orientation": "stored", "transpose": (0, 1, 2), "intensities": {},
            "original_median_spacing_mm": (1.0, 1.0, 1.0), "configurations": {name: settings}, **changes,
        }
    )  # fmt: skip
    for fold in range(folds):
        network = new_network(plan, settings, seed=fold)
        generator = torch.Generator().manual_seed(fold)
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, InstanceNorm):
                    module.weight.add_(0.3 * torch.randn(module.weight.shape, generator=generator))
                    module.bias.add_(0.3 * torch.randn(module.bias.shape, generator=generator))
        target = folder / name / f"fold_{fold}"
        weights = dict(network.state_dict())
        tensors.save(target / WEIGHTS, {WEIGHTS: weights}, {})
        write_record(target / "plan.json", plan)
        trained = TrainedFold(
            plan="ours", configuration=name, fold=str(fold), train_cases=("a",), validation_cases=(), epochs=1,
            iterations_per_epoch=1, seconds=1.0, num_parameters=1, device="cpu",
        )  # fmt: skip
        write_record(target / "fold.json", trained)
    return folder / name
