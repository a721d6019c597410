"""Predict: right in the patient under every storage order, folds and stages combined, faulty cases named."""

import os
import shutil
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.errors import ModelError, PartialError, ResourceError, UsageError
from autoseg.images.reading import read_geometry, read_label
from autoseg.images.writing import write_image
from autoseg.inference.model import load_model
from autoseg.inference.predictor import needed_configurations
from autoseg.pipeline import predict as stage_module
from autoseg.pipeline.predict import predict
from autoseg.records.base import write_record
from autoseg.records.dataset import Case
from autoseg.records.geometry import Geometry
from autoseg.records.results import Aggregate, Candidate, PostprocessingRule, Selection
from autoseg.selection import case_segmentation
from autoseg.selection import predictor as predictor_module
from autoseg.selection.predictor import Predictor, prepare
from autoseg.spatial.orientation import Turn, turn
from tests.pipeline.fakes import (
    LABELS,
    blobs,
    image_of,
    make_plan,
    make_workspace,
    oblique_grid,
    stored_as,
    write_fold,
)

CPU = torch.device("cpu")
CLASSES = blobs()
GRID = oblique_grid(CLASSES.shape)
IDENTITY = Turn((0, 1, 2), (False, False, False))


def put(folder: Path, name: str, classes=CLASSES, grid: Geometry = GRID, how: Turn = IDENTITY) -> None:
    array, geometry = stored_as(image_of(classes), grid, how)
    write_image(folder / name, array, geometry)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return tmp_path / "images"


def test_segmentation_lies_on_the_images_own_grid(tmp_path: Path, images: Path) -> None:
    model = write_fold(tmp_path / "fold_0", make_plan())
    put(images, "case.nii.gz")
    put(images, "other.nrrd")
    written = predict(model, images, tmp_path / "out", device="cpu")
    assert written == [tmp_path / "out" / "case.nii.gz", tmp_path / "out" / "other.nrrd"]
    for path, source in zip(written, ("case.nii.gz", "other.nrrd"), strict=True):
        found = read_label(path)
        np.testing.assert_array_equal(found.array[0], LABELS.to_file(CLASSES))
        assert found.array.dtype == np.int16  # 700 needs 16 bits
        np.testing.assert_allclose(found.geometry.matrix, read_geometry(images / source).matrix, rtol=0, atol=1e-12)
    assert read_geometry(written[0]) == read_geometry(images / "case.nii.gz")


def test_all_storage_orders_give_the_same_answer_in_the_patient(tmp_path: Path, images: Path) -> None:
    """48 orders of axes and directions of one oblique image, resampled on the way: not one voxel differs."""
    model = write_fold(tmp_path / "fold_0", make_plan(spacing_mm=(2.3, 1.1, 1.2), patch=(4, 6, 8)))
    orders = [Turn(axes, flips) for axes in permutations(range(3)) for flips in product((False, True), repeat=3)]
    smooth = image_of(CLASSES) + 30 * np.random.default_rng(0).standard_normal(CLASSES.shape)
    for number, how in enumerate(orders):
        array, geometry = stored_as(smooth.astype(np.float32), GRID, how)
        write_image(images / f"case_{number:02d}.nii.gz", array, geometry)
    written = predict(model, images, tmp_path / "out", device="cpu")
    expected = read_label(written[orders.index(IDENTITY)]).array[0]
    agreement = (expected == LABELS.to_file(CLASSES)).mean()
    assert 0.9 < agreement < 1
    for path, how in zip(written, orders, strict=True):
        np.testing.assert_array_equal(read_label(path).array[0], turn(expected, how), err_msg=str(how))


def test_folds_are_averaged(tmp_path: Path, images: Path) -> None:
    """Two folds that know class a by 60 and by 140 agree on 100; each alone errs."""
    plan = make_plan()
    folds = [
        write_fold(tmp_path / "model" / f"fold_{k}", plan, fold=str(k), offset=o) for k, o in enumerate((-60.0, 60.0))
    ]
    classes = np.where(CLASSES == 2, 0, CLASSES)
    put(images, "case.nii.gz", classes)
    (both,) = predict(tmp_path / "model", images, tmp_path / "both", device="cpu")
    np.testing.assert_array_equal(read_label(both).array[0], LABELS.to_file(classes))
    (alone,) = predict(folds[0], images, tmp_path / "alone", device="cpu")
    assert (read_label(alone).array[0] != LABELS.to_file(classes)).any()


def test_cascade_predicts_its_first_stage(tmp_path: Path, images: Path) -> None:
    plan = make_plan(names=("3d_lowres", "3d_cascade_fullres"))
    second = write_fold(tmp_path / "plan" / "3d_cascade_fullres" / "fold_0", plan, "3d_cascade_fullres")
    put(images, "case.nii.gz")
    with pytest.raises(ModelError, match="3d_lowres"):
        predict(second, images, tmp_path / "out", device="cpu")
    write_fold(tmp_path / "plan" / "3d_lowres" / "fold_0", plan, "3d_lowres")
    (path,) = predict(second, images, tmp_path / "out", device="cpu")
    np.testing.assert_array_equal(read_label(path).array[0], LABELS.to_file(CLASSES))


def test_each_stage_is_prepared_as_its_own_plan_says(tmp_path: Path, images: Path) -> None:
    """A plan edited after the first stage was trained: its new spacing and its normalisation are not the old ones."""
    names = ("3d_fullres", "3d_lowres", "3d_cascade_fullres")
    old = make_plan(names=names)
    edited = make_plan(spacing_mm=(1.7, 1.3, 0.9), names=names)
    coarse = edited.configurations["3d_lowres"].model_copy(update={"normalization": ("zscore",)})
    edited = edited.model_copy(update={"configurations": {**edited.configurations, "3d_lowres": coarse}})
    write_fold(tmp_path / "plan" / "3d_lowres" / "fold_0", old, "3d_lowres")
    cascade = write_fold(tmp_path / "plan" / "3d_cascade_fullres" / "fold_0", edited, "3d_cascade_fullres")
    fullres = write_fold(tmp_path / "plan" / "3d_fullres" / "fold_0", edited)
    put(images, "case.nii.gz")
    models = tuple(load_model([fold], CPU) for fold in (fullres, cascade))
    grids = prepare(Predictor(models, PostprocessingRule(), CPU), images, Case(id="case", images=("case.nii.gz",)))
    assert grids["3d_fullres"].meta.spacing_mm == grids["3d_cascade_fullres"].meta.spacing_mm == (1.7, 1.3, 0.9)
    assert grids["3d_lowres"].meta.spacing_mm == (4.0, 3.0, 2.0)
    assert grids["3d_lowres"].image.max() > 100  # "none": as in the file


def test_models_of_plans_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    names = ("3d_fullres", "3d_lowres", "3d_cascade_fullres")
    plan = make_plan(names=names)
    relabelled = plan.model_copy(update={"labels": LABELS.model_copy(update={"class_names": ("background", "a", "c")})})
    coarser = make_plan(spacing_mm=(3.0, 1.5, 1.0), names=names)
    write_fold(tmp_path / "plan" / "3d_lowres" / "fold_0", plan, "3d_lowres")
    cascade = load_model([write_fold(tmp_path / "plan" / "3d_cascade_fullres" / "fold_0", plan, names[2])], CPU)
    with pytest.raises(ModelError, match="differ in labels"):
        needed_configurations([cascade, load_model([write_fold(tmp_path / "a" / "fold_0", relabelled)], CPU)])
    lowres = load_model([write_fold(tmp_path / "b" / "fold_0", coarser, "3d_lowres")], CPU)
    with pytest.raises(ModelError, match="prepared in different ways for 3d_lowres"):
        needed_configurations([cascade, lowres])
    same = load_model([write_fold(tmp_path / "c" / "fold_0", plan, "3d_lowres")], CPU)
    assert [name for name, _ in needed_configurations([cascade, same])] == ["3d_cascade_fullres", "3d_lowres"]


def test_faulty_cases_are_named_and_the_others_done(tmp_path: Path, images: Path) -> None:
    model = write_fold(tmp_path / "fold_0", make_plan(num_channels=2))
    for name in ("a_0000", "a_0001", "b_0000", "c_0000", "c_0001", "d_0000", "d_0001", "e_0000", "e_0001"):
        put(images, f"{name}.nii.gz")
    (images / "c_0001.nii.gz").write_bytes((images / "c_0001.nii.gz").read_bytes()[:200])
    broken = image_of(CLASSES)
    broken[0, 0, 0, 0] = np.nan
    write_image(images / "d_0000.nii.gz", broken, GRID)
    for channel in range(2):
        (images / f"f_000{channel}.nii.gz").symlink_to("moved_away.nii.gz")
    with pytest.raises(PartialError) as error:
        predict(model, images, tmp_path / "out", device="cpu")
    assert error.value.exit_code == 5
    assert "4 of 6 cases" in str(error.value)
    assert all(f"\n  {case}: " in str(error.value) for case in "bcdf")
    assert "NaN" in str(error.value)
    assert sorted(p.name for p in (tmp_path / "out").glob("*.nii.gz")) == ["a.nii.gz", "e.nii.gz"]


def test_names_under_which_nothing_can_be_written_fail_alone(tmp_path: Path, images: Path) -> None:
    """Latin-1 names of older systems, and names that leave no room for the endings of results; the longest do."""
    model = write_fold(tmp_path / "fold_0", make_plan())
    put(images, "M\u00fcller \u65e5\u672c (1).nii.gz")
    shutil.copy(images / "M\u00fcller \u65e5\u672c (1).nii.gz", images / ("y" * 234 + ".nii.gz"))
    shutil.copy(images / "M\u00fcller \u65e5\u672c (1).nii.gz", images / ("x" * 235 + ".nii.gz"))
    shutil.copy(images / "M\u00fcller \u65e5\u672c (1).nii.gz", images / os.fsdecode(b"M\xfcller.nii.gz"))
    with pytest.raises(PartialError, match="2 of 4 cases") as error:
        predict(model, images, tmp_path / "out", device="cpu", save_probabilities=True)
    assert "x: its file's name is too long" in str(error.value)
    assert "name is not UTF-8; rename it" in str(error.value)
    assert {p.name for p in (tmp_path / "out").glob("*.nii.gz")} == {
        "M\u00fcller \u65e5\u672c (1).nii.gz", "y" * 234 + ".nii.gz"
    }  # fmt: skip


def test_the_folder_of_the_images_is_no_output(tmp_path: Path, images: Path, monkeypatch) -> None:
    put(images, "case.nii.gz")
    before = (images / "case.nii.gz").read_bytes()
    (tmp_path / "link").symlink_to(images)
    monkeypatch.chdir(images)
    for given in (images, images / "case.nii.gz"):
        for output in (images, tmp_path / "link", Path()):
            with pytest.raises(UsageError, match="would replace them"):  # before the model, which is not there
                predict(tmp_path / "no_model", given, output, device="cpu")
    assert [path.read_bytes() for path in images.iterdir()] == [before]


@pytest.mark.parametrize(
    ("module", "name"),
    [(predictor_module, "read_case_image"), (case_segmentation, "case_windows"), (case_segmentation, "segmentation")],
)
@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")]
)
def test_a_case_too_large_for_the_memory_is_named(
    tmp_path: Path, images: Path, monkeypatch, module, name, error
) -> None:
    model = write_fold(tmp_path / "fold_0", make_plan())
    for case in "abc":
        put(images, f"{case}.nii.gz")
    original, calls = getattr(module, name), iter((None, error, None))

    def sometimes(*arguments, **named):
        if (problem := next(calls)) is not None:
            raise problem
        return original(*arguments, **named)

    monkeypatch.setattr(module, name, sometimes)
    with pytest.raises(PartialError, match=r"1 of 3 .*\n  b: it does not fit into memory"):
        predict(model, images, tmp_path / "out", device="cpu")
    assert sorted(p.name for p in (tmp_path / "out").glob("*.nii.gz")) == ["a.nii.gz", "c.nii.gz"]


def test_reading_may_fail_for_one_case_but_a_full_disk_ends_the_run(tmp_path: Path, images: Path, monkeypatch) -> None:
    model = write_fold(tmp_path / "fold_0", make_plan())
    put(images, "a.nii.gz")
    put(images, "b.nii.gz")

    def fail(*_, **__):
        raise ResourceError("nothing left")

    with monkeypatch.context() as patch:
        patch.setattr(predictor_module, "read_case_image", fail)
        with pytest.raises(PartialError, match="2 of 2 cases"):
            predict(model, images, tmp_path / "out", device="cpu")
    monkeypatch.setattr(stage_module, "write_label", fail)
    with pytest.raises(ResourceError, match="nothing left"):
        predict(model, images, tmp_path / "out", device="cpu")


def test_an_error_of_the_program_is_not_hidden(tmp_path: Path, images: Path, monkeypatch) -> None:
    def fail(*_, **__):
        raise RuntimeError("shapes do not match")

    model = write_fold(tmp_path / "fold_0", make_plan())
    put(images, "a.nii.gz")
    places = {
        "case_windows": case_segmentation,
        "segmentation": case_segmentation,
        "prepare": stage_module,
        "write_label": stage_module,
    }
    for name, module in places.items():
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fail)
            with pytest.raises(RuntimeError, match="shapes do not match"):
                predict(model, images, tmp_path / "out", device="cpu")


def test_without_held_out_cases_the_usual_configuration_predicts(tmp_path: Path, images: Path) -> None:
    paths, plan = make_workspace(tmp_path), make_plan(names=("3d_fullres", "3d_lowres"))
    put(images, "case.nii.gz")
    write_fold(paths.fold("plan", "3d_lowres", "all"), plan, "3d_lowres", fold="all", offset=500.0, mean_dice=None)
    write_fold(paths.fold("plan", "3d_fullres", "all"), plan, fold="all", mean_dice=None)
    write_fold(paths.fold("plan", "2d", "all"), plan, "3d_lowres", fold="all", offset=500.0, mean_dice=None)
    (path,) = predict(paths, images, tmp_path / "out", device="cpu")
    np.testing.assert_array_equal(read_label(path).array[0], LABELS.to_file(CLASSES))


def test_finished_cases_are_kept_only_if_the_same_model_wrote_them(tmp_path: Path, images: Path) -> None:
    model = write_fold(tmp_path / "fold_0", make_plan())
    put(images, "case.nii.gz")
    (path,) = predict(model, images, tmp_path / "out", device="cpu")
    before = path.stat().st_mtime_ns
    assert predict(model, images, tmp_path / "out", device="cpu", keep_finished=True) == [path]
    assert path.stat().st_mtime_ns == before
    other = write_fold(tmp_path / "other" / "fold_0", make_plan(), offset=500.0)
    predict(other, images, tmp_path / "out", device="cpu", keep_finished=True)
    assert path.stat().st_mtime_ns > before
    assert (read_label(path).array[0] != LABELS.to_file(CLASSES)).any()


def test_before_selection_the_best_configuration_predicts(tmp_path: Path, images: Path) -> None:
    paths, plan = make_workspace(tmp_path), make_plan(names=("3d_fullres", "3d_lowres"))
    put(images, "case.nii.gz")
    with pytest.raises(ModelError, match="autoseg train"):
        predict(paths, images, tmp_path / "out", device="cpu")
    write_fold(paths.fold("plan", "3d_lowres", "0"), plan, "3d_lowres", offset=500.0, mean_dice=0.4)
    write_fold(paths.fold("plan", "3d_fullres", "0"), plan, mean_dice=0.9)
    write_fold(paths.fold("plan", "3d_fullres", "all"), plan, fold="all", offset=500.0, mean_dice=None)
    (path,) = predict(paths, images, tmp_path / "out", device="cpu")
    np.testing.assert_array_equal(read_label(path).array[0], LABELS.to_file(CLASSES))


def test_selection_and_postprocessing_are_applied(tmp_path: Path, images: Path, capsys) -> None:
    paths, plan = make_workspace(tmp_path), make_plan(names=("3d_fullres", "3d_lowres"))
    write_fold(paths.fold("plan", "3d_fullres", "0"), plan, mean_dice=0.1)
    write_fold(paths.fold("plan", "3d_lowres", "0"), plan, "3d_lowres", mean_dice=0.9)
    aggregate = Aggregate(mean=0.9, low=None, high=None, num_cases=1)
    names = ("3d_fullres", "3d_lowres")
    selection = Selection(
        plan="plan",
        configurations=names,
        folds=dict.fromkeys(names, ("0",)),
        candidates=(Candidate(configurations=names, dice=aggregate, targets={}),),
    )
    write_record(paths.selection, selection)
    write_record(paths.postprocessing, PostprocessingRule(keep_largest=(1,)))
    with_speck = CLASSES.copy()
    with_speck[-1, -1, -1] = 1
    put(images, "case.nii.gz", with_speck)
    (path,) = predict(paths, images, tmp_path / "out", device="cpu")
    found = read_label(path).array[0]
    assert found[-1, -1, -1] == 0
    assert (found == LABELS.to_file(CLASSES)).mean() > 0.97
    write_record(paths.postprocessing, PostprocessingRule(keep_largest=(1,), decided_by="another selection"))
    (path,) = predict(paths, images, tmp_path / "out", device="cpu")
    assert read_label(path).array[0, -1, -1, -1] == LABELS.class_values[1]
    assert "without" in capsys.readouterr().err


def test_one_file_and_a_slice(tmp_path: Path, images: Path) -> None:
    model = write_fold(tmp_path / "fold_0", make_plan(orientation="stored", spacing_mm=(999.0, 1.0, 1.0)))
    flat = blobs()[4:5]
    grid = Geometry(
        shape=flat.shape, spacing_mm=(999, 1, 1), affine=((0, 0, 1, 0), (0, 1, 0, 0), (999, 0, 0, 0)), planar=True
    )
    write_image(images / "slice.nii.gz", image_of(flat), grid)
    (path,) = predict(model, images / "slice.nii.gz", tmp_path / "out", device="cpu")
    found = read_label(path)
    np.testing.assert_array_equal(found.array[0], LABELS.to_file(flat))
    assert found.geometry.planar


def test_what_is_not_there(tmp_path: Path, images: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        predict(tmp_path, images, tmp_path / "out")
    put(images, "case.nii.gz")
    with pytest.raises(ModelError, match=r"fold\.json"):
        predict(tmp_path, images, tmp_path / "out")
    model = write_fold(tmp_path / "fold_0", make_plan())
    (model / "weights" / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="sha256"):
        predict(model, images, tmp_path / "out")
