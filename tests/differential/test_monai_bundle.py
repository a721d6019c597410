"""A model exported as a MONAI bundle: MONAI verifies, loads and runs it, and finds what autoseg finds in one tile.

MONAI's `verify_metadata` downloads the schema that the metadata name, or takes a file that lies there already. Here
that is one that we wrote from the bundle specification, and MONAI's own where AUTOSEG_MONAI_SCHEMA names a copy.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from autoseg.cli.main import main
from tests.differential import nnunet_models as nn
from tests.differential.peer import peer_python
from tests.interop.models import FLAT, PLAIN, REGIONS, RESIDUAL, model_folder

RUN = """
import sys
from monai.bundle import run, verify_net_in_out
root, images, output = sys.argv[1:]
verify_net_in_out("network_def", root + "/configs/metadata.json", root + "/configs/inference.json", bundle_root=root)
run(config_file=root + "/configs/inference.json", meta_file=root + "/configs/metadata.json",
    bundle_root=root, dataset_dir=images, output_dir=output)
"""
VERIFY = """
import os, sys, torch
from monai.bundle import load, verify_metadata
schema, *roots = sys.argv[1:]
for root in roots:
    folder, _, name = root.rpartition("/")
    verify_metadata(meta_file=root + "/configs/metadata.json", filepath=schema)
    network, metadata, _ = load(name, bundle_dir=folder, load_ts_module=True, device="cpu", source="github")
    os.chdir(root)
    same = load(name, bundle_dir=folder, workflow_type="inference", device="cpu", source="github")
    patch = torch.randn(1, 1, *metadata["network_data_format"]["inputs"]["image"]["spatial_shape"])
    assert torch.equal(network(patch), same(patch)) and network(patch).shape[1] > 1
"""
_WORDS, _TABLE = {"type": "string"}, {"type": "object"}
_TENSOR = {
    "type": "object",
    "properties": {
        "type": {"enum": ["image", "series", "tuples", "probabilities"]},
        "format": {"enum": ["magnitude", "hounsfield", "labels", "classes", "segmentation"]},
        "modality": _WORDS,
        "num_channels": {"type": "integer", "minimum": 1},
        "spatial_shape": {"type": "array", "items": {"type": ["integer", "string"]}, "minItems": 3, "maxItems": 3},
        "dtype": {"const": "float32"},
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object", "additionalProperties": _WORDS},
    },
    "required": [
        "type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data", "channel_def",
    ],
}  # fmt: skip
_FIELDS = {
    "version": _WORDS, "monai_version": _WORDS, "pytorch_version": _WORDS, "numpy_version": _WORDS, "task": _WORDS,
    "description": _WORDS, "authors": _WORDS, "copyright": _WORDS, "required_packages_version": _TABLE,
    "network_data_format": {
        "type": "object",
        "properties": {key: {"type": "object", "additionalProperties": _TENSOR} for key in ("inputs", "outputs")},
        "required": ["inputs", "outputs"],
    },
}  # fmt: skip
SPECIFICATION = {"type": "object", "properties": _FIELDS, "required": list(_FIELDS)}
"""What the bundle specification says of mandatory fields and types; strict where our bundles are simple."""
CT = {"mean": 0.4, "median": 0.4, "std": 1.5, "min": -5.0, "max": 5.0, "percentile_00_5": -2.0, "percentile_99_5": 2.5}


MODELS: dict[str, dict[str, Any]] = {
    "zscore": {"spec": RESIDUAL, "spacing_mm": (1.2, 1.0, 1.0)},
    "ct": {"spec": PLAIN, "spacing_mm": (1.2, 1.0, 1.0), "normalization": ("ct",), "intensities": {"0": CT}},
    "regions": {"spec": PLAIN, "spacing_mm": (1.2, 1.0, 1.0), "labels": REGIONS},
    "2d": {"spec": FLAT, "spacing_mm": (1.0, 1.0)},
}


def _ask_monai(program: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [peer_python("monai"), "-c", program, *map(str, arguments)],
        env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("by", ["specification", "official"])
def test_monai_verifies_the_metadata(by: str, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SPECIFICATION))
    if by == "official":
        if not (named := os.environ.get("AUTOSEG_MONAI_SCHEMA")):
            pytest.skip("AUTOSEG_MONAI_SCHEMA names no copy of MONAI's meta_schema_20240725.json")
        shutil.copyfile(named, schema)
    bundles = [tmp_path / name for name in MODELS]
    for bundle in bundles:
        model = model_folder(tmp_path / "m" / bundle.name, folds=1, orientation="canonical", **MODELS[bundle.name])
        assert main(["export", "monai-bundle", str(model), str(bundle), "-q"]) == 0
    done = _ask_monai(VERIFY, schema, *bundles)
    if "No module named 'jsonschema'" in done.stderr:
        pytest.skip("MONAI's interpreter has no jsonschema")
    assert done.returncode == 0, done.stderr[-3000:]
    metadata = bundles[0] / "configs" / "metadata.json"
    content = json.loads(metadata.read_text())
    del content["network_data_format"]["outputs"]["pred"]["num_channels"]
    metadata.write_text(json.dumps(content))
    assert "'num_channels' is a required property" in _ask_monai(VERIFY, schema, bundles[0]).stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_monai_runs_it(name: str, tmp_path: Path) -> None:
    """The image has the network's spacing and the patch's size; one case is stored with exchanged, reversed axes."""
    model = model_folder(
        tmp_path / "m", orientation="canonical", transpose=(0, 2, 1), in_prediction=False, **MODELS[name]
    )
    images = nn.write_images(tmp_path / "images", (1.2, 1.0, 1.0), (8, 16, 16), frame=False)
    assert main(["export", "monai-bundle", str(model), str(tmp_path / "bundle"), "-q"]) == 0
    done = _ask_monai(RUN, tmp_path / "bundle", images, tmp_path / "theirs")
    assert done.returncode == 0, done.stderr[-3000:]
    command = ["predict", "--model", str(model), "-i", str(images), "-o", str(tmp_path / "found"), "--device", "cpu"]
    assert main([*command, "-q"]) == 0
    for case in ("straight", "turned"):
        (tmp_path / "theirs" / f"{case}_0000.nii.gz").rename(tmp_path / "theirs" / f"{case}.nii.gz")
    assert nn.share_of_differing(tmp_path / "found", tmp_path / "theirs") <= 1e-3
