"""Archives: what is packed comes out again; names that lead out, links, bombs and damage are refused."""

import stat
import warnings
import zipfile
from pathlib import Path

import pytest

from autoseg.errors import ModelError
from autoseg.storage import archives
from autoseg.storage.archives import unpacked, write_archive


def test_there_and_back(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(range(256)) * 40)
    files = {"a/b/weights.safetensors": tmp_path / "weights", "card.json": b"{}", "empty": b""}
    write_archive(tmp_path / "one.zip", files)
    with unpacked(tmp_path / "one.zip", tmp_path / "scratch") as folder:
        found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {"a/b/weights.safetensors": bytes(range(256)) * 40, "card.json": b"{}", "empty": b""}
    assert not folder.exists()
    write_archive(tmp_path / "two.zip", dict(reversed(files.items())))
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../outside", "does not stay inside"),
        ("a/../../outside", "does not stay inside"),
        ("/absolute", "does not stay inside"),
        ("C:/windows", "does not stay inside"),
        ("..\\outside", "does not stay inside"),
        ("nul\x01", "does not stay inside"),
        ("n" * 600, "does not stay inside"),
    ],
)
def test_names_that_lead_out(tmp_path: Path, name: str, reason: str) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("good", b"x")
        archive.writestr(name, b"x")
    refused(tmp_path, reason)


def test_links_twins_and_crowds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(link, b"/etc/passwd")
    refused(tmp_path, "link or a device")
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("plan.json", b"1")
        archive.writestr("PLAN.json", b"2")
    refused(tmp_path, "there twice")
    with zipfile.ZipFile(tmp_path / "bad.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("plan.json", b"1")
    refused(tmp_path, "packed in a way")
    monkeypatch.setattr(archives, "MOST_ENTRIES", 2)
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        for number in range(3):
            archive.writestr(str(number), b"")
    refused(tmp_path, "3 entries")


def test_bombs(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights", bytes(archives.FREE_BYTES + (1 << 20)))
    assert (tmp_path / "bad.zip").stat().st_size < 1 << 16
    refused(tmp_path, "would unpack to 17825792 bytes")


def test_a_size_that_lies_is_found(tmp_path: Path) -> None:
    """The directory tells 100 bytes of an entry of 32 MiB: no more than what it tells is ever unpacked."""
    with zipfile.ZipFile(tmp_path / "bad.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights", bytes(1 << 25))
    content = bytearray((tmp_path / "bad.zip").read_bytes())
    at = content.rindex(b"PK\x01\x02")
    content[at + 24 : at + 28] = (100).to_bytes(4, "little")
    (tmp_path / "bad.zip").write_bytes(content)
    refused(tmp_path, "no undamaged zip")


@pytest.mark.parametrize("place", ["start", "middle", "end"])
def test_damage(tmp_path: Path, place: str) -> None:
    write_archive(tmp_path / "bad.zip", {"weights.safetensors": b"weights" * 1000})
    content = bytearray((tmp_path / "bad.zip").read_bytes())
    if place == "end":
        del content[-100:]
    else:
        at = {"start": 0, "middle": 3000}[place]
        content[at] ^= 255
    (tmp_path / "bad.zip").write_bytes(content)
    refused(tmp_path, "no undamaged zip")


def refused(folder: Path, reason: str) -> None:
    with pytest.raises(ModelError, match=reason), unpacked(folder / "bad.zip", folder / "scratch"):
        pass
    assert {path.name for path in folder.rglob("*")} <= {"bad.zip", "scratch"}


def test_an_entry_with_two_names_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.13 reads a second name from an extra field, and would write there."""
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("innocent.txt", b"x")
    listed = zipfile.ZipFile.infolist

    def as_newer_python_does(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
        entries = listed(archive)
        for entry in entries:
            entry.filename = "../outside"
        return entries

    monkeypatch.setattr(zipfile.ZipFile, "infolist", as_newer_python_does)
    refused(tmp_path, "another name beside it")
    assert not (tmp_path / "outside").exists()


def test_damage_inside_an_entry_is_told(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("plan.json", bytes(range(256)) * 64)
    content = bytearray((tmp_path / "bad.zip").read_bytes())
    content[45:60] = b"\xff" * 15
    (tmp_path / "bad.zip").write_bytes(content)
    refused(tmp_path, "no undamaged zip")


def test_errors_of_the_user_of_an_archive_pass(tmp_path: Path) -> None:
    write_archive(tmp_path / "good.zip", {"a": b"1"})
    with pytest.raises(EOFError), unpacked(tmp_path / "good.zip", tmp_path / "scratch"):
        raise EOFError
