"""Select and postprocess on stored held-out probabilities: the right candidate, the right rule, the right scores."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import DataError, ModelError, UsageError
from autoseg.images.writing import write_image, write_label
from autoseg.inference.store import read_probabilities
from autoseg.inference.temperature import tempered
from autoseg.metrics.build import score_case
from autoseg.pipeline.evaluate import evaluate
from autoseg.pipeline.postprocess import choose_postprocessing
from autoseg.pipeline.select import select
from autoseg.postprocessing.rules import apply_rule
from autoseg.records.base import read_record, write_record
from autoseg.records.calibration import Calibration
from autoseg.records.dataset import Case, Dataset
from autoseg.records.plan import Plan
from autoseg.records.postprocessing import LearningSettings
from autoseg.records.results import Evaluation, PreprocessedCase
from autoseg.records.scoring import COUNTS_ONLY
from autoseg.records.workspace import Paths
from autoseg.selection.held_out import calibrated_probabilities, find_held_out, reference_of, segmentation_of
from autoseg.selection.objectives import objective_value, parse_objective, scoring_of
from autoseg.selection.temperatures import stored_temperatures
from autoseg.spatial.orientation import Turn, turn, turn_for, turned
from tests.inference.whole import write_probabilities
from tests.pipeline.fakes import LABELS, blobs, image_of, make_plan, make_workspace, oblique_grid, stored_as, write_fold

NAMES = ("3d_fullres", "3d_lowres")
IDS = ("case_0", "case_1", "case_2", "case_3")
STORED = Turn((2, 0, 1), (True, False, True))
MARGIN = 1
"""The crop leaves out this many voxels on each side."""


def truth(case: str, paths: Paths) -> np.ndarray:
    return blobs(seed=IDS.index(case))


def probabilities(classes: np.ndarray, confidence: float) -> np.ndarray:
    """`H Z Y X`: `confidence` for the class, the rest shared."""
    rest = (1 - confidence) / 2
    hot = np.arange(3)[:, None, None, None] == classes
    return np.where(hot, confidence, rest).astype(np.float16)


def store(folder: Path, case: str, classes: np.ndarray, confidence: float) -> None:
    """Held-out probabilities as validation writes them; `classes` in S, A, R order."""
    grid = oblique_grid(classes.shape)
    _, geometry = stored_as(classes, grid, STORED)
    how = turn_for(geometry.matrix, "canonical")
    crop = tuple((MARGIN, n - MARGIN) for n in classes.shape)
    shape = tuple(n - 2 * MARGIN for n in classes.shape)
    meta = PreprocessedCase(
        id=case,
        geometry=geometry,
        axes=how.axes,
        flips=how.flips,
        crop=crop,
        shape_before_crop=classes.shape,
        spacing_before_mm=turned(geometry.spacing_mm, how.axes),
        shape=shape,
        spacing_mm=(2.0, 1.5, 1.0),
    )
    inner = classes[tuple(slice(*side) for side in crop)]
    write_probabilities(folder / "validation", meta, probabilities(inner, confidence))


@pytest.fixture
def plan() -> Plan:
    return make_plan(names=NAMES)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    cases = tuple(Case(id=case, images=(f"imagesTr/{case}.nii.gz",), label=f"labelsTr/{case}.nii.gz") for case in IDS)
    paths = make_workspace(tmp_path, cases)
    for case in IDS:
        classes = truth(case, paths)
        array, geometry = stored_as(classes, oblique_grid(classes.shape), STORED)
        write_label(tmp_path / "data" / "labelsTr" / f"{case}.nii.gz", LABELS.to_file(array), geometry)
        write_image(tmp_path / "data" / "imagesTr" / f"{case}.nii.gz", image_of(array), geometry)
    return paths


def write_folds(paths: Paths, plan: Plan, faults: dict[str, int], confidences=None, folds=(0, 1)) -> None:
    """Two folds a configuration; `faults` slices of each case are predicted as background."""
    for name, missing in faults.items():
        for fold in folds:
            held_out = IDS[2 * fold : 2 * fold + 2]
            folder = write_fold(paths.fold("plan", name, str(fold)), plan, name, str(fold), validation=held_out)
            for case in held_out:
                classes = truth(case, paths).copy()
                start = 2 if name == "3d_fullres" else 5  # the configurations err at different places
                classes[start : start + missing] = 0
                store(folder, case, classes, (confidences or {}).get(name, 0.7))


def test_the_better_configuration_is_chosen(paths: Paths, plan: Plan) -> None:
    write_folds(paths, plan, {"3d_fullres": 2, "3d_lowres": 0}, {"3d_fullres": 0.9, "3d_lowres": 0.6})
    selection = select(paths, plan)
    assert selection.configurations == ("3d_lowres",)
    assert selection.folds == {"3d_lowres": ("0", "1")}
    assert selection.candidates[0].dice.mean == 1
    assert selection.candidates[0].dice.num_cases == 4
    assert {c.configurations for c in selection.candidates} == {("3d_lowres",), ("3d_fullres",), NAMES}
    # The confident one would decide wherever they differ; calibration takes the confidence from it that it errs with.
    ensemble = next(c for c in selection.candidates if len(c.configurations) == 2)
    assert ensemble.dice.mean == 1


def test_an_ensemble_that_is_better_is_chosen(paths: Paths, plan: Plan) -> None:
    """Each errs where it is unsure and the other is sure."""
    write_folds(paths, plan, {"3d_fullres": 0, "3d_lowres": 0})
    for name, start in (("3d_fullres", 2), ("3d_lowres", 5)):
        for case in IDS:
            folder = paths.fold("plan", name, str(IDS.index(case) // 2))
            sure = truth(case, paths)
            wrong = sure.copy()
            wrong[start : start + 2] = 0
            store(folder, case, wrong, 0.5)
            unsure = np.isin(np.arange(len(sure)), (start, start + 1))[None, :, None, None]
            values = np.where(unsure, probabilities(wrong, 0.5), probabilities(sure, 0.9))
            inner = values[:, MARGIN:-MARGIN, MARGIN:-MARGIN, MARGIN:-MARGIN]
            held = find_held_out(paths, plan)[name]
            _, meta = segmentation_of(case, [held], LABELS)
            write_probabilities(folder / "validation", meta, inner)
    selection = select(paths, plan)
    assert selection.configurations == NAMES
    assert selection.candidates[0].dice.mean == 1


def test_reasons_costs_and_calibration_are_kept(paths: Paths, plan: Plan) -> None:
    write_folds(paths, plan, {"3d_fullres": 2, "3d_lowres": 0}, {"3d_fullres": 0.99, "3d_lowres": 0.6})
    selection = select(paths, plan)
    assert len(selection.reasons) == 2
    assert "3d_lowres: best single configuration, dice 1.0000" in selection.reasons[0]
    assert "not taken" in selection.reasons[1]
    single, ensemble = selection.candidates[0].cost, selection.candidates[1].cost
    assert not single.is_measured
    assert ensemble.seconds > single.seconds > 0
    known = read_record(paths.calibration, Calibration).configurations
    assert set(known) == set(NAMES)
    # 0.99 was right in fewer voxels than 99 of 100, 0.6 in all of them.
    assert all(fold.temperature > 1 for fold in known["3d_fullres"].folds.values())
    assert all(fold.temperature < 1 for fold in known["3d_lowres"].folds.values())
    for configuration in known.values():
        assert configuration.num_cases == 4
        assert configuration.after.nll.mean < configuration.before.nll.mean
    held = find_held_out(paths, plan)["3d_fullres"]
    assert held.temperatures == {case: t for f in known["3d_fullres"].folds.values() for case, t in f.held_out.items()}
    stored = read_probabilities(held.folders["case_0"], "case_0")
    calibrated = calibrated_probabilities(held, "case_0", LABELS)
    np.testing.assert_array_equal(calibrated, tempered(stored, held.temperatures["case_0"], LABELS))
    assert calibrated.max() < stored.max()


def test_a_fold_trained_anew_is_calibrated_anew_and_until_then_not_at_all(paths: Paths, plan: Plan) -> None:
    write_folds(paths, plan, {"3d_fullres": 2}, {"3d_fullres": 0.9})
    select(paths, plan)
    folders = [paths.fold("plan", "3d_fullres", fold) for fold in ("0", "1")]
    assert all(t != 1 for t in stored_temperatures(paths.calibration, "plan", "3d_fullres", folders))
    write_fold(folders[0], plan, offset=1.0, validation=IDS[:2])
    fresh, old = stored_temperatures(paths.calibration, "plan", "3d_fullres", folders)
    assert (fresh, old != 1) == (1.0, True)
    assert set(find_held_out(paths, plan)["3d_fullres"].temperatures) == set(IDS[2:])
    assert stored_temperatures(paths.calibration, "other", "3d_fullres", folders) == [1.0, 1.0]
    select(paths, plan)
    assert stored_temperatures(paths.calibration, "plan", "3d_fullres", folders)[0] != 1


@pytest.mark.parametrize("objective", ["nsd", "lesion_f1:b", "dice:a,nsd:b=2"])
def test_another_objective_is_scored_on_whole_segmentations(paths: Paths, plan: Plan, objective: str) -> None:
    """Each candidate's value is that of its segmentations as they would be written."""
    write_folds(paths, plan, {"3d_fullres": 2, "3d_lowres": 1}, {"3d_fullres": 0.9, "3d_lowres": 0.6})
    selection = select(paths, plan, objective)
    assert selection.objective.name == objective
    held_out, dataset = find_held_out(paths, plan), read_record(paths.dataset, Dataset)
    wanted = parse_objective(objective, LABELS, selection.objective.tolerance_mm)
    for candidate in selection.candidates:
        values = []
        for case in IDS:
            members = [held_out[name] for name in candidate.configurations]
            classes, meta = segmentation_of(case, members, LABELS)
            reference = reference_of(dataset, case, meta.geometry)
            values.append(
                objective_value(wanted, score_case(classes, reference, LABELS, meta.geometry, scoring_of(wanted)))
            )
        assert candidate.objective.mean == pytest.approx(np.mean(values))


def test_the_same_folds_are_compared_again_for_another_objective(paths: Paths, plan: Plan) -> None:
    write_folds(paths, plan, {"3d_fullres": 0})
    by_dice = select(paths, plan)
    assert select(paths, plan, "nsd").decided_by != by_dice.decided_by
    with pytest.raises(UsageError, match="'c' is none of the targets a, b"):
        select(paths, plan, "dice:c")


def test_done_already_is_skipped_until_a_fold_changes(paths: Paths, plan: Plan, monkeypatch) -> None:
    write_folds(paths, plan, {"3d_fullres": 0})
    first = select(paths, plan)
    monkeypatch.setattr("autoseg.pipeline.select.count_ensembles", lambda *_: pytest.fail("counted again"))
    assert select(paths, plan) == first
    monkeypatch.undo()
    write_fold(paths.fold("plan", "3d_fullres", "0"), plan, offset=1.0, validation=IDS[:2])
    assert select(paths, plan).decided_by != first.decided_by


def test_replacing_the_selection_of_another_plan_is_told(paths: Paths, plan: Plan, capsys) -> None:
    write_folds(paths, plan, {"3d_fullres": 0})
    select(paths, plan)
    other = plan.model_copy(update={"name": "other"})
    for fold in (0, 1):
        folder = paths.fold("other", "3d_fullres", str(fold))
        shutil.copytree(paths.fold("plan", "3d_fullres", str(fold)), folder)
    assert "was selected before" not in capsys.readouterr().err
    assert select(paths, other).plan == "other"
    told = capsys.readouterr().err
    assert "3d_fullres of plan plan was selected before" in told
    assert "autoseg select --plan plan" in told


def test_a_held_out_case_that_was_removed_is_named(paths: Paths, plan: Plan) -> None:
    write_folds(paths, plan, {"3d_fullres": 0})
    dataset = read_record(paths.dataset, Dataset)
    write_record(paths.dataset, dataset.model_copy(update={"training": dataset.training[1:]}))
    with pytest.raises(DataError, match=r"case_0 was held out .* Train this fold again"):
        select(paths, plan)


def test_different_folds_are_compared_on_common_cases(paths: Paths, plan: Plan, capsys) -> None:
    write_folds(paths, plan, {"3d_fullres": 0})
    write_folds(paths, plan, {"3d_lowres": 0}, folds=(1,))
    assert select(paths, plan).candidates[0].dice.num_cases == 2
    assert "Compared on the 2 cases" in capsys.readouterr().err


def test_what_cannot_be_selected(paths: Paths, plan: Plan) -> None:
    with pytest.raises(UsageError, match="No cross-validation fold"):
        select(paths, plan)
    with pytest.raises(UsageError, match="autoseg select"):
        choose_postprocessing(paths, plan)
    write_folds(paths, plan, {"3d_fullres": 0}, folds=(0,))
    write_folds(paths, plan, {"3d_lowres": 0}, folds=(1,))
    with pytest.raises(UsageError, match="share no held-out case"):
        select(paths, plan)
    write_fold(paths.fold("plan", "3d_lowres", "0"), plan, "3d_lowres", validation=IDS[:2])
    with pytest.raises(ModelError, match="case_0, case_1"):
        select(paths, plan)


def test_reference_outside_the_crop_counts_as_missed(paths: Paths, plan: Plan) -> None:
    write_folds(paths, plan, {"3d_fullres": 0})
    path = Path(read_dataset_root(paths)) / "labelsTr" / "case_0.nii.gz"
    classes = truth("case_0", paths).copy()
    classes[0, 0, 0] = 2
    array, geometry = stored_as(classes, oblique_grid(classes.shape), STORED)
    write_label(path, LABELS.to_file(array), geometry)
    num = int((classes == 2).sum())
    wanted = (3 + 2 * (num - 1) / (2 * num - 1)) / 4
    assert select(paths, plan).candidates[0].targets["b"].mean == pytest.approx(wanted)


def read_dataset_root(paths: Paths) -> str:
    return read_record(paths.dataset, Dataset).root


def test_postprocessing_and_evaluation_of_what_was_selected(paths: Paths, plan: Plan, tmp_path: Path) -> None:
    """A speck of class a in every case: its rule is accepted; the scores are those of rewritten segmentations."""
    for fold in (0, 1):
        held_out = IDS[2 * fold : 2 * fold + 2]
        folder = write_fold(paths.fold("plan", "3d_fullres", str(fold)), plan, fold=str(fold), validation=held_out)
        for case in held_out:
            classes = truth(case, paths).copy()
            classes[-2, 1, -2] = 1
            store(folder, case, classes, 0.7)
    select(paths, plan)
    few = LearningSettings(min_groups=5)
    rule = choose_postprocessing(paths, plan, learning=few)
    assert rule.components is None
    assert rule.keep_largest_foreground or rule.keep_largest == (1,)
    assert "fewer than 5 patients" in rule.reasons[0]
    assert any("accepted" in line for line in rule.reasons)
    assert choose_postprocessing(paths, plan, learning=few) == rule
    (held,) = find_held_out(paths, plan).values()
    for case in IDS:
        classes, meta = segmentation_of(case, [held], LABELS)
        np.testing.assert_array_equal(apply_rule(classes, rule), turn(truth(case, paths), STORED))
        write_label(tmp_path / "out" / f"{case}.nii.gz", LABELS.to_file(apply_rule(classes, rule)), meta.geometry)
    rewritten = evaluate(
        tmp_path / "out", Path(read_dataset_root(paths)) / "labelsTr", LABELS, output=tmp_path, scoring=COUNTS_ONLY
    )
    stored = read_record(paths.evaluation, Evaluation)
    assert stored.cases == rewritten.cases
    assert stored.foreground_mean["dice"].mean == 1
