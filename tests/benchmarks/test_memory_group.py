"""A memory group is made inside the own one in either version of Linux's control groups, or it is said why not."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import PROJECT

NAME = f"autoseg_{os.getpid()}"


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, which takes two folders for the system's."""
    spec = importlib.util.spec_from_file_location("memory_group", PROJECT / "benchmarks" / "memory_group.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path / "groups")
    monkeypatch.setattr(module, "OWN", tmp_path / "own")
    return module


@pytest.mark.parametrize(
    ("own", "folder", "limit", "peak"),
    [
        (
            "5:cpu:/x\n4:memory,hugetlb:/a/b\n0::/a\n",
            "memory/a/b",
            "memory.limit_in_bytes",
            "memory.max_usage_in_bytes",
        ),
        ("1:name=systemd:/\n0::/user.slice/me\n", "user.slice/me", "memory.max", "memory.peak"),
        ("0::/\n", "", "memory.max", "memory.peak"),
    ],
)
def test_a_group_inside_the_own_one(
    groups: ModuleType, monkeypatch: pytest.MonkeyPatch, own: str, folder: str, limit: str, peak: str
) -> None:
    groups.OWN.write_text(own)
    inside = groups.ROOT / folder / NAME
    inside.parent.mkdir(parents=True)
    make, remove = Path.mkdir, Path.rmdir

    def mkdir(path: Path) -> None:
        """As the kernel does: a new group has its files, and they vanish with it."""
        make(path)
        (path / limit).write_text("max")
        (path / peak).write_text(str(3 << 29))

    def rmdir(path: Path) -> None:
        for file in path.iterdir():
            file.unlink()
        remove(path)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(Path, "rmdir", rmdir)
    with groups.memory_group(2 << 30) as group:
        assert group.folder == inside
        assert (inside / limit).read_text() == str(2 << 30)
        group.join()
        assert (inside / "cgroup.procs").read_text() == str(os.getpid())
        assert group.peak_gib() == 1.5
    assert not inside.exists()


def test_where_none_can_be_made_it_is_said(groups: ModuleType) -> None:
    with pytest.raises(SystemExit, match="no memory groups"), groups.memory_group(1 << 30):
        pass
    groups.OWN.write_text("0::/a\n")
    with pytest.raises(SystemExit, match=r"No such file.*systemd-run"), groups.memory_group(1 << 30):
        pass
    (groups.ROOT / "a").mkdir(parents=True)
    with pytest.raises(SystemExit, match=r"1 GiB .*has no memory\.max.*root"), groups.memory_group(1 << 30):
        pass
    assert not list((groups.ROOT / "a").iterdir())
