"""Networks as ONNX and torch.export files answer as they do in autoseg; tests of ONNX need its packages."""

import importlib.util
import logging
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from autoseg.cli.main import main
from autoseg.errors import ModelError, UsageError
from autoseg.inference.model import fold_folders, load_model
from autoseg.interop import traced
from autoseg.pipeline.pack import pack
from autoseg.records.base import read_record
from autoseg.records.plan import NetworkSpec
from autoseg.records.traced import TracedModel
from tests.differential import nnunet_models as nn
from tests.interop.models import FLAT, PLAIN, RESIDUAL, model_folder

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "predict_with_onnx.py"
HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))
MEDNEXT = NetworkSpec(
    architecture="mednext", features_per_stage=(8, 16), strides=((1, 1, 1), (2, 2, 2)),
    kernel_sizes=((3, 3, 3), (3, 3, 3)), blocks_per_stage=(1, 1), decoder_blocks_per_stage=(1,),
)  # fmt: skip
FPN, FCN = (MEDNEXT.model_copy(update={"architecture": name}) for name in ("fpn", "fcn"))


@pytest.mark.parametrize(
    "spec",
    [PLAIN, *(pytest.param(spec, marks=pytest.mark.slow) for spec in (RESIDUAL, FLAT, MEDNEXT, FPN, FCN))],
    ids=["plain", "residual", "2d", "mednext", "fpn", "fcn"],
)
@pytest.mark.parametrize("kind", ["torch", pytest.param("onnx", marks=pytest.mark.skipif(not HAS_ONNX, reason="onnx"))])
def test_the_file_answers_as_the_model(
    kind: str, spec: NetworkSpec, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = model_folder(tmp_path / "m", spec)
    assert main(["export", kind, str(model), str(tmp_path / "out"), "-q"]) == 0
    assert capfd.readouterr().err == ""
    known = traced.KINDS[kind]
    loaded = load_model(fold_folders(model), torch.device("cpu"))
    patch = 3 * torch.randn((1, 1, *loaded.settings.patch_zyx), generator=torch.Generator().manual_seed(9)) + 1
    with torch.inference_mode():
        expected = torch.stack([network(patch)[0] for network in loaded.networks]).mean(0)
    found = known.run(tmp_path / "out" / known.file, patch)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=2e-5 * float(expected.abs().max()), rtol=1e-4)
    about = read_record(tmp_path / "out" / "autoseg.json", TracedModel)
    assert (about.file, about.num_folds, about.plan) == (known.file, 2, loaded.plan)
    content = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir()) + unzipped(
        tmp_path / "out" / known.file
    )
    assert b"folds.0" in content
    for folder in (Path(traced.__file__).parent.parent, Path(torch.__file__).parent, tmp_path):
        assert str(folder).encode() not in content  # of this machine, perhaps with its user's name


def unzipped(path: Path) -> bytes:
    """All entries of a zip; nothing of other files."""
    if not zipfile.is_zipfile(path):
        return b""
    with zipfile.ZipFile(path) as archive:
        return b"".join(archive.read(name) for name in archive.namelist())


def test_a_packed_model_gives_the_same_files(tmp_path: Path) -> None:
    model, zipped = model_folder(tmp_path / "m"), tmp_path / "model.zip"
    pack(model, zipped)
    for name, source in (("folder", model), ("zip", zipped)):
        for kind in ("torch", "nnunet"):
            assert main(["export", kind, str(source), str(tmp_path / name / kind), "-q"]) == 0
    one, other = (sorted(p.relative_to(tmp_path / n) for p in (tmp_path / n).rglob("*")) for n in ("folder", "zip"))
    assert one == other
    for path in (path for path in one if path.suffix == ".json"):
        assert (tmp_path / "folder" / path).read_text() == (tmp_path / "zip" / path).read_text()
    patch = torch.randn((1, 1, *load_model(fold_folders(model), torch.device("cpu")).settings.patch_zyx))
    found = [traced.KINDS["torch"].run(tmp_path / name / "torch" / "model.pt2", patch) for name in ("folder", "zip")]
    assert torch.equal(*found)


@pytest.mark.skipif(not HAS_ONNX, reason="onnx")
@pytest.mark.parametrize("orientation", ["stored", "canonical"])
def test_the_example_predicts_as_autoseg_does(orientation: str, tmp_path: Path) -> None:
    model = model_folder(tmp_path / "m", spacing_mm=(1.2, 1.0, 1.0), orientation=orientation, in_prediction=False)
    images = nn.write_images(tmp_path / "images", (1.2, 1.0, 1.0), (13, 30, 24), frame=False)
    assert main(["export", "onnx", str(model), str(tmp_path / "out"), "-q"]) == 0
    command = ["predict", "--model", str(model), "-i", str(images), "-o", str(tmp_path / "found"), "--device", "cpu"]
    assert main([*command, "-q"]) == 0
    (tmp_path / "theirs").mkdir()
    for name in ("straight", "turned"):
        files = [str(images / f"{name}_0000.nii.gz"), str(tmp_path / "theirs" / f"{name}.nii.gz")]
        subprocess.run([sys.executable, str(EXAMPLE), str(tmp_path / "out"), *files], check=True)
    assert nn.share_of_differing(tmp_path / "found", tmp_path / "theirs") < 1e-3


def test_notices_of_torch_alone_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    logger.addHandler(caplog.handler)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with traced._without_notices():
                logger.warning("torchvision is not installed. Skipping %s::nms", "torchvision")
                logger.warning("an operator is missing")
                warnings.warn(
                    "`isinstance(treespec, LeafSpec)` is deprecated, use another", FutureWarning, stacklevel=1
                )
                warnings.warn("something else is deprecated", FutureWarning, stacklevel=1)
        logger.warning("torchvision is not installed. Skipping torchvision::nms")  # not of the exporter
    finally:
        logger.removeHandler(caplog.handler)
    assert [str(one.message) for one in told] == ["something else is deprecated"]
    said = {record.getMessage() for record in caplog.records}
    assert said == {"an operator is missing", "torchvision is not installed. Skipping torchvision::nms"}


def test_a_file_that_answers_otherwise_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_folder(tmp_path / "m", folds=1)
    wrong = traced.KINDS["torch"]._replace(run=lambda path, patch: traced._run_torch(path, patch) + 1)
    monkeypatch.setitem(traced.KINDS, "torch", wrong)
    with pytest.raises(ModelError, match="other logits"):
        traced.export_traced(model, tmp_path / "out", "torch")
    assert not (tmp_path / "out").exists()


def test_targets_that_are_full_and_models_that_are_none(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "m", folds=1)
    with pytest.raises(UsageError, match="not empty"):
        traced.export_traced(model, tmp_path / "m", "torch")
    with pytest.raises(ModelError, match="no trained fold"):
        traced.export_traced(tmp_path, tmp_path / "out", "torch")


@pytest.mark.skipif(HAS_ONNX, reason="the packages are there")
def test_without_onnx_the_extra_is_named(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "m", folds=1)
    with pytest.raises(UsageError, match=r"autoseg-medical\[onnx\]"):
        traced.export_traced(model, tmp_path / "out", "onnx")
