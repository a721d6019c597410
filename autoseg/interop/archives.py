"""A model folder or zip file in, a folder that holds only what was asked for out; a hostile archive is refused whole.

The whole list of entries is judged before the first byte is written: absolute names, `..`, drives, links and bombs (too
many entries, too large, expanding more than weights or JSON ever do) end the import. Bytes are counted again as they
are unpacked, since an archive may lie about its sizes.
"""

import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from autoseg.errors import ModelError, ResourceError, UsageError
from autoseg.storage.atomic import cannot_write, scratch_folder

MAX_ENTRIES = 20_000
MAX_BYTES = 64 * 2**30
"""Of all entries together; nnU-Net's largest presets have 1.2 GB a checkpoint."""
MAX_RATIO = 200
"""Unpacked over packed size of one entry: JSON packs by about 10, weights by 1.1, a bomb by 1000."""
_SMALL = 1 << 20  # an entry below this is no bomb, however well it packs
_CHUNK = 1 << 20


@contextmanager
def opened(source: Path, scratch: Path, wanted: Callable[[str], bool]) -> Iterator[Path]:
    """A folder with the content of `source`.

    Args:
        source: a folder, yielded as it is; or a zip file.
        scratch: existing or new folder in which a zip file is unpacked; removed again at the end.
        wanted: whether a file of this name (without its folder) is unpacked.

    Raises:
        UsageError: `source` is neither.
        ModelError: the archive is damaged or not to be trusted; nothing of it was written.
        ResourceError: the disk is full.
    """
    if source.is_dir():
        yield source
        return
    if not source.is_file():
        raise UsageError(f"{source} does not exist; give a folder or a zip file.")
    if not zipfile.is_zipfile(source):
        raise UsageError(f"{source} is neither a folder nor a zip file.")
    with scratch_folder(scratch) as folder:
        unpack(source, folder, wanted)
        yield folder


def unpack(archive: Path, folder: Path, wanted: Callable[[str], bool]) -> None:
    """Unpack the wanted files of a zip into an empty folder, after all its entries were judged; errors as `opened`."""
    try:
        with zipfile.ZipFile(archive) as opened_zip:
            entries = opened_zip.infolist()
            _judge(archive, entries)
            kept = [entry for entry in entries if not entry.is_dir() and wanted(PurePosixPath(entry.filename).name)]
            if sum(entry.file_size for entry in kept) > shutil.disk_usage(folder).free:
                raise ResourceError(f"{archive} does not fit on the disk of {folder.parent}. Free space there.")
            for entry in kept:
                _extract(opened_zip, entry, folder.joinpath(*PurePosixPath(entry.filename).parts))
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise ModelError(f"{archive} is damaged: {error}. Fetch it again.") from error
    except RuntimeError as error:  # what zipfile raises for an encrypted entry
        raise ModelError(f"{archive} cannot be unpacked: {error}.") from error


def _judge(archive: Path, entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > MAX_ENTRIES:
        raise ModelError(f"{archive} has {len(entries)} entries; a model has fewer than {MAX_ENTRIES}.")
    total = sum(entry.file_size for entry in entries)
    if total > MAX_BYTES:
        raise ModelError(f"{archive} would unpack to {total / 2**30:.0f} GiB; at most {MAX_BYTES >> 30} are taken.")
    seen: set[str] = set()
    for entry in entries:
        if reason := _fault_of(entry):
            raise ModelError(f"{archive}: entry {entry.filename!r} {reason}. Nothing was unpacked.")
        key = str(PurePosixPath(entry.filename)).casefold()
        if key in seen:
            raise ModelError(f"{archive}: entry {entry.filename!r} is there twice. Nothing was unpacked.")
        seen.add(key)


def _fault_of(entry: zipfile.ZipInfo) -> str | None:
    name, parts = entry.orig_filename, PurePosixPath(entry.filename).parts
    if name.startswith("/") or "\\" in name or ":" in name or "\0" in name or ".." in parts:
        return "points outside the archive"
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device, no file"
    if entry.file_size > _SMALL and entry.file_size > MAX_RATIO * max(entry.compress_size, 1):
        return f"expands {entry.file_size // max(entry.compress_size, 1)} times, as no model does"
    return None


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(entry) as packed, target.open("xb") as file:
            written = 0
            while chunk := packed.read(_CHUNK):
                written += len(chunk)
                if written > entry.file_size:
                    raise ModelError(f"{archive.filename}: entry {entry.filename!r} is larger than it says.")
                file.write(chunk)
    except OSError as error:
        raise cannot_write(target, error) from error
