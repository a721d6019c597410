"""Imported models of nnU-Net predict what nnU-Net predicts with them: at most one voxel in 10,000 differs."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from autoseg.cli.main import main
from autoseg.records.base import read_record
from autoseg.records.model_card import ModelCard
from tests.differential import nnunet_models as nn
from tests.interop.nnunet_folder import folder_name, write_choice

BOUND = 1e-4
PLAIN, RESIDUAL = "PlainConvUNet", "ResidualEncoderUNet"

CASES: dict[str, dict[str, Any]] = {
    "anisotropic with two channels and folds": {
        "configuration": nn.configuration(
            (3.0, 0.8, 0.9), (8, 24, 24), nn.architecture(PLAIN, *nn.FLAT), ("CTNormalization", "ZScoreNormalization")
        ),
        "dataset": nn.dataset(nn.LABELS, ("CT", "MRI")),
        "spacing": (3.6, 1.0, 1.0),
        "shape": (14, 40, 36),
        "folds": [0, 3],
    },
    "residual with regions, ignore label and transpose": {
        "configuration": nn.configuration((1.3, 1.1, 1.2), (16, 16, 24), nn.architecture(RESIDUAL, *nn.ISOTROPIC)),
        "dataset": nn.dataset(nn.REGIONS, order=(1, 2, 3)),
        "transpose": (2, 0, 1),
        "spacing": (1.0, 1.4, 1.1),
        "shape": (30, 26, 28),
        "folds": ["all"],
    },
    "2d": {
        "configuration": nn.configuration(
            (1.0, 1.0), (24, 16), nn.architecture(PLAIN, [[1, 1], [2, 2], [2, 2]], [[3, 3]] * 3),
            ("RescaleTo01Normalization",),
        ),
        "name": "2d",
        "dataset": nn.dataset(nn.LABELS),
        "spacing": (4.0, 0.8, 1.2),
        "shape": (7, 40, 30),
        "folds": [1],
    },
    "reader that turns to RAS": {
        "configuration": nn.configuration((1.2, 1.0, 1.0), (16, 16, 16), nn.architecture(PLAIN, *nn.ISOTROPIC)),
        "dataset": nn.dataset(nn.LABELS),
        "reader": "NibabelIOWithReorient",
        "spacing": (1.5, 1.0, 1.2),
        "shape": (22, 30, 26),
        "folds": [0],
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", list(CASES))
def test_random_weights(case: str, tmp_path: Path) -> None:
    given = CASES[case]
    name = given.get("name", "3d_fullres")
    model = tmp_path / "results" / f"nnUNetTrainer__nnUNetPlans__{name}"
    plans = nn.plans(
        {name: given["configuration"]}, given.get("transpose", (0, 1, 2)), given.get("reader", "SimpleITKIO")
    )
    images = nn.write_images(
        tmp_path / "images", given["spacing"], given["shape"], len(given["dataset"]["channel_names"])
    )
    nn.ask_peer(
        [
            _make(model, plans, given["dataset"], name, given["folds"]),
            _predict(model, images, tmp_path / "theirs", given["folds"]),
        ],
        tmp_path,
    )
    assert main(["import", "nnunet", str(tmp_path / "results"), "-o", str(tmp_path / "ours"), "-q"]) == 0
    card = read_record(tmp_path / "ours" / name / "model.json", ModelCard)
    assert list(card.folds) == [str(fold) for fold in given["folds"]]
    assert _ours(tmp_path / "ours" / name, images, tmp_path / "found", tmp_path / "theirs") <= BOUND


@pytest.mark.slow
def test_briefly_trained(tmp_path: Path) -> None:
    model = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    settings = nn.configuration((1.0, 1.0, 1.1), (16, 16, 16), nn.architecture(PLAIN, *nn.ISOTROPIC))
    images = nn.write_images(tmp_path / "images", (1.2, 1.0, 1.0), (24, 30, 26), sigma=4)
    nn.ask_peer(
        [
            _make(model, nn.plans({"3d_fullres": settings}), nn.dataset(nn.LABELS), "3d_fullres", [0, 1], steps=60),
            _predict(model, images, tmp_path / "theirs", [0, 1]),
        ],
        tmp_path,
    )
    assert main(["import", "nnunet", str(model), "-o", str(tmp_path / "ours"), "-q"]) == 0
    assert _ours(tmp_path / "ours" / "3d_fullres", images, tmp_path / "found", tmp_path / "theirs") <= BOUND


@pytest.mark.slow
def test_cascade(tmp_path: Path) -> None:
    results = tmp_path / "results"
    network = nn.architecture(PLAIN, *nn.ISOTROPIC)
    settings = {
        "3d_lowres": nn.configuration((2.2, 2.0, 2.0), (16, 16, 16), network, next_stage="3d_cascade_fullres"),
        "3d_fullres": nn.configuration((1.1, 1.0, 1.0), (16, 16, 16), network),
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    }
    low, high = (results / f"nnUNetTrainer__nnUNetPlans__{name}" for name in ("3d_lowres", "3d_cascade_fullres"))
    images = nn.write_images(tmp_path / "images", (1.2, 1.1, 1.0), (30, 34, 32))
    plans, dataset = nn.plans(settings), nn.dataset(nn.LABELS)
    nn.ask_peer(
        [
            _make(low, plans, dataset, "3d_lowres", [0, 1], steps=20),
            _make(high, plans, dataset, "3d_cascade_fullres", [0], steps=20),
            _predict(low, images, tmp_path / "low", [0, 1]),
            {**_predict(high, images, tmp_path / "theirs", [0]), "previous": str(tmp_path / "low")},
        ],
        tmp_path,
    )
    assert main(["import", "nnunet", str(results), "-o", str(tmp_path / "ours"), "-q"]) == 0
    assert _ours(tmp_path / "ours" / "3d_lowres", images, tmp_path / "found_low", tmp_path / "low") <= BOUND
    assert _ours(tmp_path / "ours" / "3d_cascade_fullres", images, tmp_path / "found", tmp_path / "theirs") <= BOUND


@pytest.mark.slow
def test_ensemble_with_its_post_processing(tmp_path: Path) -> None:
    """Two configurations of other grids, and the choice of both as nnU-Net leaves it, in one zip."""
    results, names = tmp_path / "results", ("2d", "3d_fullres")
    settings = {
        "2d": nn.configuration((1.0, 1.2), (16, 24), nn.architecture(PLAIN, [[1, 1], [2, 2], [2, 2]], [[3, 3]] * 3)),
        "3d_fullres": nn.configuration((1.3, 1.1, 1.2), (16, 16, 24), nn.architecture(PLAIN, *nn.ISOTROPIC)),
    }
    models = [results / folder_name(name) for name in names]
    images = nn.write_images(tmp_path / "images", (1.2, 1.0, 1.0), (24, 30, 26), sigma=3)
    plans, dataset = nn.plans(settings), nn.dataset(nn.LABELS)
    job = {"do": "ensemble", "models": [str(model) for model in models], "images": str(images), "folds": [0]}
    nn.ask_peer(
        [
            *(_make(model, plans, dataset, name, [0], 20) for model, name in zip(models, names, strict=True)),
            {**job, "output": str(tmp_path / "theirs"), "steps": [[1, 2], 2]},
        ],
        tmp_path,
    )
    write_choice(results, names, [0], [1, 2], 2)
    archive = shutil.make_archive(str(tmp_path / "theirs"), "zip", tmp_path, "results")
    assert main(["import", "nnunet", archive, "--work", str(tmp_path / "work"), "-q"]) == 0
    share = _ours(tmp_path / "work" / "Dataset901_Made", images, tmp_path / "found", tmp_path / "theirs")
    assert share <= BOUND
    assert nn.share_of_differing(tmp_path / "theirs_merged", tmp_path / "theirs") > BOUND


def _make(model: Path, plans: nn.Job, dataset: nn.Job, name: str, folds: list[Any], steps: int = 0) -> nn.Job:
    return {
        "do": "make", "folder": str(model), "plans": plans, "dataset": dataset, "configuration": name,
        "folds": folds, "seed": 7, "steps": steps,
    }  # fmt: skip


def _predict(model: Path, images: Path, output: Path, folds: list[Any]) -> nn.Job:
    return {"do": "predict", "model": str(model), "images": str(images), "output": str(output), "folds": folds}


def _ours(model: Path, images: Path, output: Path, theirs: Path) -> float:
    command = ["predict", "--model", str(model), "-i", str(images), "-o", str(output), "--device", "cpu", "-q"]
    assert main(command) == 0
    share = nn.share_of_differing(output, theirs)
    print(f"share of voxels that differ: {share:.2e}")
    return share
