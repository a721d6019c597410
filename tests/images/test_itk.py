"""NRRD and MetaImage blocks are read as SimpleITK reads them, without ever being in memory as a whole."""

import itertools
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from autoseg.errors import AutosegError, ResourceError
from autoseg.images import contents, itk
from autoseg.images.reading import count_channels, expected_bytes, read_geometry, read_image
from autoseg.images.volume import ImageError
from autoseg.storage import large_arrays
from tests.images.making import NRRD_TYPES, ramp, write_meta, write_nrrd


def said_by_simpleitk(path: Path) -> np.ndarray:
    """`C Z Y X` (`C 1 Y X`)."""
    image = SimpleITK.ReadImage(str(path))
    values, num_axes = SimpleITK.GetArrayFromImage(image), image.GetDimension()
    if image.GetNumberOfComponentsPerPixel() > 1:
        values = np.moveaxis(values, -1, 0)
    elif num_axes != 4:
        values = values[None]
    return values if values.ndim == 4 else values[:, None]


def agrees(path: Path, monkeypatch: pytest.MonkeyPatch, *, whole: bool = False) -> None:
    """`path` reads as SimpleITK reads it; voxels and geometry do not depend on who reads the block."""
    asked: list[Path] = []
    read_whole = itk._read_whole
    with monkeypatch.context() as patch:
        patch.setattr(
            itk, "_read_whole", lambda header, block, path: (asked.append(path), read_whole(header, block, path))[1]
        )
        volume = read_image([path])
        patch.setattr(itk, "_values", lambda *_: None)
        again = read_image([path])
    assert asked == [path] * (1 + whole)
    np.testing.assert_array_equal(volume.array, said_by_simpleitk(path), strict=True)
    np.testing.assert_array_equal(again.array, volume.array, strict=True)
    assert (again.geometry, again.sha256) == (volume.geometry, volume.sha256)
    assert volume.array.flags.c_contiguous
    assert volume.array.flags.aligned
    assert read_geometry(path) == volume.geometry
    assert count_channels(path) == len(volume.array)


@pytest.mark.parametrize(("order", "packed", "detached"), itertools.product("<>", (False, True), (False, True)))
def test_every_type_in_both_byte_orders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, packed: bool, detached: bool
) -> None:
    rng = np.random.default_rng(0)
    for name in NRRD_TYPES:
        dtype = np.dtype(name).newbyteorder(order)
        values = np.frombuffer(rng.bytes(3 * 4 * 5 * dtype.itemsize), dtype).reshape(3, 4, 5)
        if dtype.kind == "f":
            values = rng.normal(size=(3, 4, 5)).astype(dtype)
        nrrd = tmp_path / ("a.nhdr" if detached else "a.nrrd")
        agrees(write_nrrd(nrrd, values, packed=packed, detached=detached), monkeypatch)
        meta = tmp_path / ("a.mhd" if detached else "a.mha")
        agrees(write_meta(meta, values, packed=packed, detached=detached), monkeypatch)


@pytest.mark.parametrize("packed", [False, True])
def test_channels_wherever_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    """Also where every axis has the same length, so that only the kinds tell which one counts channels."""
    for shape, kinds, whole in (
        ((3, 4, 5, 2), "vector domain domain domain", False),
        ((3, 4, 5, 1), "vector domain domain domain", False),
        ((3, 4, 5, 3), "RGB-color domain domain domain", False),
        ((2, 3, 4, 5), "domain domain domain list", False),
        ((1, 3, 4, 5), "domain domain domain list", False),
        ((2, 3, 4, 5), "", False),
        ((2, 3, 4, 5), "domain domain domain time", False),
        ((3, 4, 2, 5), "domain vector domain domain", True),
        ((3, 3, 3, 3), "vector domain domain domain", False),
        ((3, 3, 3, 3), "domain vector domain domain", True),
        ((3, 3, 3, 3), "domain domain domain vector", False),
        ((4, 5, 2), "vector domain domain", False),
        ((4, 5), "", False),
    ):
        for dtype in ("<i2", ">i2"):
            path = write_nrrd(tmp_path / "a.nrrd", ramp(shape, dtype), kinds, packed)
            agrees(path, monkeypatch, whole=whole)
    for shape, channels in (((3, 4, 5, 2), 2), ((3, 3, 3, 3), 3), ((4, 5, 3), 3), ((4, 5), 1), ((2, 3, 4, 5), 1)):
        agrees(write_meta(tmp_path / "a.mha", ramp(shape, ">i2"), channels, packed), monkeypatch)


def test_wherever_the_block_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header of any length, so that values lie at odd addresses, lines to be skipped, and bytes behind the block."""
    for length in range(8):
        path = write_nrrd(tmp_path / "a.nrrd", ramp(dtype="<f8"), more=f"# {'x' * length}")
        agrees(path, monkeypatch)
    path.write_bytes(path.read_bytes() + b"behind")
    agrees(path, monkeypatch)
    skipping = write_nrrd(tmp_path / "b.nrrd", ramp(), more="line skip: 2")
    head, block = skipping.read_bytes().split(b"\n\n", 1)
    skipping.write_bytes(head + b"\n\none\ntwo\n" + block)
    agrees(skipping, monkeypatch)
    nhdr = write_nrrd(tmp_path / "c.nhdr", ramp(), detached=True, more="byte skip: -1")
    (tmp_path / "voxels.bin").write_bytes(b"before" + (tmp_path / "voxels.bin").read_bytes())
    agrees(nhdr, monkeypatch, whole=True)


def test_axes_that_run_backwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ITK turns the direction of an axis with a negative spacing, which its header alone does not tell."""
    agrees(write_meta(tmp_path / "a.mha", ramp(), more="ElementSpacing = 1 -2 3"), monkeypatch, whole=True)
    agrees(write_nrrd(tmp_path / "a.nrrd", ramp(), more="spacings: 1 -2 3"), monkeypatch, whole=True)
    more = "space: left-posterior-superior\nspace directions: (0,2,0) (-1.5,0,0) (0,0,-3)\nspace origin: (1,2,3)"
    agrees(write_nrrd(tmp_path / "b.nrrd", ramp(), more=more), monkeypatch)
    more = "TransformMatrix = 0 1 0 -0.8 0 0.6 0.6 0 0.8\nOffset = 1 2 3\nElementSpacing = 1 2 3"
    agrees(write_meta(tmp_path / "b.mha", ramp(), more=more), monkeypatch)
    flat = write_meta(tmp_path / "c.mha", ramp(), more="TransformMatrix = 1 0 0 0 1 0 1 0 0")
    with pytest.raises(ImageError, match="do not span space") as caught:
        read_image([flat])
    assert caught.value.kind == "bad_affine"


@pytest.mark.parametrize("write", [write_nrrd, write_meta])
def test_a_block_of_another_length_is_refused(tmp_path: Path, write) -> None:
    path = tmp_path / ("a.nrrd" if write is write_nrrd else "a.mha")
    for packed, change, kind in (
        (False, lambda block: block[:-1], "truncated"),
        (True, lambda block: block[:-9], "truncated"),
        (True, lambda block: block + zlib.compress(b"more"), "size_mismatch"),
    ):
        values = np.random.default_rng(0).integers(0, 99, (3, 4, 5)).astype(np.int16)
        path.write_bytes(change(write(path, values, packed=packed).read_bytes()))
        with pytest.raises(ImageError) as caught:
            read_image([path])
        assert caught.value.kind == kind


def test_headers_that_are_no_numbers(tmp_path: Path) -> None:
    path = write_nrrd(tmp_path / "a.nrrd", ramp(), more="byte skip: some")
    with pytest.raises(ImageError) as caught:
        read_image([path])
    assert caught.value.kind == "bad_header"
    assert expected_bytes(path) == 0


def test_expected_bytes_are_the_headers(tmp_path: Path) -> None:
    values = np.zeros((30, 40, 50), np.int16)
    for path in (
        write_nrrd(tmp_path / "a.nrrd", values, packed=True),
        write_nrrd(tmp_path / "a.nhdr", values, detached=True),
        write_meta(tmp_path / "a.mha", values, packed=True),
    ):
        assert expected_bytes(path) == 4 * values.size
    assert expected_bytes(write_meta(tmp_path / "b.mha", np.zeros((3, 4, 5, 2)), 2)) == 8 * 3 * 4 * 5 * 2
    assert expected_bytes(tmp_path / "absent.mha") == 0


def test_what_simpleitk_reads_whole_must_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = ramp((10, 20, 3, 30))
    monkeypatch.setattr(contents, "available_memory_bytes", lambda: 2 * values.nbytes - 1)
    monkeypatch.setattr(large_arrays, "available_memory_bytes", lambda: 2 * values.nbytes - 1)
    path = write_nrrd(tmp_path / "a.nrrd", values, "domain vector domain domain")
    with pytest.raises(ResourceError, match=r"a\.nrrd.*twice the voxels are needed; convert the file to NIfTI"):
        read_image([path])
    read_image([write_nrrd(tmp_path / "b.nrrd", values, "domain domain domain list")])


def test_damaged_headers_end_in_words(tmp_path: Path) -> None:
    """Of 400 files with some bytes of the header changed each is read or refused."""
    rng = np.random.default_rng(1)
    for write, name in ((write_nrrd, "a.nrrd"), (write_meta, "a.mha")):
        raw = write(tmp_path / name, ramp()).read_bytes()
        for _ in range(200):
            changed = bytearray(raw)
            for _ in range(rng.integers(1, 4)):
                changed[rng.integers(0, len(raw) - 120)] = rng.integers(9, 127)
            (tmp_path / name).write_bytes(changed)
            try:
                read_image([tmp_path / name])
            except AutosegError:
                continue
