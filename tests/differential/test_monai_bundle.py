"""A model exported as a MONAI bundle: MONAI runs it, and finds what autoseg finds where both blend one tile."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autoseg.cli.main import main
from tests.differential import nnunet_models as nn
from tests.interop.models import FLAT, PLAIN, REGIONS, RESIDUAL, model_folder

RUN = """
import sys
from monai.bundle import run, verify_net_in_out
root, images, output = sys.argv[1:]
verify_net_in_out("network_def", root + "/configs/metadata.json", root + "/configs/inference.json", bundle_root=root)
run(config_file=root + "/configs/inference.json", meta_file=root + "/configs/metadata.json",
    bundle_root=root, dataset_dir=images, output_dir=output)
"""
CT = {"mean": 0.4, "median": 0.4, "std": 1.5, "min": -5.0, "max": 5.0, "percentile_00_5": -2.0, "percentile_99_5": 2.5}


def _peer_python() -> str:
    if importlib.util.find_spec("monai"):
        return sys.executable
    named = os.environ.get("AUTOSEG_PEER_PYTHON")
    if not named:
        pytest.skip("monai is not installed here and AUTOSEG_PEER_PYTHON is not set")
    return named


MODELS: dict[str, dict[str, Any]] = {
    "zscore": {"spec": RESIDUAL, "spacing_mm": (1.2, 1.0, 1.0)},
    "ct": {"spec": PLAIN, "spacing_mm": (1.2, 1.0, 1.0), "normalization": ("ct",), "intensities": {"0": CT}},
    "regions": {"spec": PLAIN, "spacing_mm": (1.2, 1.0, 1.0), "labels": REGIONS},
    "2d": {"spec": FLAT, "spacing_mm": (1.0, 1.0)},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_monai_runs_it(name: str, tmp_path: Path) -> None:
    """The image has the network's spacing and the patch's size; one case is stored with exchanged, reversed axes."""
    model = model_folder(
        tmp_path / "m", orientation="canonical", transpose=(0, 2, 1), in_prediction=False, **MODELS[name]
    )
    images = nn.write_images(tmp_path / "images", (1.2, 1.0, 1.0), (8, 16, 16), frame=False)
    assert main(["export", "monai-bundle", str(model), str(tmp_path / "bundle"), "-q"]) == 0
    done = subprocess.run(
        [_peer_python(), "-c", RUN, str(tmp_path / "bundle"), str(images), str(tmp_path / "theirs")],
        env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    command = ["predict", "--model", str(model), "-i", str(images), "-o", str(tmp_path / "found"), "--device", "cpu"]
    assert main([*command, "-q"]) == 0
    for case in ("straight", "turned"):
        (tmp_path / "theirs" / f"{case}_0000.nii.gz").rename(tmp_path / "theirs" / f"{case}.nii.gz")
    assert nn.share_of_differing(tmp_path / "found", tmp_path / "theirs") <= 1e-3
