from pathlib import Path

import pytest

from autoseg.errors import DataError, ModelError, UsageError
from autoseg.records.base import read_record, record_to_json, write_record
from autoseg.records.dataset import Fold, Folds
from autoseg.records.recipe import Recipe


def test_round_trip(tmp_path: Path) -> None:
    record = Folds(folds=(Fold(train=("a", "b"), validation=("c",)),), source="kfold")
    write_record(tmp_path / "folds.json", record)
    assert read_record(tmp_path / "folds.json", Folds) == record
    assert '"schema_version": 1' in (tmp_path / "folds.json").read_text()


def test_number_lists_stay_on_one_line() -> None:
    assert '"betas"' not in record_to_json(Recipe())
    assert '"rotation_degrees": [-30.0, 30.0]' in record_to_json(Recipe())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected a JSON object"),
        ('{"schema_version": 99}', "upgrade autoseg"),
        ('{"folds": [], "source": "kfold", "extra": 1}', "extra: Extra inputs"),
        ('{"folds": [{"train": [1], "validation": []}]}', r"(?s)folds\.0\.train\.0.*source: Field required"),
    ],
)
def test_every_fault_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "folds.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read_record(path, Folds)
    assert "folds.json" in str(caught.value)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Run autoseg train"):
        read_record(tmp_path / "no.json", Folds, fault=ModelError, remedy="Run autoseg train.")
    with pytest.raises(UsageError, match=r"no\.json does not exist\. Run autoseg plan\.$"):
        read_record(tmp_path / "no.json", Folds, remedy="Run autoseg plan.")
    with pytest.raises(DataError, match=r"no\.json does not exist\.$"):
        read_record(tmp_path / "no.json", Folds)
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(DataError, match=r"cannot be read: Is a directory\.$"):
        read_record(tmp_path / "folder.json", Folds, remedy="Run autoseg plan.")
