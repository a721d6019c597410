"""Models of ours exported to nnU-Net: its own command predicts what we predict, at most one voxel in 10,000 differs."""

from pathlib import Path
from typing import Any

import pytest

from autoseg.cli.main import main
from autoseg.records.labels import LabelScheme, Target
from tests.differential import nnunet_models as nn
from tests.interop.models import FLAT, PLAIN, RESIDUAL, model_folder

BOUND = 1e-4
REGIONS = LabelScheme(
    class_names=("background", "edema", "core"), class_values=(0, 1, 2), num_entries=3, ignore_value=7,
    regions=(Target(name="whole", members=(1, 2)), Target(name="core", members=(2,))), region_order=(1, 2),
)  # fmt: skip
CT = {"mean": 0.4, "median": 0.4, "std": 1.5, "min": -5.0, "max": 5.0, "percentile_00_5": -2.0, "percentile_99_5": 2.5}

MODELS: dict[str, dict[str, Any]] = {
    "plain, ct, stored": {"spec": PLAIN, "normalization": ("ct",), "intensities": {"0": CT}, "transpose": (2, 0, 1)},
    "residual, regions, canonical": {"spec": RESIDUAL, "labels": REGIONS, "orientation": "canonical", "axes": (0, 2)},
    "2d without mirroring": {"spec": FLAT, "in_prediction": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_nnunet_predicts_the_same(name: str, tmp_path: Path) -> None:
    model = model_folder(tmp_path / "ours", tile_weights="nnunet", **MODELS[name])
    images = nn.write_images(tmp_path / "images", (1.4, 1.0, 1.1), (18, 26, 22))
    assert main(["export", "nnunet", str(model), str(tmp_path / "exported"), "-q"]) == 0
    command = ["predict", "--model", str(model), "-i", str(images), "-o", str(tmp_path / "found"), "--device", "cpu"]
    assert main([*command, "-q"]) == 0
    job = {"model": str(tmp_path / "exported"), "images": str(images), "folds": [0, 1]}
    nn.ask_peer([{**job, "do": "predict", "output": str(tmp_path / "theirs")}], tmp_path)
    share = nn.share_of_differing(tmp_path / "found", tmp_path / "theirs")
    print(f"share of voxels that differ: {share:.2e}")
    assert share <= BOUND


@pytest.mark.slow
def test_its_own_command_takes_the_folder(tmp_path: Path) -> None:
    """And the folder comes back."""
    model = model_folder(tmp_path / "ours", tile_weights="nnunet")
    images = nn.write_images(tmp_path / "images", (1.2, 0.9, 1.0), (8, 20, 18))
    exported = tmp_path / "exported"
    assert main(["export", "nnunet", str(model), str(exported), "-q"]) == 0
    job = {"model": str(exported), "images": str(images), "folds": [0, 1]}
    nn.ask_peer([{**job, "do": "predict_model_folder", "output": str(tmp_path / "theirs")}], tmp_path)
    assert main(["import", "nnunet", str(exported), "-o", str(tmp_path / "back"), "-q"]) == 0
    for folder, output in ((model, "found"), (tmp_path / "back" / "3d_fullres", "again")):
        command = ["predict", "--model", str(folder), "-i", str(images), "-o", str(tmp_path / output), "-q"]
        assert main([*command, "--device", "cpu"]) == 0
    assert nn.share_of_differing(tmp_path / "again", tmp_path / "found") == 0
    assert nn.share_of_differing(tmp_path / "found", tmp_path / "theirs") <= BOUND
