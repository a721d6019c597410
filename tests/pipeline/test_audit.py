"""The audit as a stage: planted errors found in files, pictures, faulty cases named, labels alone before training."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from autoseg.cli.main import main
from autoseg.errors import UsageError
from autoseg.images.reading import read_label
from autoseg.images.writing import write_label
from autoseg.pipeline.audit import audit, to_csv
from autoseg.records.audit import Audit
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Dataset
from autoseg.records.plan import Plan
from autoseg.records.results import PreprocessedCase
from autoseg.records.workspace import Paths
from autoseg.spatial.orientation import turn, turn_for, turned
from benchmarks.planted import plant
from tests.auditing.made import LABELS, predict
from tests.inference.whole import write_probabilities
from tests.pipeline.fakes import write_fold
from tests.reporting.workspace import flip_label, make_dataset, make_plan

NUM_CASES = 10
MARGIN = 2
"""Voxels that the crop leaves out on each side."""


def hold_out(paths: Paths, plan: Plan, dataset: Dataset, configuration: str, cases: list[str], fold: str) -> None:
    """A finished fold that predicted `cases` as a good model would."""
    folder = paths.fold(plan.name, configuration, fold)
    write_fold(folder, plan, configuration, fold, validation=cases)
    for case in cases:
        label = read_label(Path(dataset.root) / "labelsTr" / f"{case}.nii.gz")
        geometry, how = label.geometry, turn_for(label.geometry.matrix, "canonical")
        probabilities = turn(predict(label.array[0], np.random.default_rng(int(case[-3:]))), how)
        shape = probabilities.shape[1:]
        meta = PreprocessedCase(
            id=case,
            geometry=geometry,
            axes=how.axes,
            flips=how.flips,
            crop=tuple((MARGIN, size - MARGIN) for size in shape),
            shape_before_crop=shape,
            spacing_before_mm=turned(geometry.spacing_mm, how.axes),
            shape=shape,
            spacing_mm=(3.0, 1.5, 1.5),
        )
        inner = probabilities[:, MARGIN:-MARGIN, MARGIN:-MARGIN, MARGIN:-MARGIN]
        write_probabilities(folder / "validation", meta, inner)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, two folds of clean predictions, and afterwards two planted errors in the label files."""
    folder = tmp_path_factory.mktemp("audit")
    dataset = make_dataset(folder / "data", NUM_CASES)
    paths = Paths(folder=folder / "work" / dataset.name)
    plan = make_plan(dataset)
    write_record(paths.dataset, dataset)
    write_record(paths.plan(plan.name), plan)
    ids = [case.id for case in dataset.training]
    for fold in range(2):
        hold_out(paths, plan, dataset, "3d_fullres", ids[fold::2], str(fold))
    for case, error in (("phantom_003", "swapped"), ("phantom_006", "eroded")):
        path = folder / "data" / "labelsTr" / f"{case}.nii.gz"
        label = read_label(path)
        wrong = plant(error, label.array[0], LABELS, label.geometry.spacing_mm)  # type: ignore[arg-type]
        write_label(path, wrong.astype(np.uint8), label.geometry)
    flip_label(folder, "phantom_001")  # stored in another voxel order at the same place: no error
    return folder


@pytest.fixture
def paths(planted: Path, tmp_path: Path) -> Paths:
    """A copy of the workspace, to be changed; the dataset's folder is shared."""
    folder = next((planted / "work").iterdir())
    shutil.copytree(folder, tmp_path / folder.name)
    return Paths(folder=tmp_path / folder.name)


@pytest.fixture(scope="module")
def found(planted: Path) -> Audit:
    paths = Paths(folder=next((planted / "work").iterdir()))
    return audit(paths, read_record(paths.plan("small"), Plan))


def test_planted_errors_come_first(found: Audit) -> None:
    first, second = found.cases[:2]
    assert [(c.case, c.suspicions[0].kind) for c in (first, second)] == [
        ("phantom_003", "swapped"),
        ("phantom_006", "too_small"),
    ]
    assert all(case.has_prediction for case in found.cases)
    assert (found.plan, found.configurations, found.notes, found.failed) == ("small", ("3d_fullres",), (), {})
    assert [case.case for case in found.cases].index("phantom_001") > 1


def test_where_to_look_is_in_the_files_voxel_order(found: Audit, planted: Path) -> None:
    """Extra and missed parts of all cases: their voxel has the label that the sentence names."""
    checked = 0
    for suspicion in found.suspicions:
        if suspicion.kind in ("missed_part", "extra_part") and suspicion.case != "phantom_001":
            label = read_label(planted / "data" / "labelsTr" / f"{suspicion.case}.nii.gz").array[0]
            name = LABELS.class_names[int(label[suspicion.voxel])]
            assert f"labelled {name}" in suspicion.why
            checked += 1
    assert checked


def test_files_and_page(found: Audit, planted: Path) -> None:
    folder = next((planted / "work").iterdir()) / "audit"
    assert read_record(folder / "audit.json", Audit) == found
    rows = list(csv.DictReader((folder / "audit.csv").read_text().splitlines()))
    assert (rows[0]["rank"], rows[0]["case"], rows[0]["kind"]) == ("1", "phantom_003", "swapped")
    assert {row["case"] for row in rows} == {case.case for case in found.cases}
    page = (folder / "index.html").read_text("utf-8")
    assert "left kidney and right kidney look exchanged" in page
    assert page.count("data:image/png;base64,") == min(24, sum(min(3, len(c.suspicions)) for c in found.cases))
    assert "Slice of phantom_003 with contours" in page
    assert str(planted) not in page
    assert "<script" not in page


def test_other_cases_are_audited_by_their_labels_alone(paths: Paths) -> None:
    shutil.rmtree(paths.fold("small", "3d_fullres", "1"))
    found = audit(paths, read_record(paths.plan("small"), Plan), num_pictures=0)
    assert sum(case.has_prediction for case in found.cases) == NUM_CASES // 2
    assert "5 of 10 cases have no held-out prediction" in found.notes[0]
    swapped = next(case for case in found.cases if case.case == "phantom_003")
    assert (swapped.has_prediction, swapped.suspicions[0].kind) == (False, "swapped_sides")
    assert "data:image" not in (paths.audit / "index.html").read_text()


def test_what_was_selected_is_asked(paths: Paths) -> None:
    dataset, plan = read_record(paths.dataset, Dataset), read_record(paths.plan("small"), Plan)
    ids = [case.id for case in dataset.training]
    hold_out(paths, plan, dataset, "2d", ids[::2], "0")
    assert audit(paths, plan, num_pictures=0).configurations == ("3d_fullres",), "it held out most cases"
    content = {"plan": "small", "configurations": ["2d", "3d_fullres"], "folds": {}, "candidates": []}
    paths.selection.write_text(json.dumps(content))
    found = audit(paths, plan, num_pictures=0)
    assert found.configurations == ("2d", "3d_fullres")
    assert {case.case for case in found.cases if case.has_prediction} == set(ids[::2])


def test_a_faulty_case_is_named_and_the_others_are_audited(paths: Paths, planted: Path, tmp_path: Path) -> None:
    shutil.copytree(planted / "data", tmp_path / "data")
    dataset = read_record(paths.dataset, Dataset)
    write_record(paths.dataset, dataset.model_copy(update={"root": str(tmp_path / "data")}))
    (tmp_path / "data" / "labelsTr" / "phantom_002.nii.gz").write_bytes(b"broken")
    arguments = ["audit", paths.folder.name, "--work", str(paths.folder.parent), "--pictures", "1", "-q"]
    assert main(arguments) == 5
    found = read_record(paths.audit / "audit.json", Audit)
    assert set(found.failed) == {"phantom_002"}
    assert len(found.cases) == NUM_CASES - 1
    assert found.cases[0].case == "phantom_003"
    assert "phantom_002" in (paths.audit / "index.html").read_text()


def test_the_command_before_any_training(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(paths.folder / "models")
    shutil.rmtree(paths.plans)
    arguments = ["audit", paths.folder.name, "--work", str(paths.folder.parent), "-q"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "phantom_003: left kidney and right kidney lie on each other's side" in printed
    assert "No fold is trained, so only volumes" in printed
    assert "Next: open" in printed
    assert main([*arguments, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["plan"], content["cases"][0]["case"]) == (None, "phantom_003")
    assert "autoseg train" in (paths.audit / "index.html").read_text()
    assert main([*arguments, "--plan", "nothing"]) == 2


def test_names_that_look_like_formulas_are_defused(found: Audit) -> None:
    case = found.cases[0].model_copy(update={"case": "=1+1", "suspicions": ()})
    assert to_csv(found.model_copy(update={"cases": (case,)})).splitlines()[1].startswith("1,'=1+1,")


def test_a_dataset_that_nobody_opened(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Next: autoseg fingerprint"):
        audit(Paths(folder=tmp_path / "nothing"), None)
