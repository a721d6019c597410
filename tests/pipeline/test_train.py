"""The stage as a whole on cases of a few voxels: what it leaves, what it refuses, how it goes on."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from autoseg import console
from autoseg.errors import DataError, ModelError, Preempted, UsageError
from autoseg.inference.model import load_model
from autoseg.inference.store import read_probabilities
from autoseg.pipeline.fingerprint import verify_and_fingerprint
from autoseg.pipeline.ingest import ingest
from autoseg.pipeline.preprocess import preprocess
from autoseg.pipeline.train import TrainOptions, is_trained, train
from autoseg.preprocessing import store
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Dataset, Folds
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.recipe import Mirroring, Sampling
from autoseg.records.results import Evaluation, TrainedFold
from autoseg.records.workspace import Paths
from autoseg.storage import tensors
from autoseg.storage.locks import locked
from autoseg.training.batches import Sampler, batches
from autoseg.training.previous_stage import resample_previous_stage
from autoseg.training.schedule import TrainingSchedule
from autoseg.training.source import open_source
from tests.pipeline.tiny import make_plan, write_dataset
from tests.training.tools import RECIPE

SHORT = TrainOptions(epochs=2, iterations=2, seed=5, device="cpu")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    folder = tmp_path_factory.mktemp("train")
    write_dataset(folder / "Tiny")
    paths = ingest(str(folder / "Tiny"), folder / "work", num_folds=3)
    verify_and_fingerprint(paths, num_workers=1)
    preprocess(paths, make_plan(paths), num_workers=1)
    return paths


@pytest.fixture(scope="module")
def trained(prepared: Paths) -> TrainedFold:
    return train(prepared, make_plan(prepared), "3d_fullres", "0", SHORT)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return tensors.load(folder / "weights")[0]["weights"]


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


def test_other_options_on_a_finished_fold_are_warned_of(
    prepared: Paths, trained: TrainedFold, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(prepared)
    train(prepared, plan, "3d_fullres", "0", SHORT.model_copy(update={"epochs": 9, "seed": 6}))
    told = capsys.readouterr().err
    assert "--epochs 9 changes nothing: 3d_fullres fold 0 was trained with 2" in told
    assert "--seed 6 changes nothing" in told
    assert "--iterations" not in told
    train(prepared, plan, "3d_fullres", "0", SHORT)
    assert "warning" not in capsys.readouterr().err


def test_other_cases_than_trained_on_are_refused(prepared: Paths, trained: TrainedFold) -> None:
    plan, before = make_plan(prepared), read_record(prepared.folds, Folds)
    schedule = TrainingSchedule(
        epochs=2, iterations_per_epoch=2, seed=5, precision="float32", device="cpu", cases=before.folds[1]
    )
    write_record(prepared.fold("half", "3d_fullres", "1") / "schedule.json", schedule)
    write_record(prepared.folds, before.model_copy(update={"folds": before.folds[1:] + before.folds[:1]}))
    try:
        with pytest.raises(ModelError, match="begun with other cases: case_"):
            train(prepared, plan, "3d_fullres", "0", SHORT)
        with pytest.raises(ModelError, match="begun with other cases: case_"):
            train(prepared, make_plan(prepared, name="half"), "3d_fullres", "1", SHORT)
    finally:
        write_record(prepared.folds, before)


def test_folds_of_cases_that_do_not_exist_are_refused(prepared: Paths) -> None:
    before = read_record(prepared.folds, Folds)
    foreign = before.folds[2].model_copy(update={"train": (*before.folds[2].train, "gone")})
    write_record(prepared.folds, before.model_copy(update={"folds": (*before.folds[:2], foreign)}))
    try:
        with pytest.raises(DataError, match=r"fold 2: no such training cases: gone\."):
            train(prepared, make_plan(prepared, name="foreign"), "3d_fullres", "2", SHORT)
        write_record(prepared.folds, Folds(folds=(), source="too few cases"))
        with pytest.raises(UsageError, match="too few for folds, there is 'all'"):
            train(prepared, make_plan(prepared, name="foreign"), "3d_fullres", "0", SHORT)
    finally:
        write_record(prepared.folds, before)


def test_a_case_newer_than_the_fingerprint_is_named(prepared: Paths) -> None:
    before = read_record(prepared.dataset, Dataset)
    new = before.training[0].model_copy(update={"id": "new"})
    write_record(prepared.dataset, before.model_copy(update={"training": (*before.training[1:], new)}))
    try:
        with pytest.raises(DataError, match=r"new came since; case_0 went since"):
            train(prepared, make_plan(prepared, name="newer"), "3d_fullres", "all", SHORT)
    finally:
        write_record(prepared.dataset, before)


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
    assert any(value.ndim == 5 and value.shape[1] == 1 + 2 for value in _weights(folder).values())
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


def test_unknown_configurations_and_folds_are_named(prepared: Paths) -> None:
    plan = make_plan(prepared)
    with pytest.raises(UsageError, match="3d_lowres"):
        train(prepared, plan, "2d", "0", SHORT)
    for fold in ("3", "03", "-1", "zero"):
        with pytest.raises(UsageError, match="0 to 2"):
            train(prepared, plan, "3d_fullres", fold, SHORT)


def test_sampling_weights_must_fit_the_targets(prepared: Paths) -> None:
    recipe = RECIPE.model_copy(update={"sampling": Sampling(class_weights=(1.0, 1.0, 1.0))})
    plan = make_plan(prepared, name="weighted", recipe=recipe)
    with pytest.raises(UsageError, match="2 numbers from 0 up, one a target"):
        train(prepared, plan, "3d_fullres", "0", SHORT)


def test_mirroring_of_classes_that_are_not_there_is_refused_before_training(prepared: Paths) -> None:
    recipe = RECIPE.model_copy(update={"mirroring": Mirroring(swap_axis=2, swap_pairs=((1, 7),))})
    with pytest.raises(ModelError, match="swap_pairs"):
        train(prepared, make_plan(prepared, name="mirrored", recipe=recipe), "3d_fullres", "0", SHORT)


def test_another_content_of_the_plan_is_refused(prepared: Paths, trained: TrainedFold) -> None:
    with pytest.raises(ModelError, match="another name"):
        train(prepared, make_plan(prepared, batch_size=3), "3d_fullres", "0", SHORT)


def test_other_options_than_begun_with_are_refused(prepared: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(prepared, name="begun")
    schedule = TrainingSchedule(epochs=2, iterations_per_epoch=2, seed=5, precision="float32", device="cpu")
    write_record(prepared.fold("begun", "3d_fullres", "1") / "schedule.json", schedule)
    for changed in ({"epochs": 3}, {"iterations": 3}, {"seed": 3}):
        with pytest.raises(UsageError, match=f"--{next(iter(changed))} 3"):
            train(prepared, plan, "3d_fullres", "1", SHORT.model_copy(update=changed))
    assert train(prepared, plan, "3d_fullres", "1", TrainOptions(device="cpu", budget_seconds=99)).epochs == 2
    assert "2 epochs of 2 steps were fixed with no budget" in capsys.readouterr().err


def test_not_preprocessed_says_what_to_do(prepared: Paths) -> None:
    plan = make_plan(prepared, name="other", spacing_mm=(3.0, 3.0, 3.0))
    with pytest.raises(UsageError, match=r"does not exist\. Preprocess the dataset: `autoseg preprocess"):
        train(prepared, plan, "3d_fullres", "0", SHORT)


def test_a_fold_in_use_is_refused(prepared: Paths) -> None:
    plan = make_plan(prepared, name="locked")
    folder = prepared.fold("locked", "3d_fullres", "0")
    with locked(folder, "training"), pytest.raises(UsageError, match=f"process {os.getpid()}"):
        train(prepared, plan, "3d_fullres", "0", SHORT)


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


@pytest.mark.slow
def test_half_a_minute_holds_everything(prepared: Paths) -> None:
    started = time.monotonic()
    options = TrainOptions(budget_seconds=30.0, device="cpu")
    train(prepared, make_plan(prepared, name="budget"), "3d_fullres", "0", options)
    assert 20 <= time.monotonic() - started <= 33


@pytest.mark.parametrize(("name", "last"), [("stopped", "scores.json"), ("headless_stopped", "probabilities.b2nd")])
def test_a_validation_that_was_interrupted_goes_on(
    prepared: Paths, monkeypatch: pytest.MonkeyPatch, name: str, last: str
) -> None:
    plan, folder = make_plan(prepared, name=name), prepared.fold(name, "3d_fullres", "0")
    monkeypatch.setattr("autoseg.training.validation.has_image_libraries", lambda: name == "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(console, "track", _signalled_after_one_case)
        with pytest.raises(Preempted):
            train(prepared, plan, "3d_fullres", "0", SHORT)
    (done,) = folder.glob(f"validation/*.{last}")
    before = done.stat().st_mtime_ns
    assert not is_trained(prepared, plan, "3d_fullres", "0")
    record = train(prepared, plan, "3d_fullres", "0", SHORT)
    assert len(list(folder.glob(f"validation/*.{last}"))) == len(record.validation_cases) == 2
    assert done.stat().st_mtime_ns == before


def _signalled_after_one_case(items, total, what):  # type: ignore[no-untyped-def]
    for number, item in enumerate(items):
        if what == "validation" and number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        yield item


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


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_weights(prepared: Paths, tmp_path: Path) -> None:
    options = TrainOptions(epochs=30, iterations=4, seed=5, device="cpu")
    plan = make_plan(prepared, name="killed")
    write_record(prepared.plan("killed"), plan)
    program = (
        "from pathlib import Path; from autoseg.records.workspace import Paths; from autoseg.records.plan import Plan;"
        "from autoseg.records.base import read_record; from autoseg.pipeline.train import *; "
        f"p = Paths(folder=Path({str(prepared.folder)!r})); "
        f"train(p, read_record(p.plan('killed'), Plan), '3d_fullres', '2', TrainOptions(**{options.model_dump()}))"
    )
    folder = prepared.fold("killed", "3d_fullres", "2")
    for at_epoch in (3, 9):
        process = subprocess.Popen([sys.executable, "-c", program])
        while not (folder / "history.jsonl").is_file() or _num_lines(folder) < at_epoch:
            time.sleep(0.05)
            assert process.poll() is None, "the training ended before it could be killed"
        process.kill()
        process.wait()
    train(prepared, plan, "3d_fullres", "2", options)
    resumed = _weights(folder)
    shutil.rmtree(folder)
    train(prepared, plan, "3d_fullres", "2", options)
    whole = _weights(folder)
    assert all(torch.equal(whole[name], value) for name, value in resumed.items())


def _num_lines(folder: Path) -> int:
    return len((folder / "history.jsonl").read_text().splitlines())
