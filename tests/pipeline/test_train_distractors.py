"""A second training with the first one's false positives: what it needs, what it learns, what it leaves."""

import os
import shutil
import signal
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage

from autoseg import console
from autoseg.errors import ModelError, Preempted, UsageError
from autoseg.inference.model import load_model
from autoseg.inference.store import read_meta, read_probabilities
from autoseg.pipeline.plan import choose_plan
from autoseg.pipeline.postprocess import choose_postprocessing
from autoseg.pipeline.predict import predict
from autoseg.pipeline.preprocess import preprocess
from autoseg.pipeline.report import report
from autoseg.pipeline.select import select
from autoseg.pipeline.train import train
from autoseg.pipeline.trainings import TrainRequest, train_folds, wanted_configurations
from autoseg.planning.distractors import plan_distractors
from autoseg.preprocessing import store
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Dataset, Folds
from autoseg.records.distractors import DistractorCensus
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Plan
from autoseg.records.results import TrainedFold
from autoseg.records.workspace import Paths
from autoseg.storage.arrays import read_array
from autoseg.training.task import Task, new_learner
from autoseg.training.tiers import TierChoice
from tests.inference.whole import write_probabilities
from tests.pipeline.tiny import FOLDS, SHORT, prepare, weights_of

CPU = torch.device("cpu")


def request(fold: str | None = None, **changes: object) -> TrainRequest:
    given = {"configuration": "3d_fullres", "epochs": 2, "iterations": 2, "seed": 5, "device": "cpu", **changes}
    return TrainRequest(fold=fold, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Paths, Plan]:
    """A dataset whose base is trained on all folds, too briefly to be without false positives."""
    paths, plan = prepare(tmp_path_factory.mktemp("distractors"))
    for fold in FOLDS:
        train(paths, plan, "3d_fullres", fold, SHORT)
    return paths, plan


@pytest.fixture(scope="module")
def tuned(base: tuple[Paths, Plan]) -> tuple[Paths, Plan]:
    """The same, and all folds with distractors."""
    paths, _ = base
    root = read_record(paths.dataset, Dataset).root
    train_folds(root, paths.folder.parent, request(distractors=True))
    return paths, choose_plan(paths, None)


def test_the_base_must_be_trained_on_all_folds(tmp_path: Path) -> None:
    paths, plan = prepare(tmp_path)
    root = read_record(paths.dataset, Dataset).root
    train(paths, plan, "3d_fullres", "1", SHORT)
    with pytest.raises(UsageError, match=r"all folds of 3d_fullres; not trained yet: fold_0, fold_2\. Train it first"):
        train_folds(root, paths.folder.parent, request("1", distractors=True))
    assert read_record(paths.plan("tiny"), Plan) == plan  # nothing is added for a command that fails
    changed, name = plan_distractors(plan, "3d_fullres")
    with pytest.raises(UsageError, match=r"not trained yet: fold_0, fold_2"):
        train(paths, changed, name, "1", SHORT)
    with pytest.raises(UsageError, match="no configuration 2d"):
        train_folds(root, paths.folder.parent, request(distractors=True, configuration="2d"))


def test_all_files_are_there_and_probabilities_have_the_ordinary_heads(tuned: tuple[Paths, Plan]) -> None:
    paths, plan = tuned
    name = "3d_fullres_distractors"
    assert set(plan.configurations) == {"3d_fullres", "3d_lowres", "3d_cascade_fullres", name}
    for fold in FOLDS:
        folder = paths.fold("tiny", name, fold)
        record = read_record(folder / "fold.json", TrainedFold)
        assert record.mean_dice is not None
        census = read_record(folder / "distractors.json", DistractorCensus)
        assert set(census.cases) == set(record.train_cases)
        assert census.num_components > 0
        weights = weights_of(folder)
        assert weights["network.heads.0.bias"].shape == (4,)
        for case in record.validation_cases:
            probabilities = read_probabilities(folder / "validation", case)
            assert len(probabilities) == 3
            np.testing.assert_allclose(probabilities.astype(np.float32).sum(0), 1, atol=5e-3)
            found = nibabel.load(folder / "validation" / f"{case}.nii.gz")
            assert set(np.unique(np.asarray(found.dataobj))) <= {0, 1, 5}


def test_distractors_come_from_the_fold_that_held_the_case_out(tuned: tuple[Paths, Plan]) -> None:
    """Recomputed from the segmentation that validation wrote; the network's grid is here the file's own, turned."""
    paths, _ = tuned
    folder = paths.configuration("tiny", "3d_fullres_distractors") / "distractors"
    (kept,) = folder.iterdir()  # one for all folds
    root = Path(read_record(paths.dataset, Dataset).root)
    held_out_by = {case: k for k, fold in enumerate(read_record(paths.folds, Folds).folds) for case in fold.validation}
    assert len(held_out_by) == 6
    for case, fold in held_out_by.items():
        image = nibabel.load(paths.fold("tiny", "3d_fullres", str(fold)) / "validation" / f"{case}.nii.gz")
        found = np.asarray(nibabel.as_closest_canonical(image).dataobj).T
        label = nibabel.load(root / "labelsTr" / f"{case}.nii.gz")
        reference = np.asarray(nibabel.as_closest_canonical(label).dataobj).T
        expected = np.zeros(found.shape, bool)
        for value in (1, 5):
            numbers, count = ndimage.label(found == value, np.ones((3, 3, 3)))
            for number in range(1, count + 1):
                if not reference[numbers == number].any():
                    expected |= numbers == number
        np.testing.assert_array_equal(read_array(kept / f"{case}.b2nd") != 0, expected)


def test_it_starts_where_its_base_ended(
    tuned: tuple[Paths, Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, plan = tuned
    tasks: list[Task] = []

    def keep(task: Task, *rest: object) -> None:
        tasks.append(task)
        raise KeyboardInterrupt

    monkeypatch.setattr("autoseg.pipeline.train.decide_schedule", keep)
    fresh = Paths(folder=tmp_path / "Tiny")
    shutil.copytree(paths.folder, fresh.folder)
    shutil.rmtree(fresh.fold("tiny", "3d_fullres_distractors", "1"))
    with pytest.raises(KeyboardInterrupt):
        train(fresh, plan, "3d_fullres_distractors", "1", SHORT)
    (task,) = tasks
    network = new_learner(task, "float32").network.eval()
    (before,) = load_model([paths.fold("tiny", "3d_fullres", "1")], CPU).networks
    patch = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(network(patch)[0].softmax(1), before(patch)[0].softmax(1), atol=1e-6)


def test_select_compares_it_with_its_base_and_all_else_works(tuned: tuple[Paths, Plan], tmp_path: Path) -> None:
    paths, plan = tuned
    selection = select(paths, plan)
    both = ("3d_fullres", "3d_fullres_distractors")
    assert {c.configurations for c in selection.candidates} == {both[:1], both[1:], both}
    forced = selection.model_copy(update={"configurations": both, "folds": dict.fromkeys(both, FOLDS)})
    write_record(paths.selection, forced)
    choose_postprocessing(paths, plan)
    images = Path(read_record(paths.dataset, Dataset).root) / "imagesTr"
    written = predict(paths, images, tmp_path / "out", device="cpu")
    assert len(written) == 6
    page = report(paths).read_text()
    assert "autoseg train Tiny 3d_fullres --plan tiny --distractors --epochs 2" in page
    assert "autoseg train Tiny 3d_fullres --plan tiny --epochs 2" in page


def test_the_order_of_training(tuned: tuple[Paths, Plan]) -> None:
    _, plan = tuned
    assert wanted_configurations(plan, ["3d_fullres_distractors"]) == ["3d_fullres", "3d_fullres_distractors"]
    changed, _ = plan_distractors(plan, "3d_cascade_fullres")
    wanted = wanted_configurations(changed, ["3d_cascade_fullres_distractors"])
    assert wanted == ["3d_lowres", "3d_cascade_fullres", "3d_cascade_fullres_distractors"]


@pytest.mark.parametrize("kind", ["ignore", "regions"])
def test_ignored_voxels_and_regions(tmp_path: Path, kind: str) -> None:
    paths, plan = prepare(tmp_path, kind)
    for fold in FOLDS:
        train(paths, plan, "3d_fullres", fold, SHORT)
    changed, name = plan_distractors(plan, "3d_fullres")
    record = train(paths, changed, name, "0", SHORT)
    folder = paths.fold("tiny", name, "0")
    heads = 3 if kind == "ignore" else 2
    for case in record.validation_cases:
        assert len(read_probabilities(folder / "validation", case)) == heads
    assert weights_of(folder)["network.heads.0.bias"].shape == (heads + 1,)
    (kept,) = (folder.parent / "distractors").iterdir()
    stores = paths.preprocessed(store.digest(plan, "3d_fullres", read_record(paths.fingerprint, Fingerprint)))
    found = 0
    for case in record.train_cases:
        marked, labels = read_array(kept / f"{case}.b2nd"), store.read_labels(stores, case)
        assert not labels[marked != 0].any()  # neither foreground nor to be ignored
        found += int(marked.sum())
    assert found > 0


def test_voxels_from_disk_and_memory_are_the_same(base: tuple[Paths, Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    paths, plan = base
    changed, name = plan_distractors(plan, "3d_fullres")
    changed = changed.model_copy(update={"name": "tiers"})
    shutil.copytree(paths.configuration("tiny", "3d_fullres"), paths.configuration("tiers", "3d_fullres"))
    weights = []
    for tier in ("memory", "disk"):
        with monkeypatch.context() as patch:
            patch.setattr("autoseg.training.source.tier_here", lambda *_, tier=tier: TierChoice(tier, ""))
            train(paths, changed, name, "0", SHORT)
        weights.append(weights_of(paths.fold("tiers", name, "0")))
        shutil.rmtree(paths.fold("tiers", name, "0"))
    assert all(torch.equal(weights[0][key], value) for key, value in weights[1].items())


def test_an_interrupted_training_goes_on_to_the_same_weights(
    base: tuple[Paths, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, plan = base
    changed, name = plan_distractors(plan, "3d_fullres")
    changed = changed.model_copy(update={"name": "stopped"})
    shutil.copytree(paths.configuration("tiny", "3d_fullres"), paths.configuration("stopped", "3d_fullres"))
    folder = paths.fold("stopped", name, "2")

    def stopping(items, total, what):  # type: ignore[no-untyped-def]
        for number, item in enumerate(items):
            if what.endswith("fold 2") and number == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield item

    with monkeypatch.context() as patch:
        patch.setattr(console, "track", stopping)
        with pytest.raises(Preempted):
            train(paths, changed, name, "2", SHORT)
    assert (folder / "checkpoint").is_dir()
    train(paths, changed, name, "2", SHORT)
    resumed = weights_of(folder)
    shutil.rmtree(folder)
    train(paths, changed, name, "2", SHORT)
    whole = weights_of(folder)
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(whole[key], value) for key, value in resumed.items())


def test_a_base_trained_anew_is_noticed(base: tuple[Paths, Plan]) -> None:
    paths, plan = base
    changed, name = plan_distractors(plan, "3d_fullres")
    changed = changed.model_copy(update={"name": "anew"})
    shutil.copytree(paths.configuration("tiny", "3d_fullres"), paths.configuration("anew", "3d_fullres"))
    folder = paths.fold("anew", name, "0")
    train(paths, changed, name, "0", SHORT)
    (folder / "fold.json").unlink()
    other = paths.fold("anew", "3d_fullres", "2") / "weights"
    shutil.rmtree(other)
    shutil.copytree(paths.fold("anew", "3d_fullres", "1") / "weights", other)
    with pytest.raises(ModelError, match="whose false positives it is taught was trained anew since"):
        train(paths, changed, name, "0", SHORT)


def test_without_false_positives_it_trains_and_says_so(
    base: tuple[Paths, Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    """Held-out probabilities are replaced by ones that say background everywhere."""
    paths, plan = base
    changed, name = plan_distractors(plan, "3d_fullres")
    changed = changed.model_copy(update={"name": "clean"})
    shutil.copytree(paths.configuration("tiny", "3d_fullres"), paths.configuration("clean", "3d_fullres"))
    for fold in FOLDS:
        validation = paths.fold("clean", "3d_fullres", fold) / "validation"
        for case in read_record(validation.parent / "fold.json", TrainedFold).validation_cases:
            nothing = np.zeros_like(read_probabilities(validation, case))
            nothing[0] = 1
            write_probabilities(validation, read_meta(validation, case), nothing)
    capsys.readouterr()
    record = train(paths, changed, name, "0", SHORT)
    assert "no training case has a false-positive component" in capsys.readouterr().err
    assert record.mean_dice is not None


def test_all_cases_need_a_base_of_all_cases(base: tuple[Paths, Plan]) -> None:
    paths, plan = base
    changed, name = plan_distractors(plan, "3d_fullres")
    with pytest.raises(UsageError, match="starts from the weights of 3d_fullres fold_all, which is not trained"):
        train(paths, changed, name, "all", SHORT)
    train(paths, plan, "3d_fullres", "all", SHORT)
    record = train(paths, changed, name, "all", SHORT)
    assert len(record.train_cases) == 6
    census = read_record(paths.fold("tiny", name, "all") / "distractors.json", DistractorCensus)
    assert set(census.cases) == set(record.train_cases)


@pytest.mark.slow
def test_a_cascade_learns_distractors_too(tmp_path: Path) -> None:
    paths, plan = prepare(tmp_path)
    preprocess(paths, plan, num_workers=1)
    for configuration in ("3d_lowres", "3d_cascade_fullres"):
        for fold in FOLDS:
            train(paths, plan, configuration, fold, SHORT)
    changed, name = plan_distractors(plan, "3d_cascade_fullres")
    record = train(paths, changed, name, "0", SHORT)
    folder = paths.fold("tiny", name, "0")
    weights = weights_of(folder)
    assert any(value.ndim == 5 and value.shape[1] == 3 for value in weights.values())
    assert len(read_probabilities(folder / "validation", record.validation_cases[0])) == 3
    assert load_model([folder], CPU).previous is not None
