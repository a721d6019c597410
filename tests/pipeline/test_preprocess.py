import numpy as np
import pytest

from autoseg.errors import DataError, PartialError, UsageError
from autoseg.images.writing import write_image, write_label
from autoseg.pipeline import preprocess as stage
from autoseg.pipeline.fingerprint import verify_and_fingerprint
from autoseg.pipeline.preprocess import preprocess
from autoseg.preprocessing import store
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Case, Dataset
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.workspace import Paths
from tests.preprocessing.cases import LABELS, canonical_matrix, plan, volume

IDS = ("a", "b", "c")


@pytest.fixture
def paths(tmp_path) -> Paths:
    """A fingerprinted dataset of three small cases."""
    rng = np.random.default_rng(0)
    for name in IDS:
        image = rng.integers(1, 99, (1, 6, 8, 9)).astype(np.int16)
        labels = rng.choice([0, 3, 700], (1, 6, 8, 9))
        geometry = volume(image, canonical_matrix((2.0, 1.0, 1.0))).geometry
        write_image(tmp_path / "data" / f"{name}.nii.gz", image, geometry)
        write_label(tmp_path / "data" / f"{name}_label.nii.gz", labels[0].astype(np.int16), geometry)
    cases = tuple(Case(id=name, images=(f"{name}.nii.gz",), label=f"{name}_label.nii.gz") for name in IDS)
    dataset = Dataset(
        name="Fake",
        root=str(tmp_path / "data"),
        layout="decathlon",
        channel_names=("MRI",),
        labels=LABELS,
        file_ending=".nii.gz",
        training=cases,
    )
    found = Paths(folder=tmp_path / "work" / "Fake")
    write_record(found.dataset, dataset)
    verify_and_fingerprint(found)
    return found


def folder_of(paths, plan, configuration):
    return paths.preprocessed(store.digest(plan, configuration, read_record(paths.fingerprint, Fingerprint)))


def count_reads(monkeypatch) -> list[str]:
    reads: list[str] = []
    original = stage.read_pair

    def counted(dataset, case):
        reads.append(case.id)
        return original(dataset, case)

    monkeypatch.setattr(stage, "read_pair", counted)
    return reads


def test_each_case_is_read_once_and_cascade_shares(paths, monkeypatch):
    reads = count_reads(monkeypatch)
    folders = preprocess(paths, plan(spacing_mm=(2.0, 1.5, 1.0)), num_workers=2)
    assert sorted(reads) == list(IDS)
    assert folders["3d_fullres"] == folders["3d_cascade_fullres"] != folders["2d"]
    assert folders["2d"] == folder_of(paths, plan(spacing_mm=(2.0, 1.5, 1.0)), "2d")
    for folder in folders.values():
        manifest = store.open_store(folder)
        assert sorted(manifest.cases) == list(IDS)
        assert manifest.cases["a"].shape == (6, 5, 9)
        assert store.read_image(folder, "b").shape == (1, 6, 5, 9)


def test_second_call_does_nothing_and_says_so(paths, monkeypatch):
    preprocess(paths, plan())
    reads, said = count_reads(monkeypatch), []
    monkeypatch.setattr(stage, "say", said.append)
    preprocess(paths, plan())
    assert reads == []
    assert len(said) == 3
    assert all("already" in line for line in said)


def test_only_what_is_missing_is_done_again(paths, monkeypatch):
    folders = preprocess(paths, plan(), ["3d_fullres"])
    before = (folders["3d_fullres"] / "a.image.b2nd").stat().st_mtime_ns
    (folders["3d_fullres"] / "b.locations.safetensors").unlink()
    (folders["3d_fullres"] / "manifest.json").unlink()
    reads = count_reads(monkeypatch)
    preprocess(paths, plan(), ["3d_fullres"])
    assert reads == ["b"]
    assert (folders["3d_fullres"] / "a.image.b2nd").stat().st_mtime_ns == before
    assert len(store.open_store(folders["3d_fullres"]).cases) == 3


def test_workers_do_not_change_the_files(paths):
    folder = preprocess(paths, plan(spacing_mm=(2.0, 1.5, 1.3)), ["3d_fullres"], num_workers=1)["3d_fullres"]
    alone = store.open_store(folder).files_sha256
    for file in folder.iterdir():
        file.unlink()
    preprocess(paths, plan(spacing_mm=(2.0, 1.5, 1.3)), ["3d_fullres"], num_workers=3)
    assert store.open_store(folder).files_sha256 == alone


def test_faulty_cases_are_named_and_the_others_done(paths, tmp_path):
    (tmp_path / "data" / "b.nii.gz").unlink()
    (tmp_path / "data" / "c.nii.gz").write_bytes((tmp_path / "data" / "a.nii.gz").read_bytes())
    with pytest.raises(PartialError, match=r"2 of 3 cases(.|\n)*b: (.|\n)*c: .*changed since the fingerprint"):
        preprocess(paths, plan(), ["3d_fullres"])
    folder = folder_of(paths, plan(), "3d_fullres")
    assert store.find_case(folder, "a") is not None
    assert not (folder / "manifest.json").exists()


def test_cases_that_came_or_went_since_the_fingerprint_are_named(paths):
    dataset = read_record(paths.dataset, Dataset)
    write_record(paths.dataset, dataset.model_copy(update={"training": dataset.training[:2]}))
    with pytest.raises(DataError, match=r"other cases: c went since\. .*autoseg plan_and_preprocess"):
        preprocess(paths, plan(), ["3d_fullres"])
    new = dataset.training[0].model_copy(update={"id": "d"})
    write_record(paths.dataset, dataset.model_copy(update={"training": (*dataset.training, new)}))
    with pytest.raises(DataError, match="other cases: d came since"):
        preprocess(paths, plan(), ["3d_fullres"])


def test_unknown_configuration(paths):
    with pytest.raises(UsageError, match="3d_huge"):
        preprocess(paths, plan(), ["3d_huge"])
