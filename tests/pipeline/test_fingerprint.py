"""The stage: one pass over all files, all faults named, skipped only when nothing changed."""

import os
import threading
import time

import numpy as np
import pytest

from autoseg.devices import MemorySemaphore
from autoseg.errors import DataError, UsageError
from autoseg.images import contents
from autoseg.pipeline import fingerprint as stage
from autoseg.pipeline.fingerprint import verify_and_fingerprint, verify_only
from autoseg.pipeline.ingest import ingest
from autoseg.records.base import read_record
from autoseg.records.fingerprint import Fingerprint
from autoseg.storage.hashing import sha256_file
from tests.datasets.folders_on_disk import decathlon, image_of, label_of, nnunet
from tests.images.making import write_nifti


@pytest.fixture
def source(tmp_path):
    return decathlon(tmp_path / "Task01_X", num_cases=6)


@pytest.fixture
def paths(source, tmp_path):
    return ingest(str(source), tmp_path / "work")


@pytest.fixture
def reads(monkeypatch):
    """Names of the files that were read, one entry a reading."""
    names = []
    original = contents.read_contents

    def counted(path):
        names.append(path.name)
        return original(path)

    monkeypatch.setattr("autoseg.images.nifti.read_contents", counted)
    return names


def test_every_file_is_read_once_and_hashed(source, paths, reads):
    found = verify_and_fingerprint(paths, num_workers=2)
    assert len(reads) == 12
    assert read_record(paths.fingerprint, Fingerprint) == found
    assert list(found.cases) == [f"c{i:02d}" for i in range(6)]
    assert found.cases["c03"].image_sha256 == (sha256_file(source / "imagesTr" / "c03.nii.gz"),)
    assert found.cases["c03"].label_sha256 == sha256_file(source / "labelsTr" / "c03.nii.gz")
    assert found.spacings == ((4.0, 3.0, 2.0),) * 6


def test_number_of_workers_changes_nothing(source, tmp_path):
    one = verify_and_fingerprint(ingest(str(source), tmp_path / "a"), num_workers=1)
    assert verify_and_fingerprint(ingest(str(source), tmp_path / "b"), num_workers=3) == one


def test_skipped_when_nothing_changed(source, paths, reads):
    found = verify_and_fingerprint(paths)
    reads.clear()
    assert verify_and_fingerprint(paths) == found
    os.utime(source / "imagesTr" / "c00.nii.gz")  # touched, not changed
    assert verify_and_fingerprint(paths) == found
    assert not reads


@pytest.mark.parametrize("change", ["content", "size", "record", "labels"])
def test_measured_again_when_something_changed(source, paths, reads, change, tmp_path):
    verify_and_fingerprint(paths)
    reads.clear()
    image = source / "imagesTr" / "c00.nii.gz"
    if change == "content":
        plain = image_of(0)
        write_nifti(image.with_name("x.nii"), plain)
        raw = image.with_name("x.nii").read_bytes()
        image.write_bytes(raw)  # a plain file under the packed name, then the same size with other voxels
        image.with_name("x.nii").unlink()
        before = verify_and_fingerprint(paths)
        image.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
        os.utime(image, ns=(1, 1))
        reads.clear()
        assert verify_and_fingerprint(paths).cases["c00"] != before.cases["c00"]
    elif change == "size":
        write_nifti(image, image_of(77))
        verify_and_fingerprint(paths)
    elif change == "record":
        decathlon(source, num_cases=5)
        ingest(str(source), paths.folder.parent)
        assert len(verify_and_fingerprint(paths).cases) == 5
    else:
        decathlon(source, num_cases=6, labels={"background": 0, "all": [1, 2]}, regions_class_order=[1])
        ingest(str(source), paths.folder.parent)
        verify_and_fingerprint(paths)
    assert len(reads) == (10 if change == "record" else 12)


def test_all_faults_of_all_cases_are_named(source, paths):
    write_nifti(source / "labelsTr" / "c01.nii.gz", label_of(1) + 8)
    whole = (source / "imagesTr" / "c03.nii.gz").read_bytes()
    (source / "imagesTr" / "c03.nii.gz").write_bytes(whole[:-30])
    (source / "imagesTr" / "c05.nii.gz").unlink()
    with pytest.raises(DataError) as caught:
        verify_and_fingerprint(paths)
    for words in ("3 faults", "case c01", "case c03", "case c05"):
        assert words in str(caught.value)
    assert not paths.fingerprint.exists()


def test_warnings_do_not_stop(source, paths, capsys):
    write_nifti(source / "labelsTr" / "c01.nii.gz", label_of(1) * 0)
    found = verify_and_fingerprint(paths)
    assert "empty_label: case c01" in capsys.readouterr().err
    assert [c.presence for c in found.class_imbalance] == [5 / 6, 5 / 6]


def test_a_label_in_other_voxel_order_is_measured_on_the_images_grid(source, paths):
    import nibabel

    before = verify_and_fingerprint(paths).cases["c00"]
    label = nibabel.load(source / "labelsTr" / "c00.nii.gz")
    nibabel.save(label.as_reoriented(np.array([[1, -1], [0, 1], [2, -1]])), source / "labelsTr" / "c00.nii.gz")
    after = verify_and_fingerprint(paths).cases["c00"]
    assert after.model_copy(update={"label_sha256": before.label_sha256}) == before


def test_two_channels_in_two_files(tmp_path):
    source = nnunet(tmp_path / "N", num_channels=2)
    found = verify_and_fingerprint(ingest(str(source), tmp_path / "work"))
    assert set(found.foreground_intensity_properties_per_channel) == {"0", "1"}
    assert len(found.cases["c00"].image_sha256) == 2


def test_verify_only_reports_dataset_json_and_voxels_together(source, tmp_path):
    write_nifti(source / "labelsTr" / "c01.nii.gz", label_of(1) + 8)
    (source / "imagesTr" / "c02.nii.gz").unlink()
    findings = verify_only(source)
    assert {(f.kind, f.case) for f in findings if f.is_fault} == {("unexpected_label", "c01"), ("missing_file", "c02")}
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("make", [decathlon, nnunet])
@pytest.mark.parametrize("wrong", [{"labels": {"organ": 1}}, {"modality": None, "channel_names": None}])
def test_verify_only_reads_every_file_whatever_is_wrong_with_dataset_json(tmp_path, make, wrong):
    root = make(tmp_path / "X", num_cases=4, **wrong)
    (root / "imagesTs").mkdir()
    write_nifti(root / "labelsTr" / "c01.nii.gz", label_of(1, (4, 5, 7)))
    image = next((root / "imagesTr").glob("c03*"))
    image.write_bytes(image.read_bytes()[:-30])
    found = {(f.kind, f.case) for f in verify_only(root, num_workers=2) if f.is_fault}
    assert found == {
        ("no_background" if "labels" in wrong else "channels", None),
        ("shape_mismatch", "c01"),
        ("truncated", "c03"),
    }


@pytest.mark.parametrize("num_bytes", [1, 10**9])
def test_cases_that_do_not_fit_into_memory_together_are_read_one_by_one(source, paths, monkeypatch, num_bytes):
    inside, most, guard = 0, 0, threading.Lock()
    original = stage.examine

    def counted(dataset, case):
        nonlocal inside, most
        with guard:
            inside += 1
            most = max(most, inside)
        time.sleep(0.02)
        result = original(dataset, case)
        with guard:
            inside -= 1
        return result

    monkeypatch.setattr(stage, "examine", counted)
    monkeypatch.setattr(stage, "free_memory", lambda: MemorySemaphore(num_bytes))
    assert len(verify_and_fingerprint(paths, num_workers=3).cases) == 6
    assert (most == 1) == (num_bytes == 1)


def test_verify_only_knows_names_and_refuses_nothing_else(source, tmp_path):
    work = tmp_path / "work"
    ingest(str(source), work)
    assert verify_only(stage.Path("Task01_X"), workspace=work) == []
    with pytest.raises(UsageError):
        verify_only(stage.Path("Task02_X"), workspace=work)


def test_rogue_folder_without_dataset_json(shared_data):
    findings = verify_only(shared_data / "hippocampus_rogue" / "synthetic")
    assert sum(f.is_fault for f in findings) == 10
    assert sum(not f.is_fault for f in findings if f.kind != "no_dataset_json") == 4


@pytest.mark.slow
def test_hippocampus_against_nnunets_published_rule(shared_data, tmp_path):
    """nnU-Net 2.8.1's own extractor on these 200 cases gave these numbers."""
    found = verify_and_fingerprint(ingest(str(shared_data / "Task04_Hippocampus"), tmp_path))
    statistics = found.foreground_intensity_properties_per_channel["0"]
    assert statistics.mean == pytest.approx(22553.93359375, rel=1e-3)
    assert statistics.std == pytest.approx(60283.14453125, rel=1e-3)
    assert statistics.median == pytest.approx(356.2478942871094, rel=1e-3)
    assert statistics.percentile_00_5 == pytest.approx(28.0, rel=1e-3)
    assert statistics.percentile_99_5 == pytest.approx(271050.28125, rel=1e-3)
    assert found.median_relative_size_after_cropping == 1.0
