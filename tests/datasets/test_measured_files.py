"""Files count as unchanged by size and time, else by content; what is away counts as it was measured."""

import os
from pathlib import Path

import pytest

from autoseg.datasets import measured_files as module
from autoseg.datasets.measured_files import MeasuredFiles, case_digests_now, is_unchanged
from autoseg.pipeline.fingerprint import verify_and_fingerprint
from autoseg.pipeline.ingest import ingest
from autoseg.records.base import read_record
from autoseg.records.dataset import Dataset
from autoseg.records.workspace import Paths
from tests.datasets.folders_on_disk import decathlon


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = ingest(str(decathlon(tmp_path / "Task01_X", num_cases=3)), tmp_path / "work")
    verify_and_fingerprint(paths, num_workers=1)
    return paths


def _records(paths: Paths) -> tuple[Dataset, MeasuredFiles]:
    return read_record(paths.dataset, Dataset), read_record(paths.measured_files, MeasuredFiles)


def test_unchanged_files_are_not_read_again(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, known = _records(paths)
    fingerprint = verify_and_fingerprint(paths)
    monkeypatch.setattr(module, "sha256_file", lambda path: pytest.fail(f"{path} was read"))
    assert is_unchanged(dataset, known)
    wanted = {case: measured.files_digest for case, measured in fingerprint.cases.items()}
    assert case_digests_now(dataset, known) == wanted


def test_another_content_is_seen_another_time_is_not(paths: Paths) -> None:
    dataset, known = _records(paths)
    before = case_digests_now(dataset, known)
    label = Path(dataset.root) / "labelsTr" / "c01.nii.gz"
    os.utime(label, (1, 1))
    assert is_unchanged(dataset, known)
    assert case_digests_now(dataset, known) == before
    content = bytearray(label.read_bytes())
    content[-5] ^= 1
    label.write_bytes(content)
    assert not is_unchanged(dataset, known)
    now = case_digests_now(dataset, known)
    assert [case for case in before if now[case] != before[case]] == ["c01"]
    assert case_digests_now(dataset, None) == now


def test_a_file_that_is_away_counts_as_measured(paths: Paths) -> None:
    dataset, known = _records(paths)
    before = case_digests_now(dataset, known)
    (Path(dataset.root) / "imagesTr" / "c02.nii.gz").unlink()
    assert case_digests_now(dataset, known) == before
    assert not is_unchanged(dataset, known)


def test_new_times_of_the_same_files_are_kept(paths: Paths) -> None:
    dataset, _ = _records(paths)
    os.utime(Path(dataset.root) / "labelsTr" / "c01.nii.gz", (1, 1))
    verify_and_fingerprint(paths)
    assert read_record(paths.measured_files, MeasuredFiles).files["labelsTr/c01.nii.gz"].modified_ns == 10**9
