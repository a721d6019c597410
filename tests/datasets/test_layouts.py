"""Decathlon and nnU-Net folders as they come, and what is refused."""

import json

import pytest

from autoseg.datasets.folders import find_cases
from autoseg.datasets.layouts import inspect_dataset, safe_name
from autoseg.errors import DataError
from tests.datasets.folders_on_disk import decathlon, image_of, label_of, nnunet, open_dataset
from tests.images.making import write_nifti


def kinds_of(root, faults=True):
    return sorted(f.kind for f in inspect_dataset(root)[1] if f.is_fault == faults)


def test_decathlon_folder(tmp_path):
    root = decathlon(tmp_path / "Task 01")
    dataset = open_dataset(root)
    assert dataset.name == "Task_01"
    assert dataset.layout == "decathlon"
    assert [case.id for case in dataset.training] == ["c00", "c01", "c02"]
    assert dataset.training[0].images == ("imagesTr/c00.nii.gz",)
    assert dataset.training[0].label == "labelsTr/c00.nii.gz"
    assert dataset.file_ending == ".nii.gz"
    assert not kinds_of(root, faults=False)


def test_training_as_strings_and_test_as_pairs(tmp_path):
    names = [f"imagesTr/c{i:02d}.nii.gz" for i in range(3)]
    root = decathlon(tmp_path, training=names, test=[{"image": "imagesTs/t.nii.gz"}, "./imagesTs/u.nii.gz"])
    (root / "imagesTs").mkdir()
    for name in ("t", "u"):
        write_nifti(root / "imagesTs" / f"{name}.nii.gz", image_of(9))
    dataset = open_dataset(root)
    assert [case.label for case in dataset.training] == [f"labelsTr/c{i:02d}.nii.gz" for i in range(3)]
    assert [case.id for case in dataset.test] == ["t", "u"]
    assert dataset.test[0].label is None


def test_forks_of_macos_are_ignored(tmp_path):
    root = decathlon(tmp_path)
    (root / "imagesTr" / "._c00.nii.gz").write_text("fork")
    content = json.loads((root / "dataset.json").read_text())
    content["training"].append({"image": "./imagesTr/._c00.nii.gz", "label": "./labelsTr/._c00.nii.gz"})
    content["test"] = ["./imagesTs/._t.nii.gz"]
    (root / "dataset.json").write_text(json.dumps(content))
    assert len(open_dataset(root).training) == 3


def test_channels_in_files_of_a_decathlon_list(tmp_path):
    root = nnunet(tmp_path, num_channels=2)
    pairs = [{"image": f"imagesTr/c{i:02d}.nii.gz", "label": f"labelsTr/c{i:02d}.nii.gz"} for i in range(3)]
    content = {"modality": {"0": "T1", "1": "T2"}, "labels": {"0": "background", "1": "a"}, "training": pairs}
    (root / "dataset.json").write_text(json.dumps(content))
    dataset = open_dataset(root)
    assert dataset.layout == "decathlon"
    assert dataset.training[0].images == ("imagesTr/c00_0000.nii.gz", "imagesTr/c00_0001.nii.gz")


def test_all_missing_files_are_named_at_once(tmp_path):
    root = decathlon(tmp_path, num_cases=4)
    (root / "imagesTr" / "c00.nii.gz").unlink()
    (root / "labelsTr" / "c02.nii.gz").unlink()
    with pytest.raises(DataError) as caught:
        open_dataset(root)
    assert "imagesTr/c00.nii.gz" in str(caught.value)
    assert "labelsTr/c02.nii.gz" in str(caught.value)
    found, _ = inspect_dataset(root)
    assert [case.id for case in found.training] == ["c01", "c03"]


def test_test_images_that_were_never_downloaded_are_a_warning(tmp_path):
    root = decathlon(tmp_path, test=[f"./imagesTs/t{i}.nii.gz" for i in range(9)])
    assert kinds_of(root, faults=False) == ["no_test_images"]
    (root / "imagesTs").mkdir()
    write_nifti(root / "imagesTs" / "t3.nii.gz", image_of(7))
    assert [case.id for case in open_dataset(root).test] == ["t3"]
    (finding,) = inspect_dataset(root)[1]
    assert finding.kind == "no_test_images"
    assert "imagesTs/t0.nii.gz is listed but not there" in finding.message
    assert "and 3 more" in finding.message
    decathlon(root, test=["../t.nii.gz"])
    assert kinds_of(root) == ["path_escape"]


def test_incomplete_test_cases_of_nnunet_are_a_warning(tmp_path):
    root = nnunet(tmp_path, num_channels=2)
    (root / "imagesTs").mkdir()
    for name in ("a_0000", "a_0001", "b_0000", "plain"):
        write_nifti(root / "imagesTs" / f"{name}.nii.gz", image_of(1))
    assert [case.id for case in open_dataset(root).test] == ["a"]
    assert kinds_of(root, faults=False) == ["no_test_images"]


def test_wrong_number_and_forgotten_files_are_warnings(tmp_path):
    root = decathlon(tmp_path, numTraining=99)
    write_nifti(root / "imagesTr" / "extra.nii.gz", image_of(7))
    write_nifti(root / "labelsTr" / "other.nii.gz", label_of(7))
    assert kinds_of(root, faults=False) == ["image_without_label", "label_without_image", "num_training"]
    assert open_dataset(root).num_training == 3


@pytest.mark.parametrize("how", ["../outside.nii.gz", "absolute", "link", "C:\\x.nii.gz"])
def test_nothing_outside_the_folder_is_touched(tmp_path, how):
    outside = write_nifti(tmp_path / "outside.nii.gz", image_of(0))
    root = decathlon(tmp_path / "set")
    name = {"absolute": str(outside), "link": "imagesTr/link.nii.gz"}.get(how, how)
    if how == "link":
        (root / name).symlink_to(outside)
    decathlon(root, training=[{"image": name, "label": "labelsTr/c00.nii.gz"}])
    assert "path_escape" in kinds_of(root)


@pytest.mark.parametrize("name", ["-x", "a b", "x" * 129, "CON", "\u00e9", "nul.1"])
def test_names_that_no_case_may_have(tmp_path, name):
    root = decathlon(tmp_path)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder / "c00.nii.gz").rename(root / folder / f"{name}.nii.gz")
    decathlon(root, training=[{"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"}])
    assert kinds_of(root) == ["case_id"]


def test_names_that_collide(tmp_path):
    root = decathlon(tmp_path)
    write_nifti(root / "imagesTr" / "C00.nii.gz", image_of(7))
    pairs = [{"image": f"imagesTr/{n}.nii.gz", "label": "labelsTr/c00.nii.gz"} for n in ("c00", "C00", "c01", "c01")]
    decathlon(root, training=pairs)
    assert kinds_of(root) == ["duplicate_case", "duplicate_case"]


@pytest.mark.parametrize("training", [[], None, "x", [3], [{"label": "labelsTr/c00.nii.gz"}], ["imagesTr/c00.dcm"]])
def test_no_cases(tmp_path, training):
    assert len(kinds_of(decathlon(tmp_path, training=training))) == 1


def test_patients_are_attached(tmp_path):
    root = decathlon(tmp_path, patients={"c00": "p", "c01": "p", "zz": "q"})
    assert [case.patient for case in open_dataset(root).training] == ["p", "p", None]
    assert kinds_of(root, faults=False) == ["patients"]
    assert kinds_of(decathlon(tmp_path, patients=["c00"])) == ["patients"]


def test_nnunet_folder(tmp_path):
    root = nnunet(tmp_path, num_channels=2)
    (root / "imagesTs").mkdir()
    for channel in range(2):
        write_nifti(root / "imagesTs" / f"t_{channel:04d}.nii.gz", image_of(1))
    (root / "imagesTr" / ".DS_Store").write_text("x")
    dataset = open_dataset(root)
    assert dataset.layout == "nnunet"
    assert dataset.channel_names == ("T0", "T1")
    assert dataset.training[1].images == ("imagesTr/c01_0000.nii.gz", "imagesTr/c01_0001.nii.gz")
    assert dataset.training[1].label == "labelsTr/c01.nii.gz"
    assert [case.id for case in dataset.test] == ["t"]


def test_nnunet_faults_are_all_named(tmp_path):
    root = nnunet(tmp_path, num_cases=5, num_channels=2)
    (root / "imagesTr" / "c00_0001.nii.gz").unlink()
    (root / "imagesTr" / "c01_0001.nii.gz").rename(root / "imagesTr" / "c01_0007.nii.gz")
    (root / "labelsTr" / "c02.nii.gz").unlink()
    for channel in range(2):
        (root / "imagesTr" / f"c03_{channel:04d}.nii.gz").unlink()
    write_nifti(root / "imagesTr" / "plain.nii.gz", image_of(1))
    dataset, findings = inspect_dataset(root)
    assert sorted((f.kind, f.case) for f in findings if f.is_fault) == [
        ("file_name", None),
        ("image_without_label", "c02"),
        ("label_without_image", "c03"),
        ("missing_channel", "c00"),
        ("missing_channel", "c01"),
    ]
    assert [case.id for case in dataset.training] == ["c04"]


def test_nnunet_dataset_mapping(tmp_path):
    root = nnunet(tmp_path, num_channels=2)
    mapping = {"first": {"images": [f"imagesTr/c00_{c:04d}.nii.gz" for c in range(2)], "label": "labelsTr/c00.nii.gz"}}
    nnunet(root, num_channels=2, dataset=mapping, numTraining=1)
    assert [case.id for case in open_dataset(root).training] == ["first"]
    mapping["second"] = {"images": ["../../etc/passwd.nii.gz"], "label": "labelsTr/c01.nii.gz"}
    nnunet(root, num_channels=2, dataset=mapping)
    assert kinds_of(root) == ["path_escape"]


def test_no_dataset_json(tmp_path):
    with pytest.raises(DataError, match="dataset\\.json is missing"):
        open_dataset(tmp_path)


def test_real_folders_open(shared_data):
    for folder in sorted(shared_data.glob("Task*")):
        dataset = open_dataset(folder)
        assert dataset.num_training >= 1
        assert not kinds_of(folder, faults=False)


def test_safe_names():
    assert safe_name("a b/c") == "a_b_c"
    assert safe_name("..") == "dataset"
    assert safe_name("_x") == "x"


def test_find_cases(tmp_path):
    for name in ("b_0000", "b_0001", "a_0000", "whole", "x_0007"):
        write_nifti(tmp_path / f"{name}.nii.gz", image_of(1))
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "._b_0000.nii.gz").write_text("x")
    found = {case.id: case.images for case in find_cases(tmp_path, 2)}
    assert found == {
        "a": ("a_0000.nii.gz",),
        "b": ("b_0000.nii.gz", "b_0001.nii.gz"),
        "whole": ("whole.nii.gz",),
        "x_0007": ("x_0007.nii.gz",),
    }
    assert [case.id for case in find_cases(tmp_path / "a_0000.nii.gz", 1)] == ["a"]
    write_nifti(tmp_path / "a.nii.gz", image_of(1))
    with pytest.raises(DataError, match="same case"):
        find_cases(tmp_path, 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        find_cases(tmp_path / "empty", 1)
