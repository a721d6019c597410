"""What is written reads back the same, carries the input's geometry and nobody's name, or leaves the old file."""

import os

import nibabel
import numpy as np
import pytest
import SimpleITK

from autoseg.errors import DataError, ResourceError
from autoseg.images import writing
from autoseg.images.pictures import flat_geometry
from autoseg.images.reading import read_geometry, read_image, read_label
from autoseg.images.writing import write_image, write_label
from tests.images.making import change_header, ramp, write_nifti

OBLIQUE = np.array([[0.0, -2.9, 0.8, 10.0], [2.0, 0.0, 0.0, -20.0], [0.0, 0.77, 3.9, 5.0], [0, 0, 0, 1]])
CANARY = b"PHI^CANARY"


def labels(shape=(3, 4, 5), dtype=np.uint8):
    return (ramp(shape) % 3).astype(dtype)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32])
def test_labels_come_back_on_the_same_grid(tmp_path, ending, dtype):
    geometry = read_geometry(write_nifti(tmp_path / "image.nii.gz", ramp(), OBLIQUE))
    path = tmp_path / "deep" / "folder" / f"a{ending}"
    write_label(path, labels(dtype=dtype), geometry)
    volume = read_label(path)
    assert volume.array.dtype == dtype
    np.testing.assert_array_equal(volume.array[0], labels())
    np.testing.assert_allclose(volume.geometry.matrix, geometry.matrix, atol=2e-3)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("codes", [(0, 1), (1, 0), (2, 4), (0, 0)])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_geometry_fields_of_the_input_are_copied_exactly_and_nothing_else(tmp_path, codes, kind):
    image = kind(ramp().T, OBLIQUE)
    image.header.set_sform(OBLIQUE + 1e-4, code=codes[0])
    image.header.set_qform(OBLIQUE, code=codes[1], strip_shears=True)
    image.header["descrip"] = CANARY
    image.header["db_name" if kind is nibabel.Nifti1Image else "aux_file"] = CANARY
    image.header["intent_name"] = CANARY
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", CANARY))
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, tmp_path / "image.nii")
    assert CANARY in (tmp_path / "image.nii").read_bytes()
    write_label(tmp_path / "label.nii", labels(), read_geometry(tmp_path / "image.nii"), tmp_path / "image.nii")
    before, after = nibabel.load(tmp_path / "image.nii"), nibabel.load(tmp_path / "label.nii")
    assert type(before) is type(after)
    np.testing.assert_array_equal(before.affine, after.affine)
    for name in (*writing._COPIED, "srow_x", "srow_y", "srow_z"):
        np.testing.assert_array_equal(before.header[name], after.header[name])
    np.testing.assert_array_equal(before.header["pixdim"][:4], after.header["pixdim"][:4])
    assert after.header.get_xyzt_units()[0] == "mm"
    assert CANARY not in (tmp_path / "label.nii").read_bytes()
    np.testing.assert_array_equal(np.asarray(after.dataobj).T, labels())


def test_planar_and_one_slice_inputs_keep_their_number_of_axes(tmp_path):
    for name, shape, axes in (("flat", (4, 5), 2), ("slice", (1, 4, 5), 3)):
        source = write_nifti(tmp_path / f"{name}.nii.gz", ramp(shape))
        for target, like in ((f"{name}_like.nii.gz", source), (f"{name}_new.nii.gz", None)):
            write_label(tmp_path / target, labels((1, 4, 5)), read_geometry(source), like)
            written = nibabel.load(tmp_path / target)
            assert written.ndim == axes
            assert read_geometry(tmp_path / target).spacing_mm == read_geometry(source).spacing_mm


def test_a_careless_sform_is_kept_as_the_input_has_it(tmp_path):
    source = write_nifti(tmp_path / "a.nii.gz", ramp(), np.eye(4), qform_code=0)
    change_header(source, pixdim=(3, 4.0))
    write_label(tmp_path / "b.nii.gz", labels(), read_geometry(source), source)
    np.testing.assert_array_equal(nibabel.load(tmp_path / "b.nii.gz").affine, np.eye(4))
    assert read_geometry(tmp_path / "b.nii.gz") == read_geometry(source)


@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 4, 5), (3, 4, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_tiff_and_png(tmp_path, shape, dtype):
    geometry = flat_geometry(shape, planar=shape[0] == 1, spacing_mm=(4.0, 3.0, 2.0))
    write_label(tmp_path / "a.tif", labels(shape, dtype), geometry)
    volume = read_label(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.array[0], labels(shape))
    assert volume.geometry.spacing_mm == pytest.approx(geometry.spacing_mm)
    if shape[0] == 1:
        write_label(tmp_path / "a.png", labels(shape, dtype), geometry)
        np.testing.assert_array_equal(read_label(tmp_path / "a.png").array[0], labels(shape))
    else:
        with pytest.raises(DataError, match="PNG holds"):
            write_label(tmp_path / "a.png", labels(shape, dtype), geometry)


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd", ".tif"])
def test_images_with_channels(tmp_path, ending):
    array = ramp((3, 4, 5, 6), np.float32)
    write_image(tmp_path / f"a{ending}", array, flat_geometry((4, 5, 6), planar=False))
    np.testing.assert_array_equal(read_image([tmp_path / f"a{ending}"]).array, array)


def test_png_of_large_label_values_in_a_signed_type(tmp_path):
    """What `to_file` gives for values 256 to 32767 is int16, which no PNG holds."""
    values = np.array([[[0, 256, 32767]]], np.int16)
    geometry = flat_geometry((1, 1, 3), planar=True)
    write_label(tmp_path / "a.png", values, geometry)
    np.testing.assert_array_equal(read_label(tmp_path / "a.png").array[0], values)
    for wrong in (values - 1, values.astype(np.int32) * 3):
        with pytest.raises(DataError, match="PNG holds"):
            write_label(tmp_path / "b.png", wrong, geometry)


def test_colour_png(tmp_path):
    array = ramp((3, 1, 5, 6), np.uint8)
    write_image(tmp_path / "a.png", array, flat_geometry((1, 5, 6), planar=True))
    np.testing.assert_array_equal(read_image([tmp_path / "a.png"]).array, array)


def test_equal_arrays_give_equal_files(tmp_path):
    geometry = flat_geometry((3, 4, 5), planar=False)
    for name in ("a", "b"):
        write_label(tmp_path / f"{name}.nii.gz", labels(), geometry)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_formats_that_are_not_written(tmp_path):
    geometry = flat_geometry((1, 4, 5), planar=True)
    for name in ("a.jpg", "a.bmp", "a.mhd", "a.dcm"):
        with pytest.raises(DataError):
            write_label(tmp_path / name, labels((1, 4, 5)), geometry)
    with pytest.raises(DataError, match="shape"):
        write_label(tmp_path / "a.nii", labels((2, 4, 5)), geometry)
    assert not list(tmp_path.iterdir())


def test_a_writer_that_loses_data_is_caught_and_the_old_file_stays(tmp_path, monkeypatch):
    geometry = flat_geometry((3, 4, 5), planar=False)
    path = tmp_path / "a.nii.gz"
    write_label(path, labels(), geometry)
    before = path.read_bytes()

    def half(array: np.ndarray) -> list[bytes]:
        return [array.tobytes()[: array.nbytes // 2]]

    monkeypatch.setattr(writing, "_slice_bytes", half)
    with pytest.raises(ResourceError, match="read back"):
        write_label(path, labels() + np.uint8(1), geometry)
    monkeypatch.setattr(writing, "_slice_bytes", lambda array: [bytes(array.nbytes)])
    with pytest.raises(ResourceError, match="differently"):
        write_label(path, labels() + np.uint8(1), geometry)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.nii.gz"]
    silent = SimpleITK.WriteImage
    monkeypatch.setattr(SimpleITK, "WriteImage", lambda image, name, packed: silent(image * 0, name, packed))
    with pytest.raises(ResourceError, match="differently"):
        write_label(tmp_path / "a.mha", labels(), geometry)
    assert os.listdir(tmp_path) == ["a.nii.gz"]
