"""From a folder to its records: once, again, moved, in conflict, by name."""

import json
import shutil

import pytest

from autoseg.errors import DataError, UsageError
from autoseg.pipeline.ingest import ingest, locate
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Dataset, Folds
from tests.datasets.folders_on_disk import decathlon, image_of
from tests.images.making import write_nifti


@pytest.fixture
def source(tmp_path):
    return decathlon(tmp_path / "data" / "Task01_X", num_cases=6)


@pytest.fixture
def work(tmp_path):
    return tmp_path / "work"


def test_records_are_written_and_the_folder_is_left_alone(source, work):
    before = sorted((p, p.stat().st_mtime_ns) for p in source.rglob("*"))
    source.chmod(0o555)
    paths = ingest(str(source), work)
    source.chmod(0o755)
    assert paths.folder == work / "Task01_X"
    assert read_record(paths.dataset, Dataset).num_training == 6
    assert len(read_record(paths.folds, Folds).folds) == 5
    assert before == sorted((p, p.stat().st_mtime_ns) for p in source.rglob("*"))


def test_again_changes_nothing_not_even_edited_folds(source, work):
    paths = ingest(str(source), work)
    folds = read_record(paths.folds, Folds)
    write_record(paths.folds, Folds(folds=folds.folds[:2], source="edited"))
    times = [path.stat().st_mtime_ns for path in (paths.dataset, paths.folds)]
    assert ingest(str(source), work) == paths
    assert ingest("Task01_X", work) == paths
    assert [path.stat().st_mtime_ns for path in (paths.dataset, paths.folds)] == times
    ingest("Task01_X", work, patient_regex=r"c(\d)")
    assert read_record(paths.folds, Folds).source == "too few cases"


@pytest.mark.parametrize("by", ["folder", "name"])
def test_the_rule_and_the_number_of_folds_are_kept_when_cases_change(source, work, capsys, by):
    """Without this a later command would divide patients between training and validation."""
    paths = ingest(str(source), work, num_folds=2, patient_regex=r"c(\d)")  # one patient
    ingest(str(source), work, patient_regex=r"c0([0-2]|[3-9])")
    assert len(read_record(paths.folds, Folds).folds) == 2
    assert "--patient-regex 'c0([0-2]|[3-9])' is new" in capsys.readouterr().err
    ingest(str(source) if by == "folder" else "Task01_X", work, num_folds=4)
    assert len(read_record(paths.folds, Folds).folds) == 2
    assert "--folds 4 changes nothing" in capsys.readouterr().err
    decathlon(source, num_cases=8)
    ingest(str(source), work)
    folds = read_record(paths.folds, Folds)
    assert (len(folds.folds), folds.num_folds, folds.patient_regex) == (2, 2, r"c0([0-2]|[3-9])")
    assert "the training cases changed" in capsys.readouterr().err
    ingest(str(source), work, num_folds=2, patient_regex=r"c0([0-2]|[3-9])")
    assert "warning" not in capsys.readouterr().err


def test_another_case_makes_new_folds(source, work):
    paths = ingest(str(source), work)
    decathlon(source, num_cases=7)
    ingest(str(source), work)
    assert read_record(paths.dataset, Dataset).num_training == 7
    held = [case for fold in read_record(paths.folds, Folds).folds for case in fold.validation]
    assert len(held) == 7


def test_a_name_that_is_taken(source, work, tmp_path):
    ingest(str(source), work)
    other = decathlon(tmp_path / "elsewhere" / "Task01_X", num_cases=5)
    with pytest.raises(UsageError, match="already"):
        ingest(str(other), work)
    shutil.rmtree(source)  # the folder was moved
    assert read_record(ingest(str(other), work).dataset, Dataset).root == str(other)


def test_a_name_works_without_the_folder_and_inside_the_workspace(source, work, monkeypatch):
    paths = ingest(str(source), work)
    monkeypatch.chdir(work)
    assert ingest("Task01_X", work) == paths
    monkeypatch.chdir(source.parent)
    assert locate("Task01_X", work) == paths
    shutil.rmtree(source)
    assert ingest("Task01_X", work) == paths


def test_what_is_neither_folder_nor_name(source, work):
    with pytest.raises(UsageError, match="is empty"):
        ingest("Task99", work)
    ingest(str(source), work)
    for name in ("Task99", "../Task01_X", "/nowhere"):
        with pytest.raises(UsageError, match="has Task01_X"):
            ingest(name, work)


def test_faulty_folders_leave_no_records(source, work):
    (source / "imagesTr" / "c00.nii.gz").unlink()
    with pytest.raises(DataError, match=r"imagesTr/c00\.nii\.gz"):
        ingest(str(source), work)
    assert not work.exists()


def test_warnings_are_told(source, work, capsys):
    write_nifti(source / "imagesTr" / "extra.nii.gz", image_of(3))
    ingest(str(source), work)
    assert "imagesTr/extra.nii.gz is not listed" in capsys.readouterr().err


def test_splits_file_of_nnunet(source, work):
    splits = [{"train": ["c00", "c01", "c02"], "val": ["c03", "c04", "c05"]}]
    (source / "splits_final.json").write_text(json.dumps(splits))
    folds = read_record(ingest(str(source), work).folds, Folds)
    assert [fold.validation for fold in folds.folds] == [("c03", "c04", "c05")]
