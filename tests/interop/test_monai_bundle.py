"""What a MONAI bundle holds, and what cannot become one."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

import autoseg
from autoseg.cli.main import main
from autoseg.errors import UsageError
from autoseg.inference.model import fold_folders, load_model
from autoseg.interop.monai_bundle import export_monai_bundle
from autoseg.pipeline.pack import pack
from tests.interop.models import FLAT, LABELS, REGIONS, model_folder
from tests.pipeline.fakes import make_plan, write_fold

# The fields that the schema of 2024-07-25 asks for.
REQUIRED = {
    "schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task",
    "description", "authors", "copyright", "network_data_format",
}  # fmt: skip


def test_the_network_takes_monais_axes(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "m", orientation="canonical", transpose=(1, 2, 0), patch_size=(8, 12, 16))
    export_monai_bundle(model, tmp_path / "b")
    loaded = load_model(fold_folders(model), torch.device("cpu"))
    with zipfile.ZipFile(tmp_path / "b" / "models" / "model.ts") as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    for folder in (Path(autoseg.__file__).parent, Path(torch.__file__).parent, tmp_path):
        assert str(folder).encode() not in content  # of this machine, perhaps with its user's name
    inside = {"metadata.json": ""}
    network = torch.jit.load(tmp_path / "b" / "models" / "model.ts", _extra_files=inside)
    patch = torch.randn((1, 1, 8, 12, 16))
    with torch.inference_mode():
        expected = torch.stack([fold(patch)[0] for fold in loaded.networks]).mean(0)
        # The plan's axes are y, x, z of a canonical array z y x; MONAI's are x, y, z.
        monai = patch.permute(0, 1, 3, 2, 4)
        found = network(monai).permute(0, 1, 3, 2, 4)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    metadata = json.loads((tmp_path / "b" / "configs" / "metadata.json").read_text())
    assert set(metadata) >= REQUIRED
    assert json.loads(inside["metadata.json"]) == metadata
    weights = torch.load(tmp_path / "b" / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [12, 8, 16]
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"]["2"] == "tumour"
    inference = json.loads((tmp_path / "b" / "configs" / "inference.json").read_text())
    assert inference["inferer"]["roi_size"] == [12, 8, 16]


def test_a_slice_is_a_window_of_a_2d_network(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "m", FLAT, folds=1, orientation="canonical", transpose=(2, 0, 1))
    export_monai_bundle(model, tmp_path / "b")
    metadata = json.loads((tmp_path / "b" / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [1, 16, 16]
    inference = json.loads((tmp_path / "b" / "configs" / "inference.json").read_text())
    (spacing,) = [step for step in inference["preprocessing"]["transforms"] if step["_target_"] == "Spacingd"]
    # The plan's slices lie along x; its y and x are z and y of the image.
    assert spacing["pixdim"] == [-1, 1.0, 0.9]


def test_regions_have_a_channel_each(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "m", folds=1, orientation="canonical", labels=REGIONS)
    export_monai_bundle(model, tmp_path / "b")
    metadata = json.loads((tmp_path / "b" / "configs" / "metadata.json").read_text())
    output = metadata["network_data_format"]["outputs"]["pred"]
    assert (output["num_channels"], output["channel_def"]) == (3, {"0": "whole", "1": "inner", "2": "core"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"orientation": "stored"}, "orientation stored"),
        ({"use_mask_for_norm": (True,)}, "inside a mask"),
        ({"normalization": ("rescale",)}, "rescale"),
        ({"labels": LABELS.model_copy(update={"class_values": (0, 1, 3)})}, "label values"),
    ],
)
def test_what_cannot_become_one(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = model_folder(tmp_path / "m", folds=1, **{"orientation": "canonical", **changes})
    with pytest.raises(UsageError, match=message):
        export_monai_bundle(model, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_of_a_cascade_the_first_stage_can_become_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("3d_lowres", "3d_cascade_fullres")
    plan, folder = make_plan(names=names).model_copy(update={"labels": LABELS}), tmp_path / "models"
    for name in names:
        write_fold(folder / name / "fold_0", plan, name)
    pack(folder, tmp_path / "model.zip")
    for model in (folder, folder / "3d_cascade_fullres", tmp_path / "model.zip"):
        assert main(["export", "monai-bundle", str(model), str(tmp_path / "b")]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "cannot join; either stage can be exported" in said
        assert "its 3d_lowres as a bundle of its own" in said
    assert main(["export", "monai-bundle", str(tmp_path / "model.zip" / "3d_lowres"), str(tmp_path / "b"), "-q"]) == 0
    assert json.loads((tmp_path / "b" / "configs" / "metadata.json").read_text())["name"] == "Fake 3d_lowres"
