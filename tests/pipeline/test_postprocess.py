"""Post-processing by components, the whole way: held-out probabilities, the rule, predict, and the command."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.cli.main import main
from autoseg.datasets.folders import find_cases
from autoseg.errors import PartialError, UsageError
from autoseg.images.reading import read_label
from autoseg.images.writing import write_image, write_label
from autoseg.inference.store import read_disagreement, read_meta, read_probabilities
from autoseg.pipeline.evaluate import evaluate
from autoseg.pipeline.postprocess import choose_postprocessing, held_out_temperatures, postprocess_folder
from autoseg.pipeline.predict import predict
from autoseg.pipeline.report import report
from autoseg.pipeline.select import select
from autoseg.pipeline.shift import measure_shift, shift_of
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Case, Dataset
from autoseg.records.plan import Plan
from autoseg.records.postprocessing import CaseChanges, FeatureShift, LearningSettings, TargetRule
from autoseg.records.results import Evaluation, PostprocessingRule
from autoseg.records.scoring import COUNTS_ONLY
from autoseg.records.workspace import Paths
from autoseg.selection.predictor import load_predictor
from tests.pipeline.fakes import LABELS, make_plan, make_workspace, oblique_grid, write_fold

IDS = tuple(f"case_{number}" for number in range(8))
SHAPE = (5, 26, 26)
FAST = {"min_components": 10, "num_folds": 2, "leave_one_out_below": 2}
BRIGHT, DIM = 112.0, 88.0
"""Both are nearest to class a's 100, and as sure: only the image tells them apart."""


def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes and image: four lesions, and four dim spots of like size that the network takes for lesions."""
    rng = np.random.default_rng(seed)
    classes, image = np.zeros(SHAPE, np.int16), np.ones(SHAPE, np.float32)
    for spot in range(8):
        z, (row, column) = int(rng.integers(1, 3)), divmod(spot, 3)
        d, h, w = (int(n) for n in rng.integers(1, 4, 3))
        where = (
            slice(z, z + min(d, 2)),
            slice(2 + 8 * row, 2 + 8 * row + h),
            slice(2 + 8 * column, 2 + 8 * column + w),
        )
        is_true = (spot + seed) % 2 == 0
        classes[where] = is_true
        image[where] = BRIGHT if is_true else DIM
    image[0, 0, 0] = image[-1, -1, -1] = 1.5  # the crop is the whole image
    return classes, image


def put(folder: Path, case: str, seed: int) -> None:
    classes, image = draw(seed)
    grid = oblique_grid(SHAPE)
    write_image(folder / "imagesTr" / f"{case}.nii.gz", image[None], grid)
    write_label(folder / "labelsTr" / f"{case}.nii.gz", LABELS.to_file(classes), grid)


@pytest.fixture
def plan() -> Plan:
    return make_plan()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """Two folds whose held-out probabilities are those that `predict --save-probabilities` writes."""
    tmp_path, plan = tmp_path_factory.mktemp("made"), make_plan()
    cases = tuple(Case(id=c, images=(f"imagesTr/{c}.nii.gz",), label=f"labelsTr/{c}.nii.gz") for c in IDS)
    paths = make_workspace(tmp_path, cases)
    write_record(paths.plan("plan"), plan)
    for number, case in enumerate(IDS):
        put(tmp_path / "data", case, number)
    for fold in (0, 1):
        held_out = IDS[4 * fold : 4 * fold + 4]
        folder = write_fold(paths.fold("plan", "3d_fullres", str(fold)), plan, fold=str(fold), validation=held_out)
        for case in held_out:
            image = tmp_path / "data" / "imagesTr" / f"{case}.nii.gz"
            predict(folder, image, folder / "validation", device="cpu", save_probabilities=True)
    select(paths, plan)
    return paths


@pytest.fixture
def paths(made: Paths, tmp_path: Path) -> Paths:
    """A copy to be changed; the dataset itself is shared."""
    shutil.copytree(made.folder, tmp_path / "work")
    return Paths(folder=tmp_path / "work")


def learn(paths: Paths, plan: Plan, **settings) -> PostprocessingRule:
    return choose_postprocessing(paths, plan, learning=LearningSettings(**FAST, **settings))


def test_saved_probabilities_are_as_validation_keeps_them(paths: Paths) -> None:
    folder = paths.fold("plan", "3d_fullres", "0") / "validation"
    probabilities = read_probabilities(folder, "case_0")
    assert probabilities.shape == (3, *SHAPE)
    assert probabilities.dtype == np.float16
    np.testing.assert_allclose(probabilities.astype(float).sum(axis=0), 1, atol=2e-3)
    assert read_disagreement(folder, "case_0").shape == SHAPE
    assert read_meta(folder, "case_0").id == "case_0"


def test_what_only_the_image_tells_is_learned_and_applied(paths: Paths, plan: Plan, tmp_path: Path) -> None:
    rule = learn(paths, plan)
    target = rule.components.targets[0]
    assert target.method == "logistic", "\n".join(rule.reasons)
    assert rule.components.targets[1].method == "nothing"
    assert read_record(paths.evaluation, Evaluation).targets["a"]["dice"].mean == 1
    assert read_record(paths.postprocessing, PostprocessingRule) == rule
    assert learn(paths, plan) == rule  # done already

    new = tmp_path / "new"
    put(new, "other", 77)
    (written,) = predict(paths, new / "imagesTr", tmp_path / "out", device="cpu", save_probabilities=True)
    classes, image = draw(77)
    np.testing.assert_array_equal(read_label(written).array[0], LABELS.to_file(classes))
    changes = read_record(tmp_path / "out" / "other.components.json", CaseChanges)
    num_dim = 8 - sum((spot + 77) % 2 == 0 for spot in range(8))
    assert [c.action for c in changes.changes] == ["removed"] * num_dim
    assert all(c.probability < 0.5 for c in changes.changes)
    assert all(c.features["intensity0_contrast"] is not None for c in changes.changes)
    for change in changes.changes:
        at = np.linalg.inv(oblique_grid(SHAPE).matrix) @ [*change.centre_mm, 1]
        assert image[tuple(at[:3].round().astype(int))] == DIM

    again = postprocess_folder(rule, plan, "3d_fullres", tmp_path / "out", new / "imagesTr", tmp_path / "again")
    np.testing.assert_array_equal(read_label(again[0]).array, read_label(written).array)
    # Folds are calibrated each on its own: their averaged features are not quite those of the averaged probabilities.
    repeated = read_record(tmp_path / "again" / "other.components.json", CaseChanges)
    assert [(c.action, c.centre_mm) for c in repeated.changes] == [(c.action, c.centre_mm) for c in changes.changes]
    told = [c.probability for c in changes.changes]
    assert [c.probability for c in repeated.changes] == pytest.approx(told, abs=0.05)


def test_the_shift_between_folds_and_ensemble_is_measured(paths: Paths, plan: Plan, tmp_path: Path) -> None:
    """Two folds that are the same network: nothing shifts. Made to differ, the confidence does."""
    rule = learn(paths, plan)
    put(tmp_path / "new", "other", 5)
    measure_shift(paths, tmp_path / "new" / "imagesTr", tmp_path / "out", device="cpu")
    same = read_record(tmp_path / "out" / "component_shift.json", FeatureShift)
    assert (same.num_cases, same.num_folds) == (1, 2)
    assert same.num_single == 2 * same.num_averaged > 0
    assert all(value is None or abs(value) < 1e-6 for value in same.shifts.values())

    write_fold(paths.fold("plan", "3d_fullres", "1"), plan, fold="1", offset=70.0, validation=IDS[4:])
    cases = find_cases(tmp_path / "new" / "imagesTr", 1)
    predictor = replace(load_predictor(paths, "plan", torch.device("cpu")), rule=rule)
    other = shift_of(predictor, tmp_path / "new" / "imagesTr", cases, tmp_path / "out")
    assert other.shifts["probability_mean"] == pytest.approx(0, abs=1e-6)  # the same components
    assert other.spreads["probability_mean"] < 0.95
    assert other.spreads["volume_mm3"] == pytest.approx(1)
    with pytest.raises(UsageError, match="several folds"):
        shift_of(replace(predictor, rule=PostprocessingRule()), tmp_path, cases, tmp_path / "out")


def test_the_table_can_be_opened(paths: Paths, plan: Plan) -> None:
    learn(paths, plan)
    with paths.component_table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 * 8
    assert {row["is_true"] for row in rows} == {"0", "1"}
    assert all((row["nested_decision"] == "kept") == (row["is_true"] == "1") for row in rows)
    assert all(0 <= float(row["nested_score"]) <= 1 for row in rows)
    assert float(rows[0]["volume_mm3"]) == pytest.approx(float(rows[0]["voxels"]) * 3)
    assert {row["patient"] for row in rows} == set(IDS)


def test_the_evaluation_is_that_of_rewritten_segmentations(paths: Paths, plan: Plan, tmp_path: Path) -> None:
    """Nested decisions written out as files and scored give the stored evaluation."""
    rule = learn(paths, plan)
    root = Path(read_record(paths.dataset, Dataset).root)
    for fold in (0, 1):
        folder = paths.fold("plan", "3d_fullres", str(fold)) / "validation"
        temperatures = held_out_temperatures(paths, plan, folder)
        assert len(temperatures) == 4
        dataset = read_record(paths.dataset, Dataset)
        postprocess_folder(rule, plan, "3d_fullres", folder, dataset, tmp_path / "out", temperatures)
    assert held_out_temperatures(paths, plan, tmp_path) == {}
    rewritten = evaluate(tmp_path / "out", root / "labelsTr", LABELS, output=tmp_path, scoring=COUNTS_ONLY)
    assert read_record(paths.evaluation, Evaluation).cases == rewritten.cases


def test_the_command(paths: Paths, plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work, name = ["--work", str(paths.folder.parent)], paths.folder.name
    assert main(["postprocess", name, "--objective", "lesion_f1", "--json", *work]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["components"]["learning"]["objective"] == "lesion_f1"
    validation = paths.fold("plan", "3d_fullres", "0") / "validation"
    assert main(["postprocess", name, "-i", str(validation), "-o", str(tmp_path / "out"), *work]) == 0
    assert "Next: autoseg evaluate" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 4
    assert main(["postprocess", name, "-i", str(validation), *work]) == 2
    assert main(["postprocess", name, "--truth", "iou", *work]) == 2
    assert main(["postprocess", name, "--objective", "beauty", *work]) == 2
    assert main(["postprocess", name, "--plan", "other", *work]) == 2


def test_select_says_what_became_of_each_target(
    paths: Paths, plan: Plan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    learn(paths, plan)
    monkeypatch.setattr("autoseg.pipeline.postprocess._is_same", lambda *_: True)  # the rule just made
    assert main(["select", paths.folder.name, "--work", str(paths.folder.parent)]) == 0
    told = capsys.readouterr().out
    assert "a: logistic; false components a case 4.00 -> 0.00" in told
    assert "b: nothing; false components a case 0.00\n" in told


def test_what_cannot_be_applied_is_named(paths: Paths, plan: Plan, tmp_path: Path) -> None:
    rule = learn(paths, plan)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="--save-probabilities"):
        postprocess_folder(rule, plan, "3d_fullres", tmp_path / "empty", tmp_path, tmp_path / "out")
    new = tmp_path / "new"
    put(new, "case_0", 0)
    validation = paths.fold("plan", "3d_fullres", "0") / "validation"
    with pytest.raises(PartialError, match=r"3 of 4 cases(.|\n)*case_1"):
        postprocess_folder(rule, plan, "3d_fullres", validation, new / "imagesTr", tmp_path / "out")
    assert (tmp_path / "out" / "case_0.nii.gz").is_file()


def test_rules_of_older_versions_mean_what_they_meant(paths: Paths, plan: Plan, tmp_path: Path) -> None:
    old = PostprocessingRule.model_validate({"keep_largest": [1], "reasons": ["x"], "decided_by": "y"})
    assert old.components is None
    validation = paths.fold("plan", "3d_fullres", "0") / "validation"
    dataset = read_record(paths.dataset, Dataset)
    written = postprocess_folder(old, plan, "3d_fullres", validation, dataset, tmp_path / "out")
    found = read_label(written[0]).array[0]
    sizes = np.unique(np.bincount((found > 0).ravel()))
    assert sizes.min() <= 18
    assert not list((tmp_path / "out").glob("*.components.json"))


def test_the_report_says_why(paths: Paths, plan: Plan) -> None:
    learn(paths, plan)
    page = report(paths).read_text()
    assert "component_table.csv" in page
    assert "intensity0" in page
    assert "logistic" in page


def test_patients_are_kept_together(paths: Paths, plan: Plan) -> None:
    dataset = read_record(paths.dataset, Dataset)
    cases = tuple(c.model_copy(update={"patient": f"p{i // 2}"}) for i, c in enumerate(dataset.training))
    write_record(paths.dataset, dataset.model_copy(update={"training": cases}))
    rule = learn(paths, plan)
    assert (rule.components.num_cases, rule.components.num_groups) == (8, 4)
    two = tuple(c.model_copy(update={"patient": f"p{i // 4}"}) for i, c in enumerate(dataset.training))
    write_record(paths.dataset, dataset.model_copy(update={"training": two}))
    paths.postprocessing.unlink()
    assert learn(paths, plan).components is None


def test_images_are_needed_only_by_rules_that_look(paths: Paths, plan: Plan, tmp_path: Path) -> None:
    put(tmp_path / "new", "other", 5)
    rule = learn(paths, plan)
    nothing = tuple(TargetRule(target=target.target, method="nothing") for target in rule.components.targets)
    plain = rule.components.model_copy(update={"targets": nothing})
    write_record(paths.postprocessing, rule.model_copy(update={"components": plain}))
    predict(paths, tmp_path / "new" / "imagesTr", tmp_path / "out", device="cpu")
    assert read_record(tmp_path / "out" / "other.components.json", CaseChanges).changes == ()
