"""Images as they come and should not: thin, tiny, of a few voxels, with an axis of time, not finite, in any format."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from autoseg.errors import PartialError
from autoseg.images.nifti import xyz_matrix
from autoseg.images.reading import read_geometry, read_image, read_label
from autoseg.images.writing import write_image
from autoseg.pipeline.predict import predict
from tests.images.making import write_meta, write_nrrd
from tests.pipeline.fakes import LABELS, blobs, image_of, make_plan, oblique_grid, write_fold

PATCH = (4, 6, 4)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha", ".tif"])
@pytest.mark.parametrize("shape", [(1, 12, 10), (9, 3, 10), (9, 12, 1), (2, 1, 3), (1, 1, 1)])
def test_images_smaller_than_the_patch(tmp_path: Path, shape: tuple[int, int, int], ending: str) -> None:
    """Along one axis or all of them; one slice stays a volume of one slice."""
    classes = np.random.default_rng(0).integers(0, 3, shape)
    write_image(tmp_path / "images" / f"a{ending}", image_of(classes), oblique_grid(shape))
    model = write_fold(tmp_path / "fold_0", make_plan(patch=PATCH))
    source = read_geometry(tmp_path / "images" / f"a{ending}")
    if ending == ".tif":  # knows no patient, a page is planar, and a single column has no spacing
        model = write_fold(tmp_path / "fold_0", make_plan(source.spacing_mm, PATCH))
    (path,) = predict(model, tmp_path / "images", tmp_path / "out", device="cpu")
    found = read_label(path)
    np.testing.assert_array_equal(found.array[0], LABELS.to_file(classes))
    np.testing.assert_allclose(found.geometry.matrix, source.matrix, atol=1e-9)
    assert found.geometry.planar == source.planar


def test_one_time_point_is_no_axis_and_two_are_refused(tmp_path: Path) -> None:
    classes = blobs()
    values = image_of(classes)[0].astype(np.float32)
    affine = xyz_matrix(oblique_grid(classes.shape))
    images = tmp_path / "images"
    images.mkdir()
    for name, times in (("one", 1), ("two", 2)):
        series = np.stack([values] * times)
        nibabel.save(nibabel.Nifti1Image(series.T, affine), images / f"nifti_{name}.nii.gz")
        spacings = "spacings: 1 1.5 2 1"
        write_nrrd(images / f"nrrd_{name}.nrrd", series, "domain domain domain time", more=spacings)
        write_nrrd(images / f"list_{name}.nrrd", series, "domain domain domain list", more="spacings: 1 1.5 2 nan")
        write_meta(images / f"meta_{name}.mha", series, more="ElementSpacing = 1 1.5 2 1")
    model = write_fold(tmp_path / "fold_0", make_plan())
    with pytest.raises(PartialError, match="4 of 8 cases") as caught:
        predict(model, images, tmp_path / "out", device="cpu")
    for kind, ending in (("nifti", ".nii.gz"), ("nrrd", ".nrrd"), ("list", ".nrrd"), ("meta", ".mha")):
        assert f"\n  {kind}_two: " in str(caught.value)
        found = read_label(tmp_path / "out" / f"{kind}_one{ending}")
        np.testing.assert_array_equal(found.array[0], LABELS.to_file(classes))
        np.testing.assert_allclose(
            found.geometry.matrix, read_geometry(images / f"{kind}_one{ending}").matrix, atol=1e-5
        )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_end_their_case_alone(tmp_path: Path, bad: float) -> None:
    images = tmp_path / "images"
    for name, ending in (
        ("good", ".nii.gz"),
        ("nifti", ".nii.gz"),
        ("nrrd", ".nrrd"),
        ("meta", ".mha"),
        ("tiff", ".tif"),
    ):
        image = image_of(blobs())
        if name != "good":
            image[0, -1, -1, -1] = bad
        write_image(images / f"{name}{ending}", image, oblique_grid(image.shape[1:]))
        assert np.isfinite(read_image([images / f"{name}{ending}"]).array).all() == (name == "good")
    model = write_fold(tmp_path / "fold_0", make_plan())
    with pytest.raises(PartialError, match="4 of 5 cases") as caught:
        predict(model, images, tmp_path / "out", device="cpu")
    written = {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")}
    assert written == {"good.nii.gz", "predicted.json"}
    for name in ("nifti", "nrrd", "meta", "tiff"):
        assert f"\n  {name}: " in str(caught.value)


def test_one_image_turned_in_space_is_the_same_in_every_format(tmp_path: Path) -> None:
    """Directions that are no identity: ITK's world is not NIfTI's, and the answer lies at the same place in both."""
    classes = blobs()
    grid = oblique_grid(classes.shape)
    model = write_fold(tmp_path / "fold_0", make_plan(spacing_mm=(2.3, 1.1, 1.2), patch=PATCH))
    smooth = (image_of(classes) + 30 * np.random.default_rng(0).standard_normal(classes.shape)).astype(np.float32)
    for name in ("a.nii.gz", "b.nrrd", "c.mha", "d.nii"):
        write_image(tmp_path / "images" / name, smooth, grid)
    written = [read_label(path) for path in predict(model, tmp_path / "images", tmp_path / "out", device="cpu")]
    assert 0.9 < (written[0].array[0] == LABELS.to_file(classes)).mean() < 1
    for one in written:
        np.testing.assert_array_equal(one.array, written[0].array)
        np.testing.assert_allclose(one.geometry.matrix, grid.matrix, atol=1e-4)
