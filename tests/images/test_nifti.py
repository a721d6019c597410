"""NIfTI headers and streams, good and bad, against nibabel and against what they are."""

import gzip
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from autoseg.errors import DataError, ResourceError
from autoseg.images import contents
from autoseg.images.nifti import xyz_matrix
from autoseg.images.reading import read_geometry, read_image
from autoseg.images.volume import ImageError
from autoseg.storage import large_arrays
from tests.images.making import change_header, ramp, write_nifti

OBLIQUE = np.array([[0.0, -2.9, 0.8, 10.0], [2.0, 0.0, 0.0, -20.0], [0.0, 0.77, 3.9, 5.0], [0, 0, 0, 1]])


def kind_of(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        read_image([path])
    assert str(path) in str(caught.value)
    return caught.value.kind


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8", "i8", "u8"])
def test_voxels_and_affine_are_those_that_were_written(tmp_path, ending, dtype):
    array = ramp(dtype=dtype)
    path = tmp_path / f"a{ending}"
    nibabel.save(nibabel.Nifti1Image(array.T, OBLIQUE, dtype=array.dtype), path)
    volume = read_image([path])
    assert volume.array.dtype == array.dtype
    np.testing.assert_array_equal(volume.array, array[None])
    np.testing.assert_allclose(xyz_matrix(volume.geometry), OBLIQUE, atol=1e-5)
    np.testing.assert_allclose(volume.geometry.spacing_mm[::-1], np.linalg.norm(OBLIQUE[:3, :3], axis=0), rtol=1e-5)
    assert read_geometry(path) == volume.geometry
    assert not volume.geometry.planar
    assert not volume.notes


def test_big_endian_and_nifti2(tmp_path):
    array = ramp()
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.dtype(">i2"))
    nibabel.save(nibabel.Nifti1Image(array.T, OBLIQUE, header), tmp_path / "big.nii.gz")
    nibabel.save(nibabel.Nifti2Image(array.T, OBLIQUE), tmp_path / "two.nii.gz")
    for name in ("big.nii.gz", "two.nii.gz"):
        volume = read_image([tmp_path / name])
        assert volume.array.dtype == np.int16
        assert volume.array.dtype.isnative
        np.testing.assert_array_equal(volume.array[0], array)


def test_other_byte_orders_lie_in_a_file_where_memory_is_short(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "_READ_BYTES", 0)
    monkeypatch.setattr(large_arrays, "available_memory_bytes", lambda: 1000)
    header = nibabel.Nifti1Header(endianness=">")
    for dtype, slope in ((">i2", 1.0), (">f8", 1.0), (">i2", 0.5)):
        header.set_data_dtype(np.dtype(dtype))
        header["scl_slope"], header["scl_inter"] = slope, 0.0
        array = ramp((10, 20, 30), dtype)
        raw = header.copy()
        raw.set_data_shape(array.shape[::-1])
        raw["vox_offset"], raw["magic"] = 352, b"n+1"
        (tmp_path / "a.nii").write_bytes(raw.binaryblock + bytes(4) + array.tobytes())
        found = read_image([tmp_path / "a.nii"]).array
        np.testing.assert_array_equal(found[0], array * slope)
        assert found.dtype == (np.float32 if slope != 1 else np.dtype(dtype).newbyteorder("="))
        assert str(owner(found)).startswith("<mmap.mmap")


def test_scaled_voxels_become_float32(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", ramp(), scl_slope=0.5, scl_inter=-3.0)
    volume = read_image([path])
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array[0], ramp() * 0.5 - 3.0)


def test_fourth_axis_is_channels_and_one_slice_is_a_volume(tmp_path):
    array = ramp((2, 3, 4, 5))
    volume = read_image([write_nifti(tmp_path / "a.nii.gz", array)])
    np.testing.assert_array_equal(volume.array, array)
    one_slice = read_image([write_nifti(tmp_path / "b.nii.gz", ramp((1, 4, 5)))])
    assert one_slice.geometry.spacing_mm == (4.0, 3.0, 2.0)
    assert not one_slice.geometry.planar


def test_two_axes_are_planar_with_nnunets_spacing(tmp_path):
    volume = read_image([write_nifti(tmp_path / "a.nii.gz", ramp((4, 5)))])
    assert volume.array.shape == (1, 1, 4, 5)
    assert volume.geometry.planar
    assert volume.geometry.spacing_mm == (999 * 3.0, 3.0, 2.0)


def test_names_may_lie_about_compression(tmp_path):
    packed = write_nifti(tmp_path / "a.nii.gz", ramp())
    plain = write_nifti(tmp_path / "b.nii", ramp())
    (tmp_path / "c.nii").write_bytes(packed.read_bytes())
    (tmp_path / "d.nii.gz").write_bytes(plain.read_bytes())
    for name in ("c.nii", "d.nii.gz"):
        np.testing.assert_array_equal(read_image([tmp_path / name]).array[0], ramp())


def test_identity_sform_with_other_pixdim_falls_back(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", ramp(), np.eye(4), qform_code=0)
    for axis, length in ((1, 2.0), (2, 3.0), (3, 4.0)):
        change_header(path, pixdim=(axis, length))
    volume = read_image([path])
    assert volume.geometry.spacing_mm == (4.0, 3.0, 2.0)
    np.testing.assert_allclose(xyz_matrix(volume.geometry), np.diag([2.0, 3.0, 4.0, 1.0]))
    assert [note.kind for note in volume.notes] == ["identity_sform"]


def test_sform_wins_over_qform_and_pixdim(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", ramp(), np.diag([2.0, 3.0, 4.0, 1.0]))
    change_header(path, pixdim=(1, 2.5), qform_code=1)
    volume = read_image([path])
    assert volume.geometry.spacing_mm == (4.0, 3.0, 2.0)
    assert [note.kind for note in volume.notes] == ["spacing_in_header"]


def test_micrometres_become_mm(tmp_path):
    volume = read_image([write_nifti(tmp_path / "a.nii.gz", ramp(), xyzt_units=3)])
    np.testing.assert_allclose(volume.geometry.spacing_mm, (0.004, 0.003, 0.002))
    assert [note.kind for note in volume.notes] == ["units"]


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"pixdim": (2, 0.0)}, "bad_spacing"),
        ({"pixdim": (1, -1.0)}, "bad_spacing"),
        ({"pixdim": (3, np.nan)}, "bad_spacing"),
        ({"srow_x": (0, np.nan)}, "bad_affine"),
        ({"srow_x": (0, 0.0)}, "bad_affine"),
        ({"datatype": 32, "bitpix": 64}, "voxel_type"),
        ({"datatype": 128, "bitpix": 24}, "voxel_type"),
        ({"datatype": 1, "bitpix": 1}, "voxel_type"),
        ({"dim": (1, 0)}, "bad_header"),
        ({"dim": (2, -8)}, "bad_header"),
        ({"dim": (0, 9)}, "num_axes"),
        ({"dim": (0, 1)}, "num_axes"),
        ({"vox_offset": 7.0}, "not_an_image"),
        ({"scl_slope": 1.0, "scl_inter": np.nan}, "bad_header"),
    ],
)
def test_bad_headers_are_named(tmp_path, fields, kind):
    assert kind_of(write_nifti(tmp_path / "a.nii.gz", ramp(), **fields)) == kind


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_huge_dimensions_are_refused_before_anything_is_allocated(tmp_path, ending):
    path = write_nifti(tmp_path / f"a{ending}", ramp())
    for axis in (1, 2, 3):
        change_header(path, dim=(axis, 32767))
    assert kind_of(path) == "truncated"


def test_a_bomb_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "_SPARE_BYTES", 1000)
    raw = write_nifti(tmp_path / "a.nii", ramp()).read_bytes()
    path = tmp_path / "b.nii.gz"
    path.write_bytes(gzip.compress(raw + bytes(1 << 20)))
    assert kind_of(path) == "size_mismatch"


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("slope", [1.0, 0.25])
def test_large_files_are_mapped_and_give_the_same(tmp_path, monkeypatch, ending, slope):
    path = write_nifti(tmp_path / f"a{ending}", ramp((10, 20, 30)), scl_slope=slope, scl_inter=slope - 1)
    expected = read_image([path])
    monkeypatch.setattr(contents, "_READ_BYTES", 0)
    monkeypatch.setattr(large_arrays, "available_memory_bytes", lambda: 1000)
    found = read_image([path])
    np.testing.assert_array_equal(found.array, expected.array)
    assert (found.array.dtype, found.sha256) == (expected.array.dtype, expected.sha256)
    assert str(owner(found.array)).startswith("<mmap.mmap")
    assert not str(owner(expected.array)).startswith("<mmap.mmap")


def owner(array: np.ndarray) -> object:
    """What holds the memory of an array."""
    base: object = array
    while (inner := base.obj if isinstance(base, memoryview) else getattr(base, "base", None)) is not None:
        base = inner
    return base


def test_what_fits_neither_into_memory_nor_on_the_disk_is_a_resource_error(tmp_path, monkeypatch):
    monkeypatch.setattr(large_arrays, "available_memory_bytes", lambda: 15000)
    monkeypatch.setattr(contents, "available_memory_bytes", lambda: 15000)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "nowhere"))
    with pytest.raises(ResourceError, match="too large for the memory that is free"):
        read_image([write_nifti(tmp_path / "a.nii.gz", ramp((10, 20, 30)))])
    for ending in (".nrrd", ".mha"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(ramp((10, 20, 30))), str(tmp_path / f"a{ending}"), True)
        with pytest.raises(ResourceError, match="too large for the memory that is free"):
            read_image([tmp_path / f"a{ending}"])


def test_every_truncation_is_seen(tmp_path):
    whole = write_nifti(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 99, (5, 6, 7))).read_bytes()
    path = tmp_path / "b.nii.gz"
    for percent in range(1, 100):
        path.write_bytes(whole[: len(whole) * percent // 100])
        with pytest.raises(ImageError):
            read_image([path])


def test_no_flipped_bit_is_silent(tmp_path):
    rng = np.random.default_rng(0)
    original = write_nifti(tmp_path / "a.nii.gz", rng.integers(0, 1000, (8, 9, 10)))
    expected = read_image([original])
    path = tmp_path / "b.nii.gz"
    for _ in range(200):
        raw = bytearray(original.read_bytes())
        raw[rng.integers(10, len(raw))] ^= 1 << rng.integers(
            8
        )  # the first ten bytes are gzip's own time stamp and flags
        path.write_bytes(raw)
        try:
            volume = read_image([path])
        except DataError:
            continue
        np.testing.assert_array_equal(volume.array, expected.array)
        assert volume.geometry == expected.geometry


@pytest.mark.parametrize("cut", [1, 100, 352, 400])
def test_a_header_may_be_cut_by_members_of_gzip(tmp_path, cut):
    raw = write_nifti(tmp_path / "a.nii", ramp()).read_bytes()
    path = tmp_path / "b.nii.gz"
    path.write_bytes(gzip.compress(raw[:cut]) + gzip.compress(b"") + gzip.compress(raw[cut:]))
    np.testing.assert_array_equal(read_image([path]).array[0], ramp())
    assert read_geometry(path).shape == (3, 4, 5)


def test_members_and_padding_of_gzip_are_read(tmp_path):
    raw = write_nifti(tmp_path / "a.nii", ramp()).read_bytes()
    path = tmp_path / "b.nii.gz"
    path.write_bytes(gzip.compress(raw[:400]) + gzip.compress(raw[400:]) + bytes(512))
    np.testing.assert_array_equal(read_image([path]).array[0], ramp())


@pytest.mark.parametrize("content", [b"", b"hello, this is text", b"version https://git-lfs.github.com/spec/v1\n"])
def test_what_is_no_image_is_named(tmp_path, content):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(content)
    assert kind_of(path) == "not_an_image"
    assert kind_of(tmp_path / "absent.nii.gz") == "missing_file"


@pytest.mark.parametrize(("qfac", "sign"), [(0, 1), (5, 1), (-1, -1), (-7, -1)])
def test_a_qfac_that_is_neither_1_nor_minus_1_counts_by_its_sign(tmp_path, qfac, sign):
    path = write_nifti(tmp_path / "a.nii", ramp(), np.eye(4))
    change_header(path, sform_code=0, qform_code=1, pixdim=(0, qfac))
    assert np.linalg.det(read_geometry(path).matrix[:3, [2, 1, 0]]) == pytest.approx(sign)
