"""What nnU-Net could not predict the same is not exported to it, and every reason is named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from autoseg.errors import ModelError, UsageError
from autoseg.inference.model import read_fold
from autoseg.interop.nnunet_export import export_nnunet
from autoseg.interop.nnunet_import import import_nnunet
from autoseg.records.labels import LabelScheme, Target
from autoseg.storage import tensors
from tests.interop.models import PLAIN, model_folder

SPARSE = LabelScheme(class_names=("background", "a", "b"), class_values=(0, 1, 5), num_entries=3)
SINGLE = LabelScheme(
    class_names=("background", "a"), class_values=(0, 1), num_entries=2,
    regions=(Target(name="a", members=(1,)),), region_order=(1,),
)  # fmt: skip

OBSTACLES: dict[str, tuple[dict[str, Any], str]] = {
    "network": ({"spec": PLAIN.model_copy(update={"architecture": "fpn"})}, "its network is fpn"),
    "exchanged classes": ({"swap_axis": 2, "swap_pairs": ((1, 2),)}, "exchanges classes"),
    "sparse values": ({"labels": SPARSE}, r"\[0, 1, 5\]"),
    "single regions": ({"labels": SINGLE}, "single class"),
}


@pytest.mark.parametrize("what", list(OBSTACLES))
def test_obstacles(what: str, tmp_path: Path) -> None:
    changes, message = OBSTACLES[what]
    model = model_folder(tmp_path / "m", folds=1, **changes)
    with pytest.raises(UsageError, match=message):
        export_nnunet(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_written(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "m", orientation="canonical", axes=(1,), tile_weights="nnunet")
    export_nnunet(model, tmp_path / "out")
    plans = json.loads((tmp_path / "out" / "plans.json").read_text())
    assert plans["image_reader_writer"] == "NibabelIOWithReorient"
    assert list(plans["configurations"]) == ["3d_fullres"]
    dataset = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert dataset["labels"] == {"background": 0, "organ": 1, "tumour": 2}
    content = torch.load(tmp_path / "out" / "fold_1" / "checkpoint_final.pth", weights_only=True)
    assert (content["init_args"], content["inference_allowed_mirroring_axes"]) == (
        {"configuration": "3d_fullres", "fold": "1"},
        (1,),
    )
    (back,) = import_nnunet(tmp_path / "out", tmp_path / "work")
    (plan, _), (ours, _) = read_fold(back / "fold_1"), read_fold(model / "fold_1")
    known = {"preset", "reasons", "configurations"}
    assert plan.model_dump(exclude=known) == ours.model_dump(exclude=known)
    fields = ("network", "spacing_mm", "normalization", "tile_weights", "patch_size", "use_mask_for_norm")
    for field in fields:
        assert getattr(plan.configurations["3d_fullres"], field) == getattr(ours.configurations["3d_fullres"], field)
    theirs, given = (tensors.load(folder / "fold_1" / "weights")[0]["weights"] for folder in (back, model))
    assert all(torch.equal(theirs[name], value) for name, value in given.items())
    with pytest.raises(UsageError, match="not empty"):
        export_nnunet(model, tmp_path / "out")
    with pytest.raises(ModelError):
        export_nnunet(tmp_path, tmp_path / "elsewhere")


def test_other_weights_of_tiles_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_nnunet(model_folder(tmp_path / "m", folds=1), tmp_path / "out")
    assert "half a voxel" in " ".join(capsys.readouterr().err.split())
