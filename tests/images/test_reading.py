"""The other formats, several files, and label maps."""

import numpy as np
import pytest
import SimpleITK
import tifffile
from PIL import Image

from autoseg.images.formats import file_ending, output_ending, stem
from autoseg.images.nifti import xyz_matrix
from autoseg.images.reading import expected_bytes, read_geometry, read_image, read_label
from autoseg.images.volume import ImageError
from tests.images.making import ramp, write_nifti


def fault_of(read, *args):
    with pytest.raises(ImageError) as caught:
        read(*args)
    return caught.value.kind


def oblique_itk(array):
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing((2.0, 3.0, 4.0))
    image.SetOrigin((10.0, 20.0, 30.0))
    image.SetDirection((0.0, -0.8, 0.6, 1.0, 0.0, 0.0, 0.0, 0.6, 0.8))
    return image


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nhdr", ".mhd"])
@pytest.mark.parametrize("packed", [True, False])
def test_itk_formats_agree_with_the_same_nifti(tmp_path, ending, packed):
    image = oblique_itk(ramp())
    SimpleITK.WriteImage(image, str(tmp_path / f"a{ending}"), packed)
    SimpleITK.WriteImage(image, str(tmp_path / "a.nii.gz"))
    volume, nifti = read_image([tmp_path / f"a{ending}"]), read_image([tmp_path / "a.nii.gz"])
    np.testing.assert_array_equal(volume.array, nifti.array)
    np.testing.assert_allclose(volume.geometry.matrix, nifti.geometry.matrix, atol=1e-5)
    assert volume.geometry.spacing_mm == pytest.approx((4.0, 3.0, 2.0))
    assert read_geometry(tmp_path / f"a{ending}") == volume.geometry


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_damaged_compressed_blocks_are_seen(tmp_path, ending):
    rng = np.random.default_rng(0)
    original = tmp_path / f"a{ending}"
    SimpleITK.WriteImage(oblique_itk(rng.integers(0, 255, (8, 9, 10)).astype(np.int16)), str(original), True)
    expected = read_image([original]).array
    raw = original.read_bytes()
    path = tmp_path / f"b{ending}"
    for i in range(30):
        changed = bytearray(raw)
        changed[rng.integers(len(raw) // 2, len(raw))] ^= 1 << rng.integers(8)
        path.write_bytes(changed if i else raw[: len(raw) * 9 // 10])
        try:
            np.testing.assert_array_equal(read_image([path]).array, expected)
        except ImageError:
            continue


def test_two_dimensional_and_vector_files(tmp_path):
    flat = SimpleITK.GetImageFromArray(ramp((4, 5)))
    flat.SetSpacing((0.5, 0.25))
    SimpleITK.WriteImage(flat, str(tmp_path / "a.mha"))
    volume = read_image([tmp_path / "a.mha"])
    assert volume.array.shape == (1, 1, 4, 5)
    assert volume.geometry.planar
    assert volume.geometry.spacing_mm == (999 * 0.5, 0.25, 0.5)
    vectors = SimpleITK.GetImageFromArray(ramp((3, 4, 5, 2)), isVector=True)
    SimpleITK.WriteImage(vectors, str(tmp_path / "b.nrrd"))
    np.testing.assert_array_equal(read_image([tmp_path / "b.nrrd"]).array, np.moveaxis(ramp((3, 4, 5, 2)), -1, 0))


def test_headers_cannot_reach_out_of_their_folder(tmp_path):
    secret = tmp_path / "secret.raw"
    secret.write_bytes(bytes(60))
    folder = tmp_path / "in"
    folder.mkdir()
    for name, text in {
        "a.nhdr": "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 3 4 5\nencoding: raw\ndata file: ../secret.raw\n\n",
        "a.mhd": "ObjectType = Image\nNDims = 3\nDimSize = 3 4 5\nElementType = MET_UCHAR\n"
        f"ElementDataFile = {secret}\n",
    }.items():
        (folder / name).write_text(text)
        assert fault_of(read_image, [folder / name]) == "path_escape"


META = "ObjectType = Image\nNDims = 3\nHeaderSize = 2\nDimSize = 2 2 2\nElementType = MET_UCHAR\n"
NRRD = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 2 2\nencoding: ascii\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.mhd", META + "elementdatafile = LOCAL\nElementDataFile = ../secret\n"),
        ("a.mhd", META + "ElementDataFile : ../secret\nElementDataFile = LOCAL\n"),
        ("a.mhd", META + "Name\nElementDataFile = LOCAL\nElementDataFile = ../secret\n"),
        ("a.nrrd", NRRD + "data file: ../secret\n#\x85data file: a.nrrd\n\n"),
        ("a.nrrd", NRRD + "#\rdata file: ../secret\n\n"),
        ("a.nrrd", NRRD + "# more\n" * 200_000 + "data file: ../secret\n\n"),
    ],
)
def test_what_simpleitk_reads_otherwise_than_we_do_does_not_reach_out_either(tmp_path, name, text):
    (tmp_path / "secret").write_bytes(b"1 2 3 4 5 6 7 8 9 ")
    path = tmp_path / "in" / name
    path.parent.mkdir()
    path.write_bytes(text.encode("latin-1"))
    assert SimpleITK.ReadImage(str(path)).GetSize() == (2, 2, 2)  # of the secret
    assert fault_of(read_image, [path]) in ("path_escape", "bad_header")
    assert fault_of(read_geometry, path) in ("path_escape", "bad_header")


def test_data_file_named_with_the_mark_of_remarks(tmp_path):
    (tmp_path / "a.nrrd").write_text(NRRD + "data file: ../a:=b\n\n1 2 3 4 5 6 7 8")
    assert fault_of(read_image, [tmp_path / "a.nrrd"]) == "path_escape"
    (tmp_path / "b.nrrd").write_text(NRRD + "data file:=a remark\n\n1 2 3 4 5 6 7 8")
    assert read_image([tmp_path / "b.nrrd"]).array.ravel().tolist() == [*range(1, 9)]


def test_more_lines_to_skip_than_there_are(tmp_path):
    text = NRRD.replace("ascii", "raw") + "line skip: 1000000000000\n\n12345678\n1234"
    (tmp_path / "a.nrrd").write_text(text)
    assert fault_of(read_image, [tmp_path / "a.nrrd"]) == "truncated"


@pytest.mark.parametrize("line", ["endian: " + "a" * 5000, "a" * 5000, "a" * 5000 + ": 3", "data file: " + "a" * 300])
def test_lines_that_would_overflow_in_simpleitk_never_reach_it(tmp_path, line):
    """It writes outside its memory and ends the process, so the header must be refused before."""
    (tmp_path / "a.nrrd").write_text(f"{NRRD}{line}\n\n1 2 3 4 5 6 7 8")
    assert fault_of(read_image, [tmp_path / "a.nrrd"]) == "bad_header"
    assert fault_of(read_geometry, tmp_path / "a.nrrd") == "bad_header"


def test_long_remarks_are_no_fault(tmp_path):
    long = "a" * 5000
    (tmp_path / "a.nrrd").write_text(f"{NRRD}#{long}\n{long}:={long}\ncontent: {long}\n\n1 2 3 4 5 6 7 8")
    assert read_image([tmp_path / "a.nrrd"]).array.ravel().tolist() == [*range(1, 9)]


@pytest.mark.parametrize("first", [-5, 200, 99999999999])
def test_voxels_behind_the_end_of_a_metaimage(tmp_path, first):
    text = META.replace("HeaderSize = 2", f"HeaderSize = {first}") + "ElementDataFile = LOCAL\n12345678"
    (tmp_path / "a.mha").write_text(text)
    assert fault_of(read_image, [tmp_path / "a.mha"]) == "truncated"


@pytest.mark.parametrize("axes", [-1, 0, 1, 5, 99])
def test_numbers_of_axes_that_no_image_has(tmp_path, axes):
    (tmp_path / "a.mha").write_text(META.replace("NDims = 3", f"NDims = {axes}") + "ElementDataFile = LOCAL\n12345678")
    (tmp_path / "a.nrrd").write_text(NRRD.replace("dimension: 3", f"dimension: {axes}") + "\n1 2 3 4 5 6 7 8")
    for name in ("a.mha", "a.nrrd"):
        assert fault_of(read_image, [tmp_path / name]) == "num_axes"
        assert fault_of(read_geometry, tmp_path / name) == "num_axes"


def test_fields_that_are_there_twice(tmp_path):
    (tmp_path / "a.mha").write_text("NDims = -1\n" + META + "ElementDataFile = LOCAL\n12345678")
    assert fault_of(read_image, [tmp_path / "a.mha"]) == "bad_header"


def test_announced_sizes_are_checked_against_the_bytes(tmp_path):
    header = "ObjectType = Image\nNDims = 3\nDimSize = 99999 99999 99999\nElementType = MET_SHORT\n"
    (tmp_path / "a.mha").write_text(header + "ElementDataFile = LOCAL\n1234")
    assert fault_of(read_image, [tmp_path / "a.mha"]) == "truncated"


def test_nifti_under_another_name_never_reaches_simpleitk(tmp_path, shared_data):
    source = shared_data / "nasty" / "nifti_reader_js" / "5D_small.nii"  # this one kills SimpleITK's process
    for name in ("a.mha", "a.nrrd", "a.png", "a.tif"):
        (tmp_path / name).write_bytes(source.read_bytes())
        assert fault_of(read_image, [tmp_path / name]) == "num_axes"


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif", ".jpg"])
def test_grey_and_colour_pictures(tmp_path, ending):
    grey, colour = np.full((6, 7), 99, np.uint8), np.full((6, 7, 3), (10, 100, 200), np.uint8)
    Image.fromarray(grey).save(tmp_path / f"grey{ending}")
    Image.fromarray(colour).save(tmp_path / f"colour{ending}")
    one, three = read_image([tmp_path / f"grey{ending}"]), read_image([tmp_path / f"colour{ending}"])
    assert one.array.shape == (1, 1, 6, 7)
    assert three.array.shape == (3, 1, 6, 7)
    assert one.geometry.planar
    assert one.geometry.spacing_mm == (999.0, 1.0, 1.0)
    np.testing.assert_allclose(np.sign(np.diag(xyz_matrix(one.geometry))), 1)
    np.testing.assert_allclose(three.array[:, 0, 3, 3], (10, 100, 200), atol=3)  # JPEG is lossy


def test_palette_indices_are_label_values_and_alpha_must_be_opaque(tmp_path):
    indices = np.array([[0, 1], [2, 5]], np.uint8)
    picture = Image.fromarray(indices, mode="P")
    picture.putpalette([255, 0, 0] * 256)
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label(tmp_path / "a.png").array[0, 0], indices)
    assert len(read_image([tmp_path / "a.png"]).array) == 3
    rgba = np.full((4, 4, 4), 255, np.uint8)
    Image.fromarray(rgba).save(tmp_path / "b.png")
    assert len(read_image([tmp_path / "b.png"]).array) == 3
    rgba[0, 0, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "c.png")
    assert fault_of(read_image, [tmp_path / "c.png"]) == "voxel_type"


def test_tiff_stacks_channels_and_spacing(tmp_path):
    tifffile.imwrite(tmp_path / "stack.tif", ramp(dtype=np.uint16), photometric="minisblack")
    assert read_image([tmp_path / "stack.tif"]).geometry.spacing_mm == (1.0, 1.0, 1.0)
    (tmp_path / "stack.json").write_text('{"spacing": [4, 3, 2]}')
    (tmp_path / "case_0001.tif").write_bytes((tmp_path / "stack.tif").read_bytes())
    (tmp_path / "case.json").write_text('{"spacing": [4, 3, 2]}')
    for name in ("stack.tif", "case_0001.tif"):
        volume = read_image([tmp_path / name])
        np.testing.assert_array_equal(volume.array[0], ramp())
        assert volume.geometry.spacing_mm == (4.0, 3.0, 2.0)
        assert not volume.geometry.planar
    metadata = {"axes": "ZCYX", "spacing": 0.5, "unit": "um"}
    array = ramp((3, 2, 4, 5), np.uint16)
    tifffile.imwrite(tmp_path / "b.tif", array, imagej=True, metadata=metadata, resolution=(4.0, 5.0))
    volume = read_image([tmp_path / "b.tif"])
    np.testing.assert_array_equal(volume.array, np.moveaxis(array, 1, 0))
    assert volume.geometry.spacing_mm == pytest.approx((0.5e-3, 0.2e-3, 0.25e-3))


@pytest.mark.parametrize("ending", [".png", ".tif", ".jpg", ".bmp", ".mha", ".nrrd"])
def test_text_under_an_images_name(tmp_path, ending):
    (tmp_path / f"a{ending}").write_text("this is no image at all, only text")
    assert fault_of(read_image, [tmp_path / f"a{ending}"]) == "not_an_image"


def test_channels_in_several_files_need_one_grid(tmp_path):
    paths = [write_nifti(tmp_path / f"{i}.nii.gz", ramp() + i) for i in range(2)]
    volume = read_image(paths)
    np.testing.assert_array_equal(volume.array, np.stack([ramp(), ramp() + 1]))
    assert len(volume.sha256) == 2
    moved = np.diag([2.0, 3.0, 4.0, 1.0])
    moved[0, 3] = 5
    assert fault_of(read_image, [paths[0], write_nifti(tmp_path / "m.nii.gz", ramp(), moved)]) == "channel_grid"
    assert fault_of(read_image, [paths[0], write_nifti(tmp_path / "s.nii.gz", ramp((2, 4, 5)))]) == "channel_grid"


def test_labels_are_integers(tmp_path):
    def label(name, array):
        return write_nifti(tmp_path / f"{name}.nii.gz", array)

    values = np.zeros((3, 4, 5), np.float32)
    values[0, 0, :2] = (1, 2)
    whole = read_label(label("whole", values))
    assert whole.array.dtype == np.int16
    assert not whole.notes
    near = read_label(label("near", values * 0.999999))
    np.testing.assert_array_equal(near.array[0], values)
    assert [note.kind for note in near.notes] == ["float_label"]
    assert fault_of(read_label, label("half", values + 0.5)) == "fractional_label"
    assert fault_of(read_label, label("odd", values * 10.92)) == "fractional_label"
    assert fault_of(read_label, label("nan", np.where(values > 1, np.nan, values))) == "label_not_finite"
    assert fault_of(read_label, label("two", np.stack([values, values]))) == "label_channels"
    large = values.astype(np.int32) * 16_777_217  # the first integer that float32 cannot hold
    np.testing.assert_array_equal(read_label(label("large", large)).array[0], large)
    scaled = write_nifti(tmp_path / "scaled.nii.gz", values.astype(np.int32) * 8_388_608, scl_slope=2.0, scl_inter=1.0)
    np.testing.assert_array_equal(read_label(scaled).array[0], values.astype(np.int64) * 16_777_216 + 1)


def test_jpeg_labels_and_unknown_formats_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.jpg")
    assert fault_of(read_label, tmp_path / "a.jpg") == "lossy_label"
    assert fault_of(read_image, [tmp_path / "a.dcm"]) == "unknown_format"


def test_endings():
    assert file_ending("x/Case.1.NII.GZ") == ".nii.gz"
    assert stem("x/Case.1.NII.GZ") == "Case.1"
    assert [output_ending(f"a{e}") for e in (".nii", ".jpeg", ".nhdr", ".mhd", ".tif")] == [
        ".nii",
        ".png",
        ".nrrd",
        ".mha",
        ".tif",
    ]


def test_expected_bytes_are_told_before_reading(tmp_path):
    image = write_nifti(tmp_path / "a.nii.gz", np.zeros((4, 5, 6), np.int16))
    assert expected_bytes(image) == 4 * 5 * 6 * 4
    wide = write_nifti(tmp_path / "b.nii.gz", np.zeros((4, 5, 6), np.float64))
    assert expected_bytes(wide) == 4 * 5 * 6 * 8
    (tmp_path / "c.png").write_bytes(b"x" * 100)
    assert expected_bytes(tmp_path / "c.png") == 800
    image.write_bytes(b"broken")
    assert (
        expected_bytes(image) == expected_bytes(tmp_path / "absent.nii.gz") == expected_bytes(tmp_path / "d.png") == 0
    )
