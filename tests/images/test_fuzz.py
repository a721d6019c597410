"""Whatever stands in a header, reading ends in a volume or in one of our errors."""

import contextlib
import gzip

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoseg.errors import AutosegError
from autoseg.images.reading import read_geometry, read_image, read_label
from tests.images.making import ramp, write_nifti

QUIET = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def survives(path):
    for read in (lambda p: read_image([p]), read_label, read_geometry):
        with contextlib.suppress(AutosegError):
            read(path)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_nifti(tmp_path_factory.mktemp("fuzz") / "a.nii", ramp()).read_bytes()


@QUIET
@given(
    changes=st.lists(st.tuples(st.integers(0, 351), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6),
    packed=st.booleans(),
)
def test_nifti_headers(original, tmp_path, changes, packed):
    raw = bytearray(original)
    for position, content in changes:
        raw[position : position + len(content)] = content
    path = tmp_path / ("b.nii.gz" if packed else "b.nii")
    path.write_bytes(gzip.compress(raw, 1) if packed else raw)
    survives(path)


@QUIET
@given(
    dim=st.lists(st.integers(-32768, 32767), min_size=8, max_size=8),
    pixdim=st.lists(st.floats(width=32), min_size=8, max_size=8),
    srow=st.lists(st.floats(width=32), min_size=12, max_size=12),
    codes=st.tuples(st.integers(-1, 5), st.integers(-1, 5)),
)
def test_nifti_fields(original, tmp_path, dim, pixdim, srow, codes):
    import nibabel

    header = nibabel.Nifti1Header(original[:348], check=False)
    header["dim"][1:4] = np.abs(dim[1:4]) % 9
    header["pixdim"], header["sform_code"], header["qform_code"] = pixdim, codes[0], codes[1]
    header["srow_x"], header["srow_y"], header["srow_z"] = srow[:4], srow[4:8], srow[8:]
    path = tmp_path / "b.nii"
    path.write_bytes(header.binaryblock + original[348:])
    survives(path)
    header["dim"] = dim
    path.write_bytes(header.binaryblock + original[348:])
    survives(path)


@QUIET
@given(
    text=st.lists(
        st.sampled_from(
            [
                "type: short",
                "type: block",
                "dimension: 3",
                "dimension: 99",
                "sizes: 3 4 5",
                "sizes: -1 99999999999 5",
                "sizes: x",
                "encoding: raw",
                "encoding: gzip",
                "encoding: hex",
                "byte skip: -1",
                "byte skip: x",
                "line skip: 7",
                "space: scanner-xyz",
                "space directions: (nan,0,0) (0,0,0) none",
                "spacings: 0 -1 nan",
                "data file: b.nrrd",
                "data file: %03d.raw 1 9 1",
                ":::",
            ]
        ),
        max_size=8,
    ),
    tail=st.binary(max_size=200),
)
def test_nrrd_headers(tmp_path, text, tail):
    path = tmp_path / "b.nrrd"
    path.write_bytes("\n".join(["NRRD0004", *text, "", ""]).encode() + tail)
    survives(path)
