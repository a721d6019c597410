"""The stage as a whole on cases of a few voxels: what a trained fold leaves, what it is trained on."""

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from autoseg.errors import UsageError
from autoseg.inference.model import load_model
from autoseg.inference.store import read_probabilities
from autoseg.pipeline.train import is_trained, train
from autoseg.preprocessing import store
from autoseg.records.base import read_record
from autoseg.records.dataset import Dataset, Folds
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.results import Evaluation, TrainedFold
from autoseg.records.workspace import Paths
from autoseg.training.batches import Sampler, batches
from autoseg.training.previous_stage import resample_previous_stage
from autoseg.training.source import open_source
from tests.pipeline.tiny import SHORT, make_plan, weights_of
from tests.training.tools import RECIPE


def test_a_fold_leaves_all_its_files(prepared: Paths, trained: TrainedFold) -> None:
    folder = prepared.fold("tiny", "3d_fullres", "0")
    assert read_record(folder / "fold.json", TrainedFold) == trained
    assert len((folder / "history.jsonl").read_text().splitlines()) == 2
    assert (folder / "curve.png").is_file()
    assert not (folder / "checkpoint").exists()
    assert not (folder / ".measurement").exists()
    assert trained.validation_cases
    assert set(trained.validation_cases).isdisjoint(trained.train_cases)
    scores = read_record(folder / "validation.json", Evaluation)
    assert set(scores.cases) == set(trained.validation_cases)
    assert trained.mean_dice == scores.foreground_mean["dice"].mean
    for case in trained.validation_cases:
        found = nibabel.load(folder / "validation" / f"{case}.nii.gz")
        image = nibabel.load(Path(read_record(prepared.dataset, Dataset).root) / "imagesTr" / f"{case}.nii.gz")
        assert found.shape == image.shape
        assert np.array_equal(found.affine, image.affine)
        assert set(np.unique(np.asarray(found.dataobj))) <= {0, 1, 5}
        probabilities = read_probabilities(folder / "validation", case)
        assert probabilities.dtype == np.float16
        np.testing.assert_allclose(probabilities.astype(np.float32).sum(0), 1, atol=5e-3)


def test_the_fold_predicts(prepared: Paths, trained: TrainedFold) -> None:
    model = load_model([prepared.fold("tiny", "3d_fullres", "0")], torch.device("cpu"))
    assert model.configuration == "3d_fullres"


def test_a_finished_fold_is_not_touched(prepared: Paths, trained: TrainedFold) -> None:
    folder = prepared.fold("tiny", "3d_fullres", "0")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    plan = make_plan(prepared)
    assert is_trained(prepared, plan, "3d_fullres", "0")
    assert train(prepared, plan, "3d_fullres", "0", SHORT) == trained
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_fold_has_one_name_however_it_is_written(prepared: Paths, trained: TrainedFold) -> None:
    plan = make_plan(prepared)
    assert is_trained(prepared, plan, "3d_fullres", "00")
    assert train(prepared, plan, "3d_fullres", "00", SHORT) == trained
    assert not prepared.fold("tiny", "3d_fullres", "00").exists()


def test_all_trains_on_every_case_without_validation(prepared: Paths) -> None:
    record = train(prepared, make_plan(prepared), "3d_fullres", "all", SHORT)
    assert len(record.train_cases) == 6
    assert record.validation_cases == ()
    assert record.mean_dice is None
    assert not (prepared.fold("tiny", "3d_fullres", "all") / "validation").exists()


def test_the_cascade_learns_from_the_held_out_first_stage(prepared: Paths) -> None:
    plan = make_plan(prepared)
    with pytest.raises(UsageError, match="fold_0, fold_1, fold_2"):
        train(prepared, plan, "3d_cascade_fullres", "1", SHORT)
    for fold in ("0", "1", "2"):
        train(prepared, plan, "3d_lowres", fold, SHORT)
    record = train(prepared, plan, "3d_cascade_fullres", "1", SHORT)
    folder = prepared.fold("tiny", "3d_cascade_fullres", "1")
    # The image and one channel a foreground class; no other convolution of this network has three inputs.
    assert any(value.ndim == 5 and value.shape[1] == 1 + 2 for value in weights_of(folder).values())
    kept = list((folder.parent / "previous_stage").glob("*/*.b2nd"))
    assert len(kept) == 6
    before = {path: path.stat().st_mtime_ns for path in kept}
    train(prepared, plan, "3d_cascade_fullres", "0", SHORT)
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert record.mean_dice is not None
    lowres = [prepared.fold("tiny", "3d_lowres", fold) for fold in ("0", "1")]
    never = sorted(read_record(prepared.folds, Folds).folds[2].validation)
    manifest = store.open_store(
        prepared.preprocessed(store.digest(plan, "3d_fullres", read_record(prepared.fingerprint, Fingerprint)))
    )
    with pytest.raises(UsageError, match=f"no fold of 3d_lowres holds out {', '.join(never)}"):
        resample_previous_stage(lowres, manifest, plan.labels, (8, 8, 8), folder.parent / "x", sorted(manifest.cases))


@pytest.mark.parametrize("configuration", ["3d_fullres", "3d_cascade_fullres"])
def test_voxels_from_disk_and_memory_make_the_same_batches(prepared: Paths, configuration: str) -> None:
    plan = make_plan(prepared)
    folder = prepared.preprocessed(store.digest(plan, configuration, read_record(prepared.fingerprint, Fingerprint)))
    manifest, device = store.open_store(folder), torch.device("cpu")
    ids = sorted(manifest.cases)
    previous = None
    if configuration == "3d_cascade_fullres":
        previous = {case: folder / f"{case}.labels.b2nd" for case in ids}  # any label map on the grid will do
    both = []
    for tier in ("memory", "disk"):
        source = open_source(folder, manifest, ids, 1, device, previous, tier)  # type: ignore[arg-type]
        assert source.tier == tier
        sampler = Sampler(source, RECIPE, plan.labels, (8, 8, 8), 2, 7, device, previous and plan.labels)
        both.append(list(batches(sampler, [(0, step) for step in range(12)])))
    for one, other in zip(*both, strict=True):
        assert one.cases == other.cases
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


def test_without_image_libraries_training_still_works(prepared: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg.training.validation.has_image_libraries", lambda: False)
    record = train(prepared, make_plan(prepared, name="headless"), "3d_fullres", "0", SHORT)
    folder = prepared.fold("headless", "3d_fullres", "0")
    assert record.mean_dice is None
    assert not (folder / "validation.json").exists()
    assert not list(folder.glob("validation/*.nii.gz"))
    assert len(list(folder.glob("validation/*.probabilities.b2nd"))) == 2


def test_importing_the_trainer_needs_no_image_libraries() -> None:
    unwanted = (
        "SimpleITK",
        "nibabel",
        "PIL",
        "tifffile",
        "pandas",
        "sklearn",
        "batchgenerators",
        "matplotlib",
        "skimage",
    )
    program = f"import sys, autoseg.pipeline.train; sys.exit(', '.join(set({unwanted}) & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
