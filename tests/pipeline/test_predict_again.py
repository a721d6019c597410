"""Predicting where it was predicted before: nothing of an earlier segmentation stays beside a new one."""

from pathlib import Path

import numpy as np
import pytest

from autoseg import console
from autoseg.cli.main import main
from autoseg.errors import DataError, PartialError, UsageError
from autoseg.images.writing import write_image, write_label
from autoseg.pipeline.postprocess import postprocess_folder
from autoseg.pipeline.predict import predict
from autoseg.records.base import write_record
from autoseg.records.postprocessing import ComponentRule, ComponentSettings, LearningSettings, TargetRule
from autoseg.records.prediction_folder import QUALITY_TABLE, TABLES, Finished, read_finished
from autoseg.records.results import PostprocessingRule, Selection
from autoseg.records.workspace import Paths
from autoseg.storage.locks import locked
from tests.pipeline.fakes import LABELS, blobs, image_of, make_plan, make_workspace, oblique_grid, write_fold

GRID = oblique_grid(blobs().shape)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """Two folds that mirror, and a rule of components that changes nothing."""
    paths, plan = make_workspace(tmp_path), make_plan()
    for fold in ("0", "1"):
        write_fold(paths.fold("plan", "3d_fullres", fold), plan, fold=fold)
    names = ("3d_fullres",)
    write_record(
        paths.selection, Selection(plan="plan", configurations=names, folds={names[0]: ("0", "1")}, candidates=())
    )
    rule = ComponentRule(
        components=ComponentSettings(),
        learning=LearningSettings(),
        num_cases=6,
        num_groups=6,
        targets=tuple(TargetRule(target=name, method="nothing") for name in ("a", "b")),
        counts={},
        scores=(),
    )
    write_record(paths.postprocessing, PostprocessingRule(components=rule))
    return paths


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for case in "ab":
        write_image(tmp_path / "images" / f"{case}.nii.gz", image_of(blobs(seed=ord(case))), GRID)
        write_label(tmp_path / "truth" / f"{case}.nii.gz", LABELS.to_file(blobs(seed=ord(case))), GRID)
    return tmp_path / "images"


def test_two_at_a_time_are_refused_and_what_a_killed_one_left_is_removed(
    paths: Paths, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / ".scratch-killed").mkdir(parents=True)
    (out / ".scratch-killed" / "all.probabilities.b2nd").write_bytes(b"many GiB")
    (out / ".partial-file.json").write_text("another command may be writing it")
    (out / ".partial-export" / "onnx").mkdir(parents=True)
    (out / ".partial-export" / "onnx" / "model.onnx").write_text("this too")
    with locked(out, "predicting"), pytest.raises(UsageError, match=r"is in use: process .* is predicting"):
        predict(paths, images, out, device="cpu")
    assert (out / ".scratch-killed").is_dir()
    predict(paths, images, out, device="cpu", save_probabilities=True)
    assert {name for name in files(out) if name.startswith(".")} == {".partial-file.json", ".partial-export"}
    assert (out / ".partial-export" / "onnx" / "model.onnx").is_file()


SIDE_FILES = {".components.json", ".probabilities.b2nd", ".disagreement.b2nd", ".folds.b2nd", ".json"}


@pytest.mark.parametrize("keep", [False, True])
def test_side_files_of_another_model_are_removed(paths: Paths, images: Path, tmp_path: Path, keep: bool) -> None:
    out = tmp_path / "out"
    predict(paths, images, out, device="cpu", save_probabilities=True)
    assert files(out) >= {f"{case}{ending}" for case in "ab" for ending in SIDE_FILES}
    own = {"notes.json": "mine", "c.json": "{}", "a.json.txt": "mine"}
    for name, content in own.items():
        (out / name).write_text(content)
    before = (out / "b.probabilities.b2nd").read_bytes()
    (images / "b.nii.gz").rename(tmp_path / "b.nii.gz")  # it is not predicted again, so what is there is its own
    predict(paths.fold("plan", "3d_fullres", "0"), images, out, device="cpu", keep_finished=keep)
    others = {"predicted.json", *own, "b.nii.gz", *(f"b{ending}" for ending in SIDE_FILES)}
    assert files(out) == {"a.nii.gz", *others}
    assert (out / "b.probabilities.b2nd").read_bytes() == before
    assert set(read_finished(out).cases) == {"a"}  # of this model


def test_an_earlier_segmentation_of_a_case_that_fails_now_is_removed(
    paths: Paths, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    predict(paths, images, out, device="cpu")
    broken = image_of(blobs())
    broken[0, 0, 0, 0] = np.nan
    write_image(images / "a.nii.gz", broken, GRID)
    for keep in (True, False):
        model = paths.fold("plan", "3d_fullres", "0")
        with pytest.raises(PartialError, match="1 of 2 cases"):
            predict(model, images, out, device="cpu", keep_finished=keep)
        assert files(out) == {"predicted.json", "b.nii.gz"}
        assert set(read_finished(out).cases) == {"b"}


@pytest.mark.parametrize("keep", [False, True])
def test_a_segmentation_in_another_format_is_replaced_too(
    paths: Paths, images: Path, tmp_path: Path, keep: bool
) -> None:
    """Two segmentations of one case would leave the reader to guess; other files of that name are somebody's own."""
    out = tmp_path / "out"
    predict(paths, images, out, device="cpu")
    assert read_finished(out).endings == dict.fromkeys("ab", ".nii.gz")
    (out / "a.png").write_bytes(b"a picture of it")
    (images / "a.nii.gz").unlink()
    (images / "b.nii.gz").rename(tmp_path / "b.nii.gz")  # it is not predicted again
    write_image(images / "a.nrrd", image_of(blobs(seed=ord("a"))), GRID)
    predict(paths, images, out, device="cpu", keep_finished=keep)
    assert {name for name in files(out) if name[0] == "a"} >= {"a.nrrd", "a.png"}
    assert not (out / "a.nii.gz").exists()
    assert read_finished(out).endings == {"a": ".nrrd", "b": ".nii.gz"}
    (out / "c.nii.gz").write_bytes(b"not ours")
    write_image(images / "c.nrrd", image_of(blobs()), GRID)
    (images / "a.nrrd").rename(images / "a.mha")
    with pytest.raises(PartialError, match="is no MetaImage file"):
        predict(paths.fold("plan", "3d_fullres", "0"), images, out, device="cpu", keep_finished=keep)
    assert files(out) == {"predicted.json", "a.png", "b.nii.gz", "b.components.json", "c.nii.gz", "c.nrrd"}
    assert read_finished(out).endings == {"b": ".nii.gz", "c": ".nrrd"}


def test_what_a_record_says_removes_no_other_file(paths: Paths, images: Path, tmp_path: Path) -> None:
    """Nor does one that cannot be read end a run, unless it is to be continued."""
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "mine").write_text("mine")
    (out / "a.txt").write_text("mine")
    write_record(out / "predicted.json", Finished(endings={"a": ".txt", "b": "/../../mine"}))
    predict(paths, images, out, device="cpu")
    assert (out / "a.txt").read_text() == (tmp_path / "mine").read_text() == "mine"
    (out / "predicted.json").write_text("{")
    with pytest.raises(DataError, match=r"predicted\.json"):
        predict(paths, images, out, device="cpu", keep_finished=True)
    predict(paths, images, out, device="cpu")
    assert set(read_finished(out).cases) == {"a", "b"}


def test_post_processed_segmentations_are_no_longer_as_predicted(paths: Paths, images: Path, tmp_path: Path) -> None:
    """Into the folder of the predictions themselves, by a rule that lists no changes of components."""
    out, plan = tmp_path / "out", make_plan()
    predict(paths, images, out, device="cpu", save_probabilities=True)
    for name in ("quality.csv", "measurements.csv", "evaluation.json"):
        (out / name).write_text("of what was predicted")
    rule = PostprocessingRule(keep_largest=(1,))
    postprocess_folder(rule, plan, "3d_fullres", out, images, out)
    kept = SIDE_FILES - {".components.json"}
    assert files(out) == {f"{case}{ending}" for case in "ab" for ending in (".nii.gz", *kept)}
    assert not read_finished(out).cases


def test_scores_and_measurements_of_earlier_segmentations_are_removed(
    paths: Paths, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, truth = tmp_path / "out", tmp_path / "truth"
    call = ["predict", "-i", str(images), "-o", str(out), "--device", "cpu", "--model"]
    first = [*call, str(paths.folder)]
    assert main([*first, "--shift", "--measurements", "--references", str(truth)]) == 0
    tables = {"measurements.csv", "evaluation.json", "evaluation.csv", "component_shift.json"}
    assert main(["evaluate", str(out), str(truth), "--against", str(truth)]) == 0
    assert files(out) >= tables | {"comparison.json", "comparison.csv"}
    kept = (out / "measurements.csv").read_bytes()
    assert main([*first, "--continue"]) == 0  # nothing is segmented anew: they still hold
    assert files(out) >= tables
    assert (out / "measurements.csv").read_bytes() == kept
    capsys.readouterr()
    console.configure(quiet=False)
    assert main([*call, str(paths.fold("plan", "3d_fullres", "0")), "--continue"]) == 0
    assert files(out) == {"predicted.json", "a.nii.gz", "b.nii.gz"}
    told = capsys.readouterr().err
    assert f"{out}: evaluation.json, " in told
    assert "measurements.csv" in told
    assert main([*call, str(paths.fold("plan", "3d_fullres", "0")), "--measurements"]) == 0
    assert files(out) == {"predicted.json", "a.nii.gz", "b.nii.gz", "measurements.csv"}


def test_files_of_others_stay_where_no_segmentation_was(paths: Paths, images: Path, tmp_path: Path) -> None:
    """Names as general as these may be somebody's own; beside earlier segmentations they are about those."""
    own = dict.fromkeys((*TABLES, QUALITY_TABLE), "mine")
    for folder, there in (("fresh", None), ("others", "a.nii.gz")):
        out = tmp_path / folder
        out.mkdir()
        for name, content in own.items():
            (out / name).write_text(content)
        if there is not None:
            (out / there).write_bytes(b"of another program")
        predict(paths, images, out, device="cpu", save_probabilities=True)
        assert files(out) & set(own) == (set(own) if there is None else set())
        done = tmp_path / f"{folder} done"
        done.mkdir()
        (done / "evaluation.csv").write_text("mine")
        postprocess_folder(PostprocessingRule(keep_largest=(1,)), make_plan(), "3d_fullres", out, images, done)
        assert (done / "evaluation.csv").read_text() == "mine"


def test_post_processing_does_not_replace_the_images(paths: Paths, images: Path, tmp_path: Path) -> None:
    predict(paths, images, tmp_path / "out", device="cpu", save_probabilities=True)
    before = {path.name: path.read_bytes() for path in images.iterdir()}
    with pytest.raises(UsageError, match="would replace the images"):
        postprocess_folder(PostprocessingRule(), make_plan(), "3d_fullres", tmp_path / "out", images, images)
    assert {path.name: path.read_bytes() for path in images.iterdir()} == before
