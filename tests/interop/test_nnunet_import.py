"""Importing what nnU-Net writes, without nnU-Net: weights arrive unchanged; whatever is not its own is refused."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from autoseg.cli.main import main
from autoseg.errors import ModelError, UsageError
from autoseg.inference.model import read_fold
from autoseg.interop.checkpoints import CheckpointFacts, read_checkpoint
from autoseg.interop.nnunet_import import import_nnunet
from autoseg.interop.nnunet_plans import import_plan
from autoseg.networks.build import build_network
from autoseg.records.base import read_record
from autoseg.records.model_card import ModelCard
from autoseg.storage import tensors
from tests.differential import nnunet_models as nn
from tests.interop.nnunet_folder import checkpoint, results_folder, spec


def test_weights_and_plan_arrive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = results_folder(tmp_path / "results", ("0", "all"))
    assert main(["import", "nnunet", str(model), "--work", str(tmp_path / "work"), "--json", "-q"]) == 0
    (folder,) = (Path(text) for text in json.loads(capsys.readouterr().out))
    assert folder == tmp_path / "work" / "Dataset901_Made" / "models" / "nnUNetPlans" / "3d_fullres"
    content, _ = tensors.load(folder / "fold_0" / "weights")
    expected = build_network(spec(), 1, 3, seed=0).state_dict()
    assert set(content["weights"]) == set(expected)
    assert all(torch.equal(content["weights"][name], value) for name, value in expected.items())
    plan, trained = read_fold(folder / "fold_all")
    settings = plan.configurations["3d_fullres"]
    assert (plan.orientation, plan.transpose, settings.recipe.mirroring.axes) == ("stored", (0, 1, 2), (0, 2))
    assert (settings.network, settings.tile_weights, trained.epochs) == (spec(), "nnunet", 17)
    card = read_record(folder / "model.json", ModelCard)
    assert list(card.folds) == ["0", "all"]


def test_a_zip_and_a_name(tmp_path: Path) -> None:
    results_folder(tmp_path / "results" / "Dataset901_Made")
    archive = shutil.make_archive(str(tmp_path / "model"), "zip", tmp_path / "results")
    (folder,) = import_nnunet(Path(archive), tmp_path / "work", name="theirs")
    assert folder.parent.name == "theirs"
    assert read_fold(folder / "fold_0")[0].name == "theirs"
    with pytest.raises(UsageError, match="there already"):
        import_nnunet(Path(archive), tmp_path / "work", name="theirs")
    with pytest.raises(UsageError, match="does not exist"):
        import_nnunet(tmp_path / "nowhere", tmp_path / "work")
    with zipfile.ZipFile(archive, "a") as hostile:
        hostile.writestr("../outside/plans.json", "{}")
    with pytest.raises(ModelError, match="refused"):
        import_nnunet(Path(archive), tmp_path / "work", name="other")
    assert not (tmp_path / "outside").exists()
    left = {path.name for path in (tmp_path / "work").rglob("*") if path.name.startswith(".partial")}
    assert left == set()


def test_plans_before_there_were_architectures(tmp_path: Path) -> None:
    strides, kernels = nn.ISOTROPIC
    settings = nn.configuration((1, 1, 1), (8, 8, 8), {})
    del settings["architecture"]
    settings |= {
        "UNet_class_name": "PlainConvUNet", "UNet_base_num_features": 8, "unet_max_num_features": 16,
        "n_conv_per_stage_encoder": [1, 2, 2], "n_conv_per_stage_decoder": [2, 1], "num_pool_per_axis": [2, 2, 2],
        "pool_op_kernel_sizes": strides, "conv_kernel_sizes": kernels,
    }  # fmt: skip
    facts = CheckpointFacts(configuration="3d_fullres", trainer="nnUNetTrainer", mirror_axes=(0, 1), epochs=1)
    plan, name = import_plan(nn.plans({"3d_fullres": settings}), nn.dataset(nn.LABELS), facts, tmp_path)
    assert plan.configurations[name].network == spec().model_copy(update={"features_per_stage": (8, 16, 16)})


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "network": (lambda c: c["architecture"].update(network_class_name="os.system"), "os.system is not in the table"),
    "norm": (lambda c: c["architecture"]["arch_kwargs"].update(norm_op="torch.nn.BatchNorm3d"), "norm_op"),
    "dropout": (lambda c: c["architecture"]["arch_kwargs"].update(dropout_op="torch.nn.Dropout3d"), "dropout_op"),
    "unknown part": (lambda c: c["architecture"]["arch_kwargs"].update(squeeze_excitation=True), "squeeze_excitation"),
    "slope": (lambda c: c["architecture"]["arch_kwargs"].update(nonlin_kwargs={"negative_slope": 0.2}), "nonlin_kw"),
    "normalisation": (lambda c: c.update(normalization_schemes=["Mine"]), "Mine is not"),
    "preprocessor": (lambda c: c.update(preprocessor_name="Mine"), "preprocessor Mine"),
    "resampling": (lambda c: c.update(resampling_fn_data="resample_torch_fornnunet"), "resampling_fn_data"),
    "resampling's order": (lambda c: c["resampling_fn_probabilities_kwargs"].update(order=0), "resampling_fn_prob"),
    "missing field": (lambda c: c.pop("patch_size"), "has no 'patch_size'"),
    "wrong type": (lambda c: c.update(spacing="wide"), "spacing_mm"),
    "no spacing": (lambda c: c.update(spacing=[0, 1, 1]), "must be positive"),
    "no number": (lambda c: c.update(spacing=[float("nan"), 1, 1]), "not JSON compliant"),
    "not measured": (
        lambda c: c.update(normalization_schemes=["ZScoreNormalization", "ZScoreNormalization", "CTNormalization"]),
        "channel 2 has CTNormalization and no intensities",
    ),
    "circle": (lambda c: c.update(inherits_from="3d_fullres"), "circle"),
}  # fmt: skip


@pytest.mark.parametrize("what", list(REFUSED))
def test_what_is_not_nnunets_own_is_refused(what: str, tmp_path: Path) -> None:
    change, message = REFUSED[what]
    plans = nn.plans(
        {"3d_fullres": nn.configuration((1, 1, 1), (8, 8, 8), nn.architecture("PlainConvUNet", *nn.ISOTROPIC))}
    )
    facts = CheckpointFacts(configuration="3d_fullres", trainer="nnUNetTrainer", mirror_axes=(), epochs=1)
    assert import_plan(plans, nn.dataset(nn.LABELS), facts, tmp_path)[1] == "3d_fullres"
    change(plans["configurations"]["3d_fullres"])
    with pytest.raises(ModelError, match=message):
        import_plan(plans, nn.dataset(nn.LABELS), facts, tmp_path)


def test_files_of_other_shapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a channel without foreground nnU-Net's measurements are NaN, and editors begin a file with a mark."""
    model = results_folder(tmp_path / "results")
    plans = json.loads((model / "plans.json").read_text())
    plans["foreground_intensity_properties_per_channel"]["0"]["mean"] = float("nan")
    (model / "plans.json").write_text("\ufeff" + json.dumps(plans), "utf-8")
    (model / "fold_1").mkdir()
    assert main(["import", "nnunet", str(model), "-o", str(tmp_path / "ours"), "-q"]) == 0
    assert list(read_fold(tmp_path / "ours" / "3d_fullres" / "fold_0")[0].intensities) == ["1"]
    assert "no checkpoint_final.pth or checkpoint_best.pth in fold_1; imported without" in capsys.readouterr().err
    plans["transpose_forward"] = [0, 0, 5]
    (model / "plans.json").write_text(json.dumps(plans))
    assert main(["import", "nnunet", str(model), "-o", str(tmp_path / "other"), "-q"]) == 6
    assert "must have each of 0, 1, 2 once" in capsys.readouterr().err


def test_nothing_is_written_of_what_does_not_fit(tmp_path: Path) -> None:
    model = results_folder(tmp_path / "results")
    plans = json.loads((model / "plans.json").read_text())
    settings = plans["configurations"]["3d_fullres"]
    settings["architecture"]["arch_kwargs"]["features_per_stage"] = [8, 12, 10**6]
    (model / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(ModelError, match="other shapes"):
        import_nnunet(model, tmp_path / "work")
    settings["previous_stage"] = "3d_lowres"
    (model / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(UsageError, match="needs the model of 3d_lowres"):
        import_nnunet(model, tmp_path / "work")
    assert not list((tmp_path / "work").rglob("fold.json"))


def test_labels_and_names_are_checked(tmp_path: Path) -> None:
    model = results_folder(tmp_path / "results")
    (model / "dataset.json").write_text(json.dumps(nn.dataset({"background": 0, "organ": 3})))
    with pytest.raises(ModelError, match=r"numbers them 0, 1, 2"):
        import_nnunet(model, tmp_path / "work")
    (model / "dataset.json").write_text(json.dumps(nn.dataset(nn.LABELS)))
    plans = json.loads((model / "plans.json").read_text())
    (model / "plans.json").write_text(json.dumps({**plans, "dataset_name": "../../elsewhere"}))
    with pytest.raises(ModelError, match="no name of a folder"):
        import_nnunet(model, tmp_path / "work")
    with pytest.raises(UsageError, match="holds no model"):
        import_nnunet(tmp_path / "work", tmp_path / "work")


def test_other_networks_weights_are_refused(tmp_path: Path) -> None:
    model = results_folder(tmp_path / "results")
    content = checkpoint()
    content["network_weights"]["encoder.stages.0.0.convs.0.norm.running_mean"] = torch.zeros(8)
    torch.save(content, model / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(ModelError, match="running_mean"):
        import_nnunet(model, tmp_path / "work")
    content = checkpoint()
    content["network_weights"]["decoder.encoder.stages.0.0.convs.0.conv.bias"] = torch.ones(8)
    torch.save(content, model / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(ModelError, match="two parameters"):
        import_nnunet(model, tmp_path / "work")


class _Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, int]]:
        return os.mkdir, (str(self.path), 0o777)


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_final.pth"
    for content in (_Runs(tmp_path / "ran"), {**checkpoint(), "logging": _Runs(tmp_path / "ran")}):
        torch.save(content, path)
        with pytest.raises(ModelError, match="more than weights and numbers"):
            read_checkpoint(path, tmp_path / "scratch")
    assert not (tmp_path / "ran").exists()
    torch.save(checkpoint(), path, _use_new_zipfile_serialization=False)
    with pytest.raises(ModelError, match="format"):
        read_checkpoint(path, tmp_path / "scratch")


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="only Linux tells how much memory is taken")
def test_the_reader_limits_itself() -> None:
    code = (
        "from autoseg.interop.checkpoint_reader import limit_this_process\n"
        "limit_this_process(1000)\n"
        "try:\n    bytearray(8 << 30)\nexcept MemoryError:\n    print('limited')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "limited\n", done.stderr


def test_damaged_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_final.pth"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ModelError, match="no checkpoint of nnU-Net"):
        read_checkpoint(path, tmp_path / "scratch")
    torch.save(checkpoint(), path)
    whole = path.read_bytes()
    weights = checkpoint()["network_weights"]["encoder.stages.0.0.convs.0.conv.weight"].numpy().tobytes()
    assert whole.count(weights) == 1
    path.write_bytes(whole.replace(weights, bytes([weights[0] ^ 4]) + weights[1:]))
    with pytest.raises(ModelError, match=r"its checksum of .* does not fit"):
        read_checkpoint(path, tmp_path / "scratch")
    path.write_bytes(whole[:5000])
    with pytest.raises(ModelError, match="damaged"):
        read_checkpoint(path, tmp_path / "scratch")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(ModelError, match="damaged"):
        read_checkpoint(path, tmp_path / "scratch")
