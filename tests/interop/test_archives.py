"""Archives: what is asked for comes out; what points elsewhere, links or explodes is refused before the first byte."""

import stat
import zipfile
from pathlib import Path

import pytest

from autoseg.errors import ModelError, UsageError
from autoseg.interop import archives
from autoseg.interop.archives import opened


def _zip(path: Path, entries: dict[str, bytes], link: str | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        if link is not None:
            info = zipfile.ZipInfo(link)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, "/etc/passwd")
    return path


def _wanted(name: str) -> bool:
    return name.endswith(".json")


def test_wanted_files_come_out_and_the_folder_goes(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "m.zip", {"D/a.json": b"1", "D/b.txt": b"2", "D/sub/c.json": b"3"})
    with opened(archive, tmp_path / "scratch", _wanted) as folder:
        found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert found == {"D/a.json": b"1", "D/sub/c.json": b"3"}
    assert not folder.exists()


@pytest.mark.parametrize("name", ["../a.json", "/a.json", "C:\\a.json", "x/../../a.json", "C:a.json"])
def test_names_outside_are_refused(name: str, tmp_path: Path) -> None:
    archive = _zip(tmp_path / "m.zip", {"good.json": b"1", name: b"2"})
    with pytest.raises(ModelError, match="outside"), opened(archive, tmp_path / "scratch", _wanted):
        pass
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["m.zip"]


def test_links_are_refused(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "m.zip", {"good.json": b"1"}, link="l.json")
    with pytest.raises(ModelError, match="link"), opened(archive, tmp_path / "scratch", _wanted):
        pass


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = _zip(tmp_path / "m.zip", {"zeros.json": bytes(8 << 20)})
    with pytest.raises(ModelError, match="expands"), opened(archive, tmp_path / "scratch", _wanted):
        pass
    monkeypatch.setattr(archives, "MAX_BYTES", 10)
    with pytest.raises(ModelError, match="unpack to"), opened(archive, tmp_path / "scratch", _wanted):
        pass
    monkeypatch.setattr(archives, "MAX_ENTRIES", 0)
    with pytest.raises(ModelError, match="entries"), opened(archive, tmp_path / "scratch", _wanted):
        pass


def test_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "m.zip", {"a.json": b"1", "A.json": b"2"})
    with pytest.raises(ModelError, match="twice"), opened(archive, tmp_path / "scratch", _wanted):
        pass


def test_an_archive_that_lies_about_a_size(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "m.zip", {"a.json": b"x" * 1000})
    content = bytearray(archive.read_bytes())
    central = content.rindex(b"PK\x01\x02")
    content[central + 24 : central + 28] = (10).to_bytes(4, "little")
    archive.write_bytes(content)
    with pytest.raises(ModelError), opened(archive, tmp_path / "scratch", _wanted):
        pass


def test_damaged_and_other_files(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "m.zip", {"a.json": b"x" * 100_000})
    content = bytearray(archive.read_bytes())
    content[60] ^= 255
    archive.write_bytes(content)
    with pytest.raises(ModelError, match="damaged"), opened(archive, tmp_path / "scratch", _wanted):
        pass
    (tmp_path / "text").write_text("no zip")
    with pytest.raises(UsageError, match="neither"), opened(tmp_path / "text", tmp_path / "scratch", _wanted):
        pass
    with pytest.raises(UsageError, match="does not exist"), opened(tmp_path / "none", tmp_path / "scratch", _wanted):
        pass
