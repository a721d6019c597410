"""Files of other projects that readers get wrong: each reads as the catalog says it is, or is refused in words."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autoseg.images.nifti import xyz_matrix
from autoseg.images.reading import read_image
from autoseg.images.volume import ImageError
from autoseg.spatial.orientation import orientation_code

REFUSED = {
    "lfs_pointer/t2w_pointer.nii.gz": "not_an_image",
    "nibabel/analyze.hdr": "unknown_format",
    "nibabel/nifti1.hdr": "unknown_format",
    "nibabel/nifti2.hdr": "unknown_format",
    "nibabel/row_major.dconn.nii": "num_axes",
    "nibabel/test.mgz": "unknown_format",
    "nifti_reader_js/5D_small.nii": "num_axes",
    "nifti_reader_js/5D_zeros.nii.gz": "num_axes",
    "nifti_reader_js/air.hdr.gz": "unknown_format",
    "nifti_reader_js/air2.hdr.gz": "unknown_format",
    "nifti_reader_js/not-nifti.nii": "not_an_image",
    "nrrd/BallBinary30x30x30_byteskip_minus_five.nhdr": "not_an_image",
    "nrrd/BallBinary30x30x30_bz2.nrrd": "not_an_image",
    "nrrd/BallBinary30x30x30_nifti.nhdr": "size_mismatch",  # takes the NIfTI header for voxels
    "nrrd/test1d_ascii.nrrd": "num_axes",
    "nrrd/test_customFields.nrrd": "num_axes",
    "nrrd/test_simple4d_raw.nrrd": "not_an_image",
}


@pytest.fixture(scope="module")
def catalog(shared_data: Path) -> dict:
    entries = json.loads((shared_data / "nasty" / "catalog.json").read_text())
    return {entry["file"]: entry for entry in entries if "file" in entry}


def test_every_file_reads_right_or_is_refused(shared_data, catalog):
    assert len(catalog) > 30
    for name, entry in catalog.items():
        path = shared_data / "nasty" / name
        if name in REFUSED:
            with pytest.raises(ImageError) as caught:
                read_image([path])
            assert (name, caught.value.kind) == (name, REFUSED[name])
            assert path.name in str(caught.value)
            continue
        volume = read_image([path])
        nibabel_says, itk_says = entry["nibabel"], entry["sitk"]
        if "shape" in nibabel_says:
            shape = [*nibabel_says["shape"], 1]
            assert volume.array.shape[::-1][:3] == tuple(shape[:3]), name
            assert len(volume.array) == shape[3], name
            assert orientation_code(volume.geometry.matrix) == nibabel_says["axcodes"], name
            assert volume.geometry.spacing_mm[::-1] == pytest.approx(nibabel_says["affine_spacing"], abs=1e-3), name
            assert bool(np.isnan(volume.array).any()) == nibabel_says["nan"], name
        else:
            assert volume.array.shape[::-1][: len(itk_says["size"])] == tuple(itk_says["size"]), name
            found = volume.geometry.spacing_mm[::-1][: len(itk_says["spacing"])]
            assert found == pytest.approx(itk_says["spacing"], abs=1e-3), name


def test_files_agree_with_nibabel_voxel_by_voxel(shared_data, catalog):
    import nibabel

    for name, entry in catalog.items():
        if name in REFUSED or "shape" not in entry["nibabel"]:
            continue
        image = nibabel.load(shared_data / "nasty" / name)
        expected = np.asarray(image.dataobj)
        volume = read_image([shared_data / "nasty" / name])
        expected = expected.reshape(*expected.shape[:3], -1).T
        np.testing.assert_allclose(volume.array, expected, rtol=1e-5, atol=1e-5 * np.nanmax(np.abs(expected)))
        np.testing.assert_allclose(xyz_matrix(volume.geometry), image.affine, atol=1e-4)


def test_balls_in_all_containers_are_one_ball(shared_data):
    folder = shared_data / "nasty" / "nrrd"
    names = [p.name for p in sorted(folder.glob("BallBinary*")) if p.suffix != ".raw"]
    readable = [n for n in names if f"nrrd/{n}" not in REFUSED]
    first = read_image([folder / readable[0]])
    assert first.array.sum() > 0
    for name in readable[1:]:
        volume = read_image([folder / name])
        np.testing.assert_array_equal(volume.array, first.array, err_msg=name)


def test_the_process_survives_all_of_them(shared_data):
    program = (
        "import sys; from pathlib import Path\n"
        "from autoseg.errors import AutosegError\n"
        "from autoseg.images.reading import read_image, read_label\n"
        "for path in sorted(Path(sys.argv[1]).rglob('*')):\n"
        "    for read in (lambda p: read_image([p]), read_label):\n"
        "        try: read(path)\n"
        "        except AutosegError: pass\n"
        "print('survived')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(shared_data / "nasty")], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "survived", done.stderr[-2000:]
