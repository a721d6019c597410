"""Small dataset folders for tests."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.datasets.findings import raise_faults
from autoseg.datasets.layouts import inspect_dataset
from autoseg.records.dataset import Dataset
from tests.images.making import write_nifti

LABELS = {"background": 0, "organ": 1, "lesion": 2}


def open_dataset(root: Path) -> Dataset:
    """The dataset in a folder; raises DataError with all faults."""
    dataset, findings = inspect_dataset(root)
    raise_faults(findings, f"{root} cannot be opened as a dataset")
    assert dataset is not None
    return dataset


def image_of(seed: int, shape: tuple[int, ...] = (4, 5, 6)) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 100, shape).astype(np.int16)


def label_of(seed: int, shape: tuple[int, ...] = (4, 5, 6)) -> np.ndarray:
    return np.random.default_rng(1000 + seed).integers(0, 3, shape).astype(np.uint8)


def decathlon(root: Path, num_cases: int = 3, **changes: Any) -> Path:
    """A Decathlon folder with cases c00, c01, ...; `changes` replace entries of dataset.json (None removes)."""
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    names = [f"c{i:02d}.nii.gz" for i in range(num_cases)]
    for i, name in enumerate(names):
        write_nifti(root / "imagesTr" / name, image_of(i))
        write_nifti(root / "labelsTr" / name, label_of(i))
    content: dict[str, Any] = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "organ", "2": "lesion"},
        "numTraining": num_cases,
        "training": [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names],
        "test": [],
    }
    content = {key: value for key, value in {**content, **changes}.items() if value is not None}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def nnunet(root: Path, num_cases: int = 3, num_channels: int = 1, **changes: Any) -> Path:
    """An nnU-Net raw folder with cases c00, c01, ..."""
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(num_cases):
        for channel in range(num_channels):
            write_nifti(root / "imagesTr" / f"c{i:02d}_{channel:04d}.nii.gz", image_of(i + 50 * channel))
        write_nifti(root / "labelsTr" / f"c{i:02d}.nii.gz", label_of(i))
    content: dict[str, Any] = {
        "channel_names": {str(i): f"T{i}" for i in range(num_channels)},
        "labels": LABELS,
        "numTraining": num_cases,
        "file_ending": ".nii.gz",
    }
    content = {key: value for key, value in {**content, **changes}.items() if value is not None}
    (root / "dataset.json").write_text(json.dumps(content))
    return root
