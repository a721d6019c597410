"""Folds: nnU-Net's for single cases, balanced and undivided for patients, honoured when given."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import KFold

from autoseg.datasets.folds import make_folds
from autoseg.errors import DataError
from autoseg.records.dataset import Case, Dataset
from autoseg.records.labels import LabelScheme

SCHEME = LabelScheme(class_names=("background", "a"), class_values=(0, 1), num_entries=2)


def dataset_of(patients, root="/nowhere"):
    cases = tuple(Case(id=case, images=(f"{case}.nii",), label="l.nii", patient=p) for case, p in patients.items())
    return Dataset(
        name="d",
        root=str(root),
        layout="decathlon",
        channel_names=("CT",),
        labels=SCHEME,
        file_ending=".nii",
        training=cases,
    )


def test_single_cases_get_sklearns_folds_on_sorted_ids():
    ids = [f"case_{i}" for i in (30, 4, 11, 2, 100, 7, 8, 55, 61, 3, 21)]
    folds = make_folds(dataset_of(dict.fromkeys(ids))).folds
    expected = KFold(5, shuffle=True, random_state=12345).split(np.array(sorted(ids)))
    for fold, (train, held) in zip(folds, expected, strict=True):
        assert fold.train == tuple(sorted(ids)[i] for i in train)
        assert fold.validation == tuple(sorted(ids)[i] for i in held)


def test_hippocampus_fold_0_is_the_published_one(shared_data):
    from tests.datasets.folders_on_disk import open_dataset

    folds = make_folds(open_dataset(shared_data / "Task04_Hippocampus"))
    assert folds.source == "kfold"
    assert [len(fold.validation) for fold in folds.folds] == [40] * 5


@pytest.mark.parametrize(("num_cases", "num_folds"), [(1, 0), (2, 2), (4, 4), (5, 5), (6, 5)])
def test_few_cases_give_fewer_folds_with_a_warning(num_cases, num_folds, capsys):
    folds = make_folds(dataset_of({f"c{i}": None for i in range(num_cases)}))
    assert len(folds.folds) == num_folds
    assert ("warning" in capsys.readouterr().err) == (num_folds < 5)


def test_one_case_a_patient_is_the_same_as_no_patients():
    ids = [f"c{i}" for i in range(12)]
    assert make_folds(dataset_of({c: f"p{c}" for c in ids})) == make_folds(dataset_of(dict.fromkeys(ids)))


@given(st.lists(st.integers(0, 11), min_size=5, max_size=60))
def test_patients_are_never_divided_and_folds_are_balanced(owners):
    patients = {f"c{i:02d}": f"p{owner}" for i, owner in enumerate(owners)}
    groups = [owners.count(owner) for owner in set(owners)]
    folds = make_folds(dataset_of(patients)).folds
    assert len(folds) == (min(5, len(groups)) if len(groups) > 1 else 0)
    held = [case for fold in folds for case in fold.validation]
    if folds:
        assert sorted(held) == sorted(patients)
        sizes = [len(fold.validation) for fold in folds]
        assert max(sizes) - min(sizes) <= max(groups)
    for fold in folds:
        assert not {patients[c] for c in fold.train} & {patients[c] for c in fold.validation}
        assert sorted([*fold.train, *fold.validation]) == sorted(patients)
    assert make_folds(dataset_of(patients)).folds == folds


def test_patient_regex():
    ids = [f"pat{i}_visit{j}" for i in range(6) for j in range(2)]
    folds = make_folds(dataset_of(dict.fromkeys(ids)), patient_regex=r"(pat\d+)_")
    assert folds.source == "grouped kfold"
    for fold in folds.folds:
        assert not {c[:4] for c in fold.train} & {c[:4] for c in fold.validation}
    assert make_folds(dataset_of(dict.fromkeys(ids)), patient_regex=r"^pat\d+").folds == folds.folds
    assert (folds.patient_regex, folds.num_folds) == (r"(pat\d+)_", 5)
    with pytest.raises(DataError, match="matches nothing in 12"):
        make_folds(dataset_of(dict.fromkeys(ids)), patient_regex="subject")
    with pytest.raises(DataError, match="no regular expression"):
        make_folds(dataset_of(dict.fromkeys(ids)), patient_regex="(")


def test_a_case_without_patient_is_not_the_patient_of_its_name():
    folds = make_folds(dataset_of({"p": None, "a": "p", "b": "p", "c": None}))
    assert len(folds.folds) == 3


def test_splits_file_in_the_folder_is_honoured(tmp_path, capsys):
    splits = [{"train": ["c1", "c0"], "val": ["c2"]}, {"train": ["c2"], "val": ["c0", "c1"]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(splits))
    dataset = dataset_of({f"c{i}": None for i in range(3)}, tmp_path)
    folds = make_folds(dataset)
    assert folds.folds[0].train == ("c0", "c1")
    assert folds.folds[1].validation == ("c0", "c1")
    assert folds.source == str(tmp_path / "splits_final.json")
    assert not capsys.readouterr().err
    (tmp_path / "splits_final.json").write_text(json.dumps(splits[:1]))
    assert len(make_folds(dataset).folds) == 1
    assert "held out by no fold: c0, c1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[", "JSON"),
        ("{}", "a list"),
        ("[]", "a list"),
        ('[{"train": ["c0"]}]', "fold 0: expected"),
        ('[{"train": ["c0"], "val": []}]', "fold 0: expected"),
        ('[{"train": ["c0"], "val": [1]}]', "fold 0: expected"),
        ("[3]", "fold 0: expected"),
        ('[{"train": ["c0", "x"], "val": ["c1"]}]', "no such training cases: x"),
        ('[{"train": ["c0", "c1"], "val": ["c1"]}]', "both: c1"),
        ('[{"train": ["c0", "c0"], "val": ["c1"]}]', "listed twice: c0"),
    ],
)
def test_splits_that_do_not_fit(tmp_path, content, words):
    (tmp_path / "splits_final.json").write_text(content)
    with pytest.raises(DataError, match=words):
        make_folds(dataset_of({"c0": None, "c1": None}, tmp_path))
