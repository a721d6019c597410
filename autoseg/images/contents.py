"""A file in, its checked bytes and digest out: gzip streams are read to their end and their CRC is compared.

Readers that stop where the voxels end (nibabel) or that fill what is missing with zeros (SimpleITK) never
see a damaged stream: of 200 flipped bits they passed 165 and 199 silently when measured; read to the end, none.
Nothing is trusted that a file says of its own size: a stream that unpacks to more than its header
announces is stopped, and a header that announces more than the stream can hold is refused before anything
is allocated. Large files are mapped instead of read, and what they unpack to lies in a file where memory is short.
"""

import mmap
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from autoseg.devices import available_memory_bytes
from autoseg.errors import DataError, ResourceError
from autoseg.images.volume import ImageError
from autoseg.storage.hashing import sha256_bytes
from autoseg.storage.large_arrays import large_array

GZIP_MAGIC = b"\x1f\x8b"
_GZIP_AND_ZLIB = 47  # zlib's code for "either header, with its checksum"
_PIECE = 1 << 16  # compressed bytes a step; deflate unpacks at most 1032 times that, 64 MiB
LARGEST_RATIO = 1032  # of deflate
_SPARE_BYTES = 16 << 20  # padding after the voxels that is tolerated
_READ_BYTES = 64 << 20  # files up to this size are read: they may be replaced while they are in use


class Contents(NamedTuple):
    """A file as stored."""

    raw: bytes | mmap.mmap
    sha256: str


def read_contents(path: Path) -> Contents:
    """The bytes of `path` and their digest.

    Raises:
        ImageError: there is no such file, it is empty, or it stands for a file that was not downloaded.
    """
    if not path.is_file():
        raise ImageError("missing_file", f"{path}: there is no such file.")
    try:
        raw = _mapped(path) if path.stat().st_size > _READ_BYTES else path.read_bytes()
    except OSError as error:
        raise ImageError("unreadable", f"{path} cannot be read: {error.strerror}.") from error
    if not raw:
        raise ImageError("not_an_image", f"{path} is empty (0 bytes); copy or download it again.")
    if raw[:23] == b"version https://git-lfs":
        remedy = "run `git lfs pull` where it came from."
        raise ImageError("not_an_image", f"{path} is a git-lfs pointer, not the file itself; {remedy}")
    return Contents(raw, sha256_bytes(raw))


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def unpack_start(raw: bytes | mmap.mmap, num_bytes: int, path: Path) -> bytes:
    """The first `num_bytes` that `raw` unpacks to (fewer if there are no more), or of `raw` itself if it is no gzip."""
    if raw[:2] != GZIP_MAGIC:
        return raw[:num_bytes]
    start, rest = b"", raw[:_PIECE]
    try:
        while len(start) < num_bytes and rest[:2] == GZIP_MAGIC:  # a member after another
            engine = zlib.decompressobj(_GZIP_AND_ZLIB)
            start += engine.decompress(rest, num_bytes - len(start))
            rest = engine.unused_data
        return start
    except zlib.error as error:
        raise ImageError("truncated", f"{path}: its gzip stream is damaged ({error}); copy it again.") from error


def unpack(raw: bytes | mmap.mmap, expected_bytes: int, path: Path) -> bytes | mmap.mmap | npt.NDArray[np.uint8]:
    """All that the gzip stream `raw` unpacks to, every checksum compared; `raw` itself if it is not gzip.

    Args:
        raw: the file, of one or several gzip members, or not compressed.
        expected_bytes: what the header announces; a little more is tolerated as padding and left out.
        path: for messages.

    Raises:
        ImageError: the stream is cut short, damaged, or of another size than announced.
        ResourceError: it fits neither into memory nor on the disk for temporary files.
    """
    is_packed = raw[:2] == GZIP_MAGIC
    possible = len(raw) * (LARGEST_RATIO if is_packed else 1) + 1024
    if expected_bytes > possible:
        raise _too_short(path, expected_bytes, f"the file's {len(raw)} bytes cannot hold them")
    if not is_packed:
        if len(raw) < expected_bytes:
            raise _too_short(path, expected_bytes, f"there are {len(raw)}")
        return raw
    return inflated(raw, expected_bytes, path, _SPARE_BYTES)


def inflated(
    raw: bytes | memoryview | mmap.mmap, expected_bytes: int, path: Path, spare_bytes: int = 0
) -> npt.NDArray[np.uint8]:
    """The first `expected_bytes` that gzip or zlib members unpack to; errors as `unpack`, also for more than spare."""
    content, num_bytes = large_array((expected_bytes,), np.uint8), 0
    for piece in inflate(raw, expected_bytes + spare_bytes, path):
        kept = piece[: max(expected_bytes - num_bytes, 0)]
        content[num_bytes : num_bytes + len(kept)] = np.frombuffer(kept, np.uint8)
        num_bytes += len(piece)
    if num_bytes < expected_bytes:
        raise _too_short(path, expected_bytes, f"there are {num_bytes}")
    return content


def inflate(raw: bytes | memoryview | mmap.mmap, most_bytes: int, path: Path) -> Iterator[bytes]:
    """Unpack gzip or zlib members one after the other, piece by piece.

    Raises:
        ImageError: as `unpack`, also beyond `most_bytes`.
    """
    num_bytes, rest = 0, memoryview(raw)
    while len(rest) and rest[0]:  # zero bytes after the last member are padding (tapes, some archives)
        engine = zlib.decompressobj(_GZIP_AND_ZLIB)
        position = 0
        while not engine.eof:
            piece = rest[position : position + _PIECE]
            if not len(piece):
                raise ImageError("truncated", f"{path}: its compressed stream is cut short; copy it again.")
            try:
                content = engine.decompress(piece)
            except zlib.error as error:
                message = f"{path}: its compressed stream is damaged ({error}); copy it again."
                raise ImageError("truncated", message) from error
            position += len(piece)
            num_bytes += len(content)
            if num_bytes > most_bytes:
                message = f"{path} unpacks to more than the {most_bytes} bytes that its header accounts for."
                raise ImageError("size_mismatch", message)
            yield content
        rest = rest[position - len(engine.unused_data) :]


def check_memory(num_bytes: int, path: Path) -> None:
    """Raise ResourceError if an array of `num_bytes` and one working copy would not fit into the free memory."""
    available = available_memory_bytes()
    if 2 * num_bytes > available:
        sizes = f"{num_bytes / 2**30:.1f} GiB of voxels, {available / 2**30:.1f} GiB of memory are free"
        remedy = "convert the file to NIfTI (.nii), which is read part by part, or take a machine with more"
        raise ResourceError(f"{path}: {sizes}, twice the voxels are needed; {remedy}.")


def inside(folder: Path, path: Path) -> bool:
    """Whether `path`, links followed, lies in `folder`."""
    return path.resolve().is_relative_to(folder.resolve())


def _too_short(path: Path, expected_bytes: int, found: str) -> DataError:
    message = f"{path}: its header announces {expected_bytes} bytes, {found}; it was cut short or its header is wrong."
    return ImageError("truncated", message)
