"""A dataset of six cases of a few voxels, and a plan whose networks train on it in a second."""

import json
from pathlib import Path

import nibabel
import numpy as np
import torch

from autoseg.pipeline.fingerprint import verify_and_fingerprint
from autoseg.pipeline.ingest import ingest
from autoseg.pipeline.preprocess import preprocess
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Dataset
from autoseg.records.plan import Configuration, Plan
from autoseg.records.workspace import Paths
from autoseg.storage import tensors
from autoseg.training.schedule import TrainOptions
from tests.training.tools import RECIPE, SPEC

SHORT = TrainOptions(epochs=2, iterations=2, seed=5, device="cpu")
FOLDS = ("0", "1", "2")

LABELS: dict[str, dict[str, object]] = {
    "classes": {"labels": {"0": "background", "1": "near", "5": "far"}},
    "ignore": {"labels": {"background": 0, "near": 1, "far": 5, "ignore": 9}},
    "regions": {"labels": {"background": 0, "both": [1, 5], "far": [5]}, "regions_class_order": [1, 5]},
}


def write_dataset(folder: Path, num_cases: int = 6, kind: str = "classes") -> None:
    """Noisy cases with two blocks, the classes `near` (1) and `far` (5); with `ignore` a slice is not annotated."""
    rng = np.random.default_rng(4)
    for number in range(num_cases):
        labels = np.zeros((10, 12, 9 + number), np.uint8)
        labels[3:7, 4:8, 3:6] = 1
        labels[3:7, 4:8, 6:9] = 5
        image = labels.astype(np.float32) + rng.normal(0, 0.1, labels.shape).astype(np.float32) + 1
        if kind == "ignore":
            labels[:, :, -1] = 9
        for room, array in (("imagesTr", image), ("labelsTr", labels)):
            (folder / room).mkdir(parents=True, exist_ok=True)
            affine = np.diag([-1.0, 1.0, 1.5, 1.0])
            nibabel.save(nibabel.Nifti1Image(array, affine), folder / room / f"case_{number}.nii.gz")
    pairs = [{"image": f"./imagesTr/case_{n}.nii.gz", "label": f"./labelsTr/case_{n}.nii.gz"} for n in range(num_cases)]
    content = {
        "modality": {"0": "MRI"},
        **LABELS[kind],
        "numTraining": num_cases,
        "training": pairs,
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(content))


def make_plan(paths: Paths, name: str = "tiny", **changes: object) -> Plan:
    dataset = read_record(paths.dataset, Dataset)
    fine = Configuration(
        spacing_mm=(1.5, 1.0, 1.0),
        patch_size=(8, 8, 8),
        batch_size=2,
        median_shape=(12, 12, 10),
        normalization=("zscore",),
        use_mask_for_norm=(False,),
        batch_dice=False,
        network=SPEC,
        recipe=RECIPE,
    ).model_copy(update=changes)
    coarse = fine.model_copy(update={"spacing_mm": (2.0, 1.5, 1.5)})
    cascade = fine.model_copy(update={"previous_stage": "3d_lowres"})
    return Plan(
        name=name,
        preset="default",
        dataset=dataset.name,
        channel_names=dataset.channel_names,
        labels=dataset.labels,
        orientation="canonical",
        transpose=(0, 1, 2),
        intensities={},
        original_median_spacing_mm=(1.5, 1.0, 1.0),
        configurations={"3d_fullres": fine, "3d_lowres": coarse, "3d_cascade_fullres": cascade},
    )


def prepare(folder: Path, kind: str = "classes") -> tuple[Paths, Plan]:
    """The dataset opened and divided into three folds, its plan written, `3d_fullres` preprocessed."""
    write_dataset(folder / "Tiny", kind=kind)
    paths = ingest(str(folder / "Tiny"), folder / "work", num_folds=3)
    verify_and_fingerprint(paths, num_workers=1)
    plan = make_plan(paths)
    preprocess(paths, plan, ["3d_fullres"], num_workers=1)
    write_record(paths.plan(plan.name), plan)
    return paths, plan


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return tensors.load(folder / "weights")[0]["weights"]
