"""A zip in, its files out in a folder of their own: nothing in an archive may reach outside it or fill the disk.

Archives come from anyone. Names that lead out of the folder, links, devices, encrypted or doubled entries, and
archives that unpack to far more than they weigh are refused before anything is written. Weights hardly shrink, so a
model unpacks to about its own size.
"""

import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from autoseg.errors import ModelError
from autoseg.storage.atomic import filled_file, scratch_folder

MOST_ENTRIES = 10_000
MOST_GROWTH = 4
"""Times its own size that an archive may unpack to, beside `FREE_BYTES`."""
FREE_BYTES = 1 << 24

_NAME = re.compile(r"[^\x00-\x1f\\:*?\"<>|]+")
_KINDS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGE = (zipfile.BadZipFile, zlib.error, UnicodeDecodeError, NotImplementedError, EOFError)
_OLDEST = (1980, 1, 1, 0, 0, 0)
_STORED = ".safetensors"


def is_archive(path: Path) -> bool:
    """Whether this is a file that is called a zip."""
    return path.is_file() and path.suffix.lower() == ".zip"


def write_archive(path: Path, files: Mapping[str, Path | bytes]) -> None:
    """Write files (name in the archive -> file or content) to a zip; equal files give equal archives.

    Raises:
        ResourceError: the disk is full or the folder cannot be written to.
    """
    with filled_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, _OLDEST)
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.compress_type = zipfile.ZIP_STORED if name.endswith(_STORED) else zipfile.ZIP_DEFLATED
            if isinstance(content, bytes):
                archive.writestr(entry, content)
                continue
            entry.file_size = content.stat().st_size
            with content.open("rb") as source, archive.open(entry, "w") as target:
                shutil.copyfileobj(source, target)


@contextmanager
def unpacked(path: Path, parent: Path) -> Iterator[Path]:
    """Yield a folder inside `parent` with the files of the archive; it is removed when the block ends.

    Raises:
        ModelError: it is no zip, damaged, or refused; the entry is named.
        ResourceError: the disk is full.
    """
    with scratch_folder(parent) as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                for entry in _checked(path, archive):
                    target = folder / entry.filename
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(entry) as source, target.open("xb") as sink:
                        shutil.copyfileobj(source, sink)
        except _DAMAGE as error:
            raise ModelError(f"{path} is no undamaged zip: {error}. Copy it again.") from error
        yield folder


def _checked(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    listed = archive.infolist()
    reason = _fault(listed, path.stat().st_size)
    if reason is not None:
        raise ModelError(f"{path} is refused: {reason}.")
    return [entry for entry in listed if not entry.is_dir()]


def _fault(entries: list[zipfile.ZipInfo], num_bytes: int) -> str | None:
    """Why an archive of these entries is not unpacked; None: it may be."""
    if len(entries) > MOST_ENTRIES:
        return f"it has {len(entries)} entries, a model has at most {MOST_ENTRIES}"
    total, limit = sum(entry.file_size for entry in entries), MOST_GROWTH * num_bytes + FREE_BYTES
    if total > limit:
        return f"it would unpack to {total} bytes, for its size at most {limit} are expected"
    seen: set[str] = set()
    for entry in entries:
        name, mode = entry.orig_filename, entry.external_attr >> 16
        parts = PurePosixPath(name).parts
        if entry.filename != name:  # Python 3.13 takes a second name from an extra field; Windows changes separators
            return f"the entry {name[:80]!r} has another name beside it"
        if not _NAME.fullmatch(name) or name.startswith("/") or ".." in parts or len(name) > 512:
            return f"the entry {name[:80]!r} does not stay inside the archive's folder"
        if stat.S_IFMT(mode) and not (stat.S_ISDIR(mode) if entry.is_dir() else stat.S_ISREG(mode)):
            return f"the entry {name!r} is a link or a device"
        if entry.flag_bits & 1 or entry.compress_type not in _KINDS:
            return f"the entry {name!r} is encrypted or packed in a way that is not used for models"
        if name.casefold() in seen:
            return f"the entry {name!r} is there twice"
        seen.add(name.casefold())
    return None
