"""Parts of `multipart/form-data`: whatever a real client encodes comes out byte for byte; faulty bodies are refused."""

from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoseg.errors import DataError
from autoseg.serving.multipart import boundary_of, channel_files

NASTY = st.lists(
    st.sampled_from([b"\r", b"\n", b"-", b"--", b"B", b"\r\n--B", b"\r\n\r\n", b"name=", b"\0", b"x"])
).map(b"".join)


def encoded(files: list[tuple[str, bytes]], boundary: str = "B" * 32) -> tuple[bytes, str]:
    """As httpx sends them."""
    request = httpx.Request(
        "POST",
        "http://localhost/",
        files=[(name, ("scan.nii.gz", content)) for name, content in files],
        headers={"content-type": f"multipart/form-data; boundary={boundary}"},
    )
    return request.read(), request.headers["content-type"]


def split(folder: Path, body: bytes, content_type: str, names: tuple[str, ...]) -> list[bytes]:
    boundary = boundary_of(content_type)
    assert boundary is not None
    (folder / "image.nii.gz").write_bytes(body)
    return [path.read_bytes() for path in channel_files(folder / "image.nii.gz", boundary, names)]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(NASTY, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_what_a_client_encodes_comes_out(tmp_path: Path, contents: list[bytes], random) -> None:
    names = tuple(f"channel \u00e4 {number}" for number in range(len(contents)))
    files = list(zip(names, contents, strict=True))
    random.shuffle(files)
    body, content_type = encoded(files)
    assert split(tmp_path, body, content_type, names) == contents


def test_channels_of_one_name_come_in_their_order(tmp_path: Path) -> None:
    body, content_type = encoded([("MRI", b"first"), ("CT", b"ct"), ("MRI", b"second")])
    assert split(tmp_path, body, content_type, ("CT", "MRI", "MRI")) == [b"ct", b"first", b"second"]


def test_a_body_as_curl_writes_it_by_hand(tmp_path: Path) -> None:
    head = b'Content-Type: application/octet-stream\r\ncontent-disposition: form-data; filename="name"; name="CT"'
    body = b"--b\r\n" + head + b"\r\n\r\nbytes\r\n--b--\r\n"
    assert split(tmp_path, body, 'multipart/form-data; boundary="b"', ("CT",)) == [b"bytes"]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["FLAIR"], "named 'FLAIR'; expected one each of: FLAIR, T1"),
        (["FLAIR", "FLAIR"], "expected one each"),
        (["FLAIR", "t1"], "named 'FLAIR', 't1'"),
        (["FLAIR", "T1", "T1"], "expected one each"),
    ],
)
def test_other_parts_than_the_channels_are_refused(tmp_path: Path, names: list[str], told: str) -> None:
    body, content_type = encoded([(name, b"x") for name in names])
    with pytest.raises(DataError, match=told):
        split(tmp_path, body, content_type, ("FLAIR", "T1"))


def test_bodies_that_are_cut_off_or_no_parts_are_refused(tmp_path: Path) -> None:
    whole, content_type = encoded([("FLAIR", b"one"), ("T1", b"two")])
    for end in range(len(whole) - len(b"--\r\n") + 1):
        with pytest.raises(DataError, match="no whole multipart"):
            split(tmp_path, whole[:end], content_type, ("FLAIR", "T1"))
    with pytest.raises(DataError, match="no whole multipart"):
        split(tmp_path, b"x" + whole, content_type, ("FLAIR", "T1"))
    long_head = whole.replace(b"name=", b"x" * 9000 + b"; name=")
    with pytest.raises(DataError, match="no whole multipart"):
        split(tmp_path, long_head, content_type, ("FLAIR", "T1"))


def test_the_type_tells_whether_there_are_parts() -> None:
    assert boundary_of("") is boundary_of("application/octet-stream") is boundary_of("image; boundary=x") is None
    assert boundary_of('Multipart/Form-Data; charset=utf-8; boundary="a b"') == b"a b"
    for faulty in (
        "multipart/form-data",
        "multipart/form-data; boundary=",
        f"multipart/form-data; boundary={'x' * 71}",
    ):
        with pytest.raises(DataError, match="boundary"):
            boundary_of(faulty)
