"""Every kind of fault is found, named and told from a warning; all cases in one run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from autoseg.datasets.findings import describe, raise_faults
from autoseg.datasets.guessing import guess_dataset
from autoseg.datasets.layouts import inspect_dataset
from autoseg.datasets.pairs import read_pair
from autoseg.datasets.verify import check_overall, read_and_check
from autoseg.errors import DataError
from autoseg.images.pictures import flat_geometry
from autoseg.images.writing import write_image
from tests.datasets.folders_on_disk import LABELS, decathlon, image_of, label_of, open_dataset
from tests.images.making import write_nifti

ROGUE = {
    "4d_image": ("unknown_channel", True),
    "affine_mismatch": ("affine_mismatch", True),
    "constant_image": ("constant_image", False),
    "empty_label": ("empty_label", False),
    "flipped_orientation": ("flipped_orientation", False),
    "float_label": ("float_label", False),
    "fractional_label": ("fractional_label", True),
    "nan_image": ("not_finite", True),
    "not_nifti": ("not_an_image", True),
    "off_by_one": ("shape_mismatch", True),
    "shape_mismatch": ("shape_mismatch", True),
    "spacing_mismatch": ("spacing_mismatch", True),
    "truncated_image": ("truncated", True),
    "unexpected_label": ("unexpected_label", True),
}


def verify_dataset(dataset):
    """What is found in each case, one after the other."""
    findings = []
    for case in (*dataset.training, *dataset.test):
        findings += read_and_check(Path(dataset.root), case, len(dataset.channel_names), dataset.labels)[2]
    return findings


@pytest.fixture
def rogue(shared_data, tmp_path):
    """The rogue pairs as a Decathlon folder."""
    source = shared_data / "hippocampus_rogue" / "synthetic"
    names = sorted(path.name for path in (source / "images").iterdir())
    for folder in ("images", "labels"):
        shutil.copytree(source / folder, tmp_path / f"{folder}Tr")
    pairs = [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names]
    content = {"modality": {"0": "MRI"}, "labels": {"background": 0, "Anterior": 1, "Posterior": 2}, "training": pairs}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    return tmp_path


def test_ten_faults_and_four_warnings_in_one_run(rogue):
    findings = verify_dataset(open_dataset(rogue))
    assert {f.case: (f.kind, f.is_fault) for f in findings} == ROGUE
    assert len(findings) == 14
    with pytest.raises(DataError) as caught:
        raise_faults(findings, "rogue")
    for case, (_, is_fault) in ROGUE.items():
        assert (f"case {case}:" in str(caught.value)) == is_fault


@pytest.mark.parametrize("case", sorted(ROGUE))
def test_each_rogue_pair_alone(rogue, case):
    content = json.loads((rogue / "dataset.json").read_text())
    content["training"] = [pair for pair in content["training"] if f"/{case}.nii.gz" in pair["image"]]
    (rogue / "dataset.json").write_text(json.dumps(content))
    (finding,) = verify_dataset(open_dataset(rogue))
    assert (finding.kind, finding.is_fault) == ROGUE[case]
    assert f"{case}.nii.gz" in finding.message
    assert case in finding.file


def test_a_folder_without_dataset_json_is_checked_by_what_is_common(shared_data):
    dataset, findings = guess_dataset(shared_data / "hippocampus_rogue" / "synthetic")
    assert [(f.kind, f.is_fault) for f in findings] == [("no_dataset_json", False)]
    assert dataset.labels.class_values == (0, 1, 2)
    assert len(dataset.channel_names) == 1
    assert {f.case: (f.kind, f.is_fault) for f in verify_dataset(dataset)} == ROGUE


def test_files_without_counterpart_are_faults(shared_data, tmp_path):
    dataset, findings = guess_dataset(shared_data / "hippocampus_rogue")
    assert dataset is None
    assert sorted((f.kind, f.case) for f in findings if f.is_fault) == [
        ("image_without_label", "hippocampus_118"),
        ("label_without_image", "hippocampus_010"),
        ("label_without_image", "hippocampus_281"),
        ("no_dataset_json", None),
    ]
    source = shared_data / "hippocampus_rogue"
    root = decathlon(tmp_path, labels=LABELS)
    shutil.copy(source / "images" / "hippocampus_118.nii.gz", root / "imagesTr")
    shutil.copy(source / "labels" / "hippocampus_281.nii.gz", root / "labelsTr")
    found = {(f.kind, f.case) for f in inspect_dataset(root)[1]}
    assert found == {("image_without_label", "hippocampus_118"), ("label_without_image", "hippocampus_281")}


def findings_of(root):
    return [(f.kind, f.is_fault) for f in verify_dataset(open_dataset(root))]


def test_clean_data_has_no_findings(tmp_path):
    assert findings_of(decathlon(tmp_path)) == []


def test_masks_of_255_get_a_suggestion(tmp_path):
    root = decathlon(tmp_path, num_cases=1, labels={"background": 0, "organ": 1})
    write_nifti(root / "labelsTr" / "c00.nii.gz", (label_of(0) > 1).astype(np.uint8) * 255)
    (finding,) = verify_dataset(open_dataset(root))
    assert finding.kind == "unexpected_label"
    assert "write 255 as its value" in finding.message


def test_label_of_nothing_but_ignored_voxels_is_empty(tmp_path):
    root = decathlon(tmp_path, num_cases=1, labels={"background": 0, "organ": 1, "ignore": 2})
    write_nifti(root / "labelsTr" / "c00.nii.gz", (label_of(0) > 1).astype(np.uint8) * 2)
    assert findings_of(root) == [("empty_label", False)]


def test_both_files_of_a_pair_are_looked_at(tmp_path):
    root = decathlon(tmp_path, num_cases=1)
    (root / "imagesTr" / "c00.nii.gz").write_bytes(b"x")
    write_nifti(root / "labelsTr" / "c00.nii.gz", label_of(0) + 9)
    assert findings_of(root) == [("not_an_image", True), ("unexpected_label", True)]


def test_test_images_are_looked_at_too(tmp_path):
    root = decathlon(tmp_path, test=["./imagesTs/t.nii.gz"])
    (root / "imagesTs").mkdir()
    write_nifti(root / "imagesTs" / "t.nii.gz", np.full((3, 4, 5), np.inf, np.float32))
    assert findings_of(root) == [("not_finite", True)]


def test_what_only_all_cases_show(tmp_path):
    labels = open_dataset(decathlon(tmp_path)).labels
    assert [f.kind for f in check_overall(labels, {"organ": 2, "lesion": 1}, 3)] == []
    assert [(f.kind, f.is_fault) for f in check_overall(labels, {"organ": 2}, 3)] == [("absent_class", False)]
    assert [(f.kind, f.is_fault) for f in check_overall(labels, {}, 3)] == [("no_foreground", True)]


def test_a_tiff_label_without_spacing_takes_its_images(tmp_path):
    """Label tools write no unit; the image has ImageJ's or nnU-Net's sidecar."""
    root = decathlon(tmp_path, num_cases=0, training=[{"image": "imagesTr/a.tif", "label": "labelsTr/a.tif"}])
    grid = flat_geometry((4, 5, 6), planar=False, spacing_mm=(3.0, 0.5, 0.5))
    write_image(root / "imagesTr" / "a.tif", image_of(0).astype(np.uint16)[None], grid)
    (root / "imagesTr" / "a.json").write_text('{"spacing": [3.0, 0.5, 0.5]}')
    tifffile.imwrite(root / "labelsTr" / "a.tif", label_of(0), photometric="minisblack")
    assert findings_of(root) == []
    dataset = open_dataset(root)
    image, label = read_pair(dataset, dataset.training[0])
    assert image.geometry.spacing_mm == (3.0, 0.5, 0.5)
    np.testing.assert_array_equal(label.array[0], label_of(0))
    tifffile.imwrite(root / "labelsTr" / "a.tif", label_of(0)[:3], photometric="minisblack")
    assert findings_of(root) == [("shape_mismatch", True)]


def test_text_puts_faults_first(tmp_path):
    root = decathlon(tmp_path, num_cases=2)
    write_nifti(root / "imagesTr" / "c00.nii.gz", np.full((4, 5, 6), 3, np.int16))
    write_nifti(root / "labelsTr" / "c01.nii.gz", label_of(1, (3, 5, 6)))
    lines = describe(verify_dataset(open_dataset(root))).splitlines()
    assert [line.split()[:2] for line in lines] == [["fault", "shape_mismatch:"], ["warning", "constant_image:"]]


def test_integers_of_64_bits_do_not_overflow(tmp_path):
    root = decathlon(tmp_path, num_cases=1)
    write_nifti(root / "imagesTr" / "c00.nii.gz", image_of(0).astype(np.uint64) * 2**56)
    assert findings_of(root) == []
