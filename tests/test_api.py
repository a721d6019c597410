"""The Python API: arrays get the answers that files get, whatever is known of where they lie; imported late."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import autoseg
from autoseg.errors import DataError, ModelError, UsageError
from autoseg.images.reading import read_image, read_label
from autoseg.images.writing import write_image
from autoseg.inference.store import read_probabilities
from autoseg.pipeline.pack import pack
from autoseg.pipeline.predict import predict
from autoseg.records.base import write_record
from autoseg.records.postprocessing import ComponentRule, ComponentSettings, LearningSettings, TargetRule
from autoseg.records.prediction_folder import read_finished
from autoseg.records.results import PostprocessingRule, Selection
from autoseg.spatial.cropping import box_slices
from autoseg.spatial.orientation import Turn, turn
from tests.pipeline.fakes import LABELS, blobs, image_of, make_plan, make_workspace, oblique_grid, stored_as, write_fold

CLASSES = blobs()
GRID = oblique_grid(CLASSES.shape)
NOISE = 40 * np.random.default_rng(3).standard_normal((1, *CLASSES.shape))
IMAGE = (image_of(CLASSES) + NOISE).astype(np.float32)


def test_importing_it_costs_nothing() -> None:
    code = (
        "import sys, autoseg; assert 'load_model' in autoseg.__all__ and autoseg.__version__; "
        "sys.exit(', '.join({'torch', 'numpy', 'scipy', 'pydantic'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    with pytest.raises(AttributeError, match="no attribute 'load_modle'"):
        autoseg.load_modle  # noqa: B018
    assert sorted(autoseg.__all__) == autoseg.__all__


@pytest.mark.parametrize("how", [Turn((0, 1, 2), (False,) * 3), Turn((2, 0, 1), (True, False, True))])
def test_arrays_are_answered_as_files_are(tmp_path: Path, how: Turn) -> None:
    """Probabilities too; an oblique scan in an odd storage order, resampled on the way, two folds."""
    plan = make_plan(spacing_mm=(2.3, 1.1, 1.2), patch=(4, 6, 8))
    for fold in range(2):
        write_fold(tmp_path / "model" / f"fold_{fold}", plan, fold=str(fold), offset=30.0 * fold)
    array, geometry = stored_as(IMAGE, GRID, how)
    write_image(tmp_path / "images" / "case.nii.gz", array, geometry)
    (path,) = predict(tmp_path / "model", tmp_path / "images", tmp_path / "out", device="cpu", save_probabilities=True)
    model = autoseg.load_model(tmp_path / "model", device="cpu")
    assert model.label_values == {"background": 0, "a": 3, "b": 700}
    assert model.channel_names == ("MRI",)
    read = read_image([tmp_path / "images" / "case.nii.gz"])
    found = model.segment(read.array[0], affine=read.geometry.matrix, probabilities=True)
    np.testing.assert_array_equal(found.labels, read_label(path).array[0])
    assert {3, 700} <= set(np.unique(found.labels))
    meta = model_meta(tmp_path / "out")
    stored = read_probabilities(tmp_path / "out", "case")
    inside = turn(found.probabilities, Turn(meta.axes, meta.flips))[(slice(None), *box_slices(meta.crop))]
    np.testing.assert_array_equal(inside, stored)
    np.testing.assert_allclose(found.probabilities.sum(0, dtype=np.float32), 1, atol=2e-3)
    maps = autoseg.read_maps(tmp_path / "out", "case")
    for name in ("probabilities", "mirrorings", "folds"):
        np.testing.assert_array_equal(getattr(maps, name), getattr(found.maps, name))
    assert maps.mirrorings.shape == maps.folds.shape == array.shape[1:]
    assert maps.folds.max() > 100  # the folds disagree about intensities between theirs
    sure = maps.probabilities.max(0) > 0.999
    assert maps.folds[sure].max() < 10  # and so lie where they do
    alone = model.predict(read.array, affine=read.geometry.matrix)
    assert (alone == found.labels).mean() > 0.999  # ties of float16
    assert found.judgement is None
    assert found.changes == ()


def model_meta(folder: Path):
    from autoseg.inference.store import read_meta

    return read_meta(folder, "case")


def test_letters_are_an_affine_without_angles(tmp_path: Path) -> None:
    """A model that turns its images answers alike for every order of axes, if it is told the order."""
    write_fold(tmp_path / "fold_0", make_plan(spacing_mm=(2.3, 1.1, 1.2), patch=(4, 6, 8)))
    model = autoseg.load_model(tmp_path / "fold_0", device="cpu")
    expected = model.predict(IMAGE, (2.0, 1.5, 1.0), orientation="SPL")
    np.testing.assert_array_equal(model.predict(IMAGE, (2.0, 1.5, 1.0)), expected)
    moved = model.predict(IMAGE[:, ::-1].transpose(0, 3, 1, 2), (1.0, 2.0, 1.5), orientation="LIP")
    np.testing.assert_array_equal(moved, expected[::-1].transpose(2, 0, 1))
    steps = np.diag([2.0, 1.5, 1.0])[[2, 1, 0]] * [[-1], [-1], [1]]
    affine = np.vstack([np.column_stack([steps, [5.0, 6.0, 7.0]]), [0, 0, 0, 1]])
    np.testing.assert_array_equal(model.predict(IMAGE, affine=affine), expected)


def test_a_picture(tmp_path: Path) -> None:
    write_fold(tmp_path / "fold_0", make_plan(orientation="stored", spacing_mm=(999.0, 1.0, 1.0)))
    model = autoseg.load_model(tmp_path / "fold_0", device="cpu")
    found = model.segment(image_of(CLASSES)[0, 4], (1.0, 1.0), probabilities=True)
    np.testing.assert_array_equal(found.labels, LABELS.to_file(CLASSES[4]))
    assert found.probabilities.shape == (3, *CLASSES.shape[1:])
    assert found.maps.mirrorings.shape == CLASSES.shape[1:]
    assert found.maps.folds is None


def test_a_folder_of_configurations_is_an_ensemble_and_a_cascade_stands_for_its_stages(tmp_path: Path) -> None:
    plan = make_plan(names=("3d_fullres", "3d_lowres", "3d_cascade_fullres"))
    for name in ("3d_fullres", "3d_lowres"):
        write_fold(tmp_path / "plan" / name / "fold_0", plan, name)
    model = autoseg.load_model(tmp_path / "plan", device="cpu")
    assert [one.configuration for one in model.predictor.models] == ["3d_fullres", "3d_lowres"]
    write_fold(tmp_path / "plan" / "3d_cascade_fullres" / "fold_0", plan, "3d_cascade_fullres")
    model = autoseg.load_model(tmp_path / "plan", device="cpu")
    assert [one.configuration for one in model.predictor.models] == ["3d_cascade_fullres", "3d_fullres"]
    np.testing.assert_array_equal(model.predict(image_of(CLASSES), affine=GRID.matrix), LABELS.to_file(CLASSES))


def test_a_datasets_folder_brings_its_rules(tmp_path: Path) -> None:
    paths, plan = make_workspace(tmp_path), make_plan()
    write_fold(paths.fold("plan", "3d_fullres", "0"), plan)
    chosen = Selection(plan="plan", configurations=("3d_fullres",), folds={"3d_fullres": ("0",)}, candidates=())
    write_record(paths.selection, chosen)
    write_record(paths.postprocessing, PostprocessingRule(keep_largest=(1,)))
    speck = CLASSES.copy()
    speck[-1, -1, -1] = 1
    model = autoseg.load_model(str(paths.folder), device="cpu")
    found = model.predict(image_of(speck), affine=GRID.matrix)
    np.testing.assert_array_equal(found, LABELS.to_file(CLASSES))
    for wrong in ({"plan": "../plan"}, {"folds": {"3d_fullres": ("0/../../../x",)}}, {"folds": {}}):
        write_record(paths.selection, chosen.model_copy(update=wrong))
        with pytest.raises(ModelError, match="or folds outside"):
            autoseg.load_model(paths.folder, device="cpu")


def test_rules_that_judge_by_image_and_probabilities_travel_and_hold_for_arrays(tmp_path: Path) -> None:
    """Components of dark or unsure voxels are removed: from files, from the packed model and from arrays alike."""
    paths, plan = make_workspace(tmp_path), make_plan()
    for fold in range(2):
        write_fold(paths.fold("plan", "3d_fullres", str(fold)), plan, fold=str(fold), offset=10.0 * fold)
    names = ("3d_fullres",)
    write_record(
        paths.selection, Selection(plan="plan", configurations=names, folds={names[0]: ("0", "1")}, candidates=())
    )
    image = image_of(CLASSES)
    image[0, -1, -2:, -2:] = 70.0  # a speck of class a, darker than the rest of it
    darkest = (85.0 - image.mean(dtype=np.float64)) / image.std(dtype=np.float64)  # features are normalised
    targets = (
        TargetRule(target="a", method="intensity0_mean", feature="intensity0_mean", minimum=darkest),
        TargetRule(target="b", method="nothing"),
    )
    components = ComponentRule(
        components=ComponentSettings(),
        learning=LearningSettings(),
        num_cases=6,
        num_groups=6,
        targets=targets,
        counts={},
        scores=(),
    )
    write_record(paths.postprocessing, PostprocessingRule(components=components))
    write_image(tmp_path / "images" / "case.nii.gz", image, GRID)
    pack(paths, tmp_path / "model.zip")
    found = {}
    for name, where in (("folder", paths), ("zip", tmp_path / "model.zip")):
        (path,) = predict(where, tmp_path / "images", tmp_path / name, device="cpu")
        found[name] = read_label(path).array[0]
    answer = autoseg.load_model(tmp_path / "model.zip", device="cpu").segment(image, affine=GRID.matrix)
    np.testing.assert_array_equal(found["folder"], LABELS.to_file(CLASSES))
    np.testing.assert_array_equal(found["zip"], found["folder"])
    np.testing.assert_array_equal(answer.labels, found["folder"])
    assert len(answer.changes) == 1


def test_the_answer_does_not_depend_on_how_an_array_lies_in_memory(tmp_path: Path) -> None:
    write_fold(tmp_path / "fold_0", make_plan())
    model = autoseg.load_model(tmp_path / "fold_0", device="cpu")
    image = np.rint(IMAGE[0])
    expected = model.predict(image, np.array(GRID.spacing_mm))
    assert {3, 700} <= set(np.unique(expected))
    same = (
        image.astype(np.float64),
        image.astype(np.int16),
        image.astype(">i2"),
        np.asfortranarray(image),
        np.ascontiguousarray(image[::-1])[::-1],
        np.repeat(image, 2, axis=2)[:, :, ::2],
    )
    for array in same:
        before = array.copy()
        np.testing.assert_array_equal(model.predict(array, GRID.spacing_mm), expected)
        np.testing.assert_array_equal(array, before)


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    write_fold(tmp_path / "fold_0", make_plan())
    model = autoseg.load_model(tmp_path / "fold_0", device="cpu")
    volume, spacing = IMAGE[0], (2.0, 1.5, 1.0)
    refused = {
        "spacing_mm or affine": lambda: model.predict(volume),
        "expected positive": lambda: model.predict(volume, (2.0, -1.5, 1.0)),
        r"spacing_mm is 1\.0; expected positive": lambda: model.predict(volume, 1.0),
        "spacing_mm is '1 1 1'; expected numbers": lambda: model.predict(volume, "1 1 1"),
        "affine is 'eye'; expected numbers": lambda: model.predict(volume, affine="eye"),
        "expected Z Y X or C Z Y X": lambda: model.predict(volume[0], spacing),
        "expected Y X or C Y X": lambda: model.predict(IMAGE, (1.0, 1.0)),
        "values of type": lambda: model.predict(volume.astype(complex), spacing),
        "one letter of": lambda: model.predict(volume, spacing, orientation="SPX"),
        "invertible": lambda: model.predict(volume, affine=np.zeros((4, 4))),
        "affine has voxels": lambda: model.predict(volume, (1.0, 1.0, 1.0), affine=GRID.matrix),
    }
    for message, call in refused.items():
        with pytest.raises(UsageError, match=message):
            call()
    with pytest.raises(DataError, match="2 channels, the plan plan expects 1"):
        model.predict(np.concatenate([IMAGE, IMAGE]), spacing)
    with pytest.raises(DataError, match="NaN"):
        model.predict(np.full_like(IMAGE, np.nan), spacing)
    with pytest.raises(ModelError, match=r"fold\.json"):
        autoseg.load_model(tmp_path / "nothing")
    write_image(tmp_path / "images" / "case.nii.gz", IMAGE, GRID)
    predict(tmp_path / "fold_0", tmp_path / "images", tmp_path / "out", device="cpu")
    for folder, case in (("out", "case"), ("out", "other"), ("nowhere", "case")):
        with pytest.raises(UsageError, match=f"no probabilities of '{case}'"):
            autoseg.read_maps(tmp_path / folder, case)
    predict(tmp_path / "fold_0", tmp_path / "images", tmp_path / "out", device="cpu", save_probabilities=True)
    (tmp_path / "out" / "case.probabilities.b2nd").write_bytes(b"cut off")
    with pytest.raises(DataError, match=r"case\.probabilities\.b2nd cannot be read .* damaged"):
        autoseg.read_maps(tmp_path / "out", "case")


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The documented example, word for word, on a scan and a model of the names it uses."""
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "use_from_python.md").read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    paths, plan = make_workspace(tmp_path), make_plan()
    write_fold(paths.fold("plan", "3d_fullres", "0"), plan)
    write_image(tmp_path / "scan.nii.gz", IMAGE[0][None], GRID)
    pack(paths, tmp_path / "model.zip")
    predict(tmp_path / "model.zip", tmp_path / "scan.nii.gz", tmp_path / "out", device="cpu", save_probabilities=True)
    assert set(read_finished(tmp_path / "out").cases) == {"scan"}
    for block in page.split("```python\n")[1:]:
        source = block.split("```")[0]
        exec(compile(source, "use_from_python.md", "exec"), {})
    np.testing.assert_array_equal(
        read_label(tmp_path / "segmentation.nii.gz").array, read_label(tmp_path / "out" / "scan.nii.gz").array
    )
