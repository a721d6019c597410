"""Grids that are the same, the same in another order, or different; and pairs read onto one grid."""

from itertools import permutations, product

import nibabel
import numpy as np
import pytest

from autoseg.datasets.pairs import compare_grids, read_case_image, read_pair
from autoseg.errors import DataError
from autoseg.images.reading import read_geometry
from autoseg.records.dataset import Case
from autoseg.spatial.orientation import Turn
from tests.datasets.folders_on_disk import decathlon, image_of, label_of, open_dataset
from tests.images.making import write_nifti

AFFINE = np.array([[1.9, -0.3, 0.1, 10.0], [0.3, 2.9, 0.5, -20.0], [-0.1, -0.5, 3.9, 5.0], [0, 0, 0, 1]])


def geometry_of(tmp_path, affine=AFFINE, shape=(4, 5, 6)):
    return read_geometry(write_nifti(tmp_path / "g.nii", np.zeros(shape, np.uint8), affine))


def test_kinds_of_difference(tmp_path):
    image = geometry_of(tmp_path)

    def kind(shape=(4, 5, 6), scale=1.0, shift=0.0):
        affine = AFFINE.copy()
        affine[:, 2] *= scale
        affine[0, 3] += shift
        return compare_grids(image, geometry_of(tmp_path, affine, shape)).kind

    assert kind() == "same"
    assert kind(shift=1e-3) == "same"
    assert kind(shift=0.2) == "small_offset"
    assert kind(shift=0.9) == "affine_mismatch"
    assert kind(scale=1.2) == "spacing_mismatch"
    assert kind(shape=(3, 5, 6)) == "shape_mismatch"
    assert kind(shape=(4, 6, 5)) == "shape_mismatch"


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_a_label_in_any_axis_order_is_turned_to_its_image(tmp_path, axes):
    label = label_of(3)
    for flips in product((1, -1), repeat=3):
        root = decathlon(tmp_path / f"{flips}", num_cases=1)
        write_nifti(root / "imagesTr" / "c00.nii.gz", image_of(0), AFFINE)
        orientation = np.stack([np.array(axes), np.array(flips)], axis=1)
        turned = nibabel.Nifti1Image(label.T, AFFINE).as_reoriented(orientation)
        nibabel.save(turned, root / "labelsTr" / "c00.nii.gz")
        dataset = open_dataset(root)
        image, read = read_pair(dataset, dataset.training[0])
        np.testing.assert_array_equal(read.array[0], label)
        assert read.array.flags.c_contiguous
        assert read.geometry == image.geometry or (axes, flips) == ((0, 1, 2), (1, 1, 1))


def test_different_grids_are_no_pair(tmp_path):
    root = decathlon(tmp_path, num_cases=1)
    moved = np.diag([2.0, 3.0, 4.0, 1.0])
    moved[1, 3] = 7
    write_nifti(root / "labelsTr" / "c00.nii.gz", label_of(0), moved)
    dataset = open_dataset(root)
    with pytest.raises(DataError, match=r"case c00: labelsTr/c00\.nii\.gz does not lie on its image's grid"):
        read_pair(dataset, dataset.training[0])


def test_channels_are_counted(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", np.stack([image_of(0), image_of(1)]))
    case = Case(id="a", images=("a.nii.gz",))
    assert len(read_case_image(tmp_path, case, 2).array) == 2
    with pytest.raises(DataError, match="2 channels, expected 1"):
        read_case_image(tmp_path, case, 1)


def test_turn_is_the_identity_for_equal_grids(tmp_path):
    geometry = geometry_of(tmp_path)
    assert compare_grids(geometry, geometry).turn == Turn((0, 1, 2), (False, False, False))
