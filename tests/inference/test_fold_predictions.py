"""Predictions of the folds of several configurations, one after another."""

from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.inference import fold_predictions
from autoseg.inference.export import mean_disagreement, mean_probabilities, native_windows
from autoseg.inference.fold_predictions import FoldPredictions, fold_windows, predict_folds
from autoseg.inference.model import load_model
from autoseg.inference.padding import PaddedImage
from autoseg.inference.predictor import OnGrid, segment
from autoseg.inference.store import disagreement_path, folds_path, read_meta, read_probabilities
from autoseg.records.dataset import Case
from autoseg.records.geometry import Geometry
from autoseg.records.labels import LabelScheme
from autoseg.records.results import PostprocessingRule, PreprocessedCase
from autoseg.selection.predictor import Predictor, prepare
from autoseg.storage.arrays import read_array, write_array
from tests.inference.whole import predict_folds_at_once
from tests.pipeline.fakes import make_plan, write_fold
from tests.pipeline.test_predict import CPU, put


def test_a_fold_is_averaged_over_the_configurations(tmp_path: Path) -> None:
    """Three folds of one, two of the other, which begins again."""
    for model, folds in ((0, 3), (1, 2)):
        for fold in range(folds):
            values = np.full((2, 1, 1, 3), (model + 1) * (fold + 1) / 10, np.float16)
            write_array(tmp_path / f"{model}_{fold}.probabilities.b2nd", values)
    write_array(tmp_path / "0_0.disagreement.b2nd", np.full((1, 1, 3), 40, np.uint8))
    write_array(tmp_path / "0_1.disagreement.b2nd", np.full((1, 1, 3), 81, np.uint8))
    folds = list(FoldPredictions(np.zeros((1, 1, 3), np.int16), None, tmp_path, (3, 2)).folds())
    np.testing.assert_allclose([p.read(slice(0, 1))[0, 0, 0, 0] for p, _ in folds], [0.15, 0.3, 0.25], atol=1e-3)
    assert [None if d is None else int(d[0, 0, 0]) for _, d in folds] == [40, 81, None]


def test_means() -> None:
    first, second = np.full((1, 2, 2, 2), 0.25, np.float16), np.full((1, 2, 2, 2), 0.75, np.float16)
    np.testing.assert_array_equal(mean_probabilities([first, second]), np.full((1, 2, 2, 2), 0.5))
    assert mean_probabilities([first]) is first
    assert mean_disagreement([None, None]) is None
    known = np.full((1, 1, 1), 7, np.uint8)
    assert mean_disagreement([None, known]) is known
    assert mean_disagreement([known, known + 2])[0, 0, 0] == 8


def test_folds_one_by_one_give_the_joint_segmentation(tmp_path: Path) -> None:
    names = ("3d_fullres", "3d_lowres")
    plan = make_plan(names=names)
    models = []
    for name in names:
        folders = [
            write_fold(tmp_path / "plan" / name / f"fold_{k}", plan, name, str(k), offset=o)
            for k, o in enumerate((-30.0, 45.0))
        ]
        models.append(load_model(folders, CPU))
    put(tmp_path / "images", "case.nii.gz")
    case = Case(id="case", images=("case.nii.gz",))
    for chosen in (tuple(models[:1]), tuple(models)):
        grids: dict[str, OnGrid] = prepare(Predictor(chosen, PostprocessingRule(), CPU), tmp_path / "images", case)
        folder = tmp_path / f"folds_{len(chosen)}"
        folder.mkdir()
        predictions = predict_folds_at_once(chosen, grids, torch.device("cpu"), folder)
        np.testing.assert_array_equal(predictions.labels, segment(chosen, grids, CPU))
        assert len(list(predictions.folds())) == 2
        assert disagreement_path(folder, "all").is_file()


META = PreprocessedCase(
    id="case",
    geometry=Geometry(shape=(1, 1, 2), spacing_mm=(1, 1, 1), affine=((0, 0, 1, 0), (0, 1, 0, 0), (1, 0, 0, 0))),
    axes=(0, 1, 2),
    flips=(False, False, False),
    crop=((0, 1), (0, 1), (0, 2)),
    shape_before_crop=(1, 1, 2),
    spacing_before_mm=(1, 1, 1),
    shape=(1, 1, 2),
    spacing_mm=(1, 1, 1),
)


def test_what_the_folds_disagree_about_is_kept(tmp_path: Path) -> None:
    """Two folds and the mean of their logits, written down; of one fold there is nothing to compare."""
    logits = torch.tensor([[[4.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [3.0, 0.0]]])  # fold, head, voxel
    labels = LabelScheme(class_names=("background", "a"), class_values=(0, 1), num_entries=2)
    meta = META
    (tmp_path / "folds").mkdir()
    windows = zip(*(native_windows([fold[:, None, None]], meta) for fold in logits), strict=True)
    predictions = predict_folds(windows, [2], meta, labels, tmp_path / "folds")
    single, together = logits.softmax(1), logits.mean(0).softmax(0)
    wanted = (single - together).abs().sum(1).div(2).mean(0)
    assert float(wanted[0]) > 0.3
    predictions.keep(tmp_path)
    found = read_array(folds_path(tmp_path, "case"))
    np.testing.assert_allclose(found[0, 0] / 255, wanted, atol=0.003)
    np.testing.assert_allclose(read_probabilities(tmp_path, "case")[:, 0, 0], together, atol=1e-3)
    assert read_meta(tmp_path, "case") == meta
    assert not disagreement_path(tmp_path, "case").exists()
    (tmp_path / "one").mkdir()
    predict_folds(zip(native_windows([logits[0][:, None, None]], meta)), [1], meta, labels, tmp_path / "one").keep(
        tmp_path / "one"
    )
    assert not folds_path(tmp_path / "one", "case").exists()


def test_only_what_somebody_reads_is_written(tmp_path: Path) -> None:
    """Without `per_fold` only the ensemble's files, which a single fold is read from; not kept: only what is read."""
    logits = torch.tensor([[[4.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [3.0, 0.0]]])
    labels = LabelScheme(class_names=("background", "a"), class_values=(0, 1), num_entries=2)
    meta = META

    def predicted(name: str, num_folds: int, per_fold: bool, kept: bool) -> tuple[FoldPredictions, set[str]]:
        folder = tmp_path / name
        folder.mkdir()
        mirrored = [torch.cat([fold, torch.tensor([[0.2, 0.4]])]) for fold in logits[:num_folds]]
        windows = zip(*(native_windows([fold[:, None, None]], meta) for fold in mirrored), strict=True)
        predictions = predict_folds(windows, [num_folds], meta, labels, folder, per_fold=per_fold, kept=kept)
        return predictions, {path.name.removesuffix(".b2nd") for path in folder.iterdir()}

    everything = {"all.probabilities", "all.disagreement"}
    assert predicted("saved", 2, False, True)[1] == {*everything, "all.folds"}
    assert predicted("saved_one", 1, False, True)[1] == everything
    folds = {f"0_{fold}.{what}" for fold in (0, 1) for what in ("probabilities", "disagreement")}
    assert predicted("per_fold", 2, True, False)[1] == {"all.probabilities", *folds}
    predictions, files = predicted("per_fold_of_one", 1, True, False)
    assert files == everything
    ((alone, disagreement),) = predictions.folds()
    np.testing.assert_array_equal(alone.read(slice(0, 1)), read_array(predictions.folder / "all.probabilities.b2nd"))
    np.testing.assert_array_equal(disagreement, [[[51, 102]]])
    assert predicted("both", 2, True, True)[1] == {*everything, "all.folds", *folds}


def test_all_folds_of_a_model_share_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three folds would otherwise hold three copies of it on a GPU."""
    plan = make_plan()
    folders = [write_fold(tmp_path / "plan" / "3d_fullres" / f"fold_{k}", plan, fold=str(k)) for k in range(3)]
    model = load_model(folders, CPU)
    put(tmp_path / "images", "case.nii.gz")
    grids = prepare(
        Predictor((model,), PostprocessingRule(), CPU), tmp_path / "images", Case(id="case", images=("case.nii.gz",))
    )
    images = []
    network_rows = fold_predictions.network_rows
    monkeypatch.setattr(
        fold_predictions,
        "network_rows",
        lambda model, networks, image, device: (images.append(image), network_rows(model, networks, image, device))[1],
    )
    assert len(next(fold_windows([model], grids, CPU))) == 3
    assert len(images) == 3
    assert isinstance(images[0], PaddedImage)
    assert all(image is images[0] for image in images)
