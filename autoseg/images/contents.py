"""A file in, its checked bytes and digest out: gzip streams are read to their end and their CRC is compared.

Readers that stop where the voxels end (nibabel) or that fill what is missing with zeros (SimpleITK) never
see a damaged stream: of 200 flipped bits they passed 165 and 199 silently when measured; read to the end, none.
Nothing is trusted that a file says of its own size: a stream that unpacks to more than its header
announces is stopped, and a header that announces more than the stream can hold is refused before anything
is allocated.
"""

import zlib
from pathlib import Path
from typing import NamedTuple

from autoseg.devices import available_memory_bytes
from autoseg.errors import DataError, ResourceError
from autoseg.images.volume import ImageError
from autoseg.storage.hashing import sha256_bytes

GZIP_MAGIC = b"\x1f\x8b"
_GZIP_AND_ZLIB = 47  # zlib's code for "either header, with its checksum"
_PIECE = 1 << 16  # compressed bytes a step; deflate unpacks at most 1032 times that, 64 MiB
_LARGEST_RATIO = 1032  # of deflate
_SPARE_BYTES = 16 << 20  # padding after the voxels that is tolerated


class Contents(NamedTuple):
    """A file as stored."""

    raw: bytes
    sha256: str


def read_contents(path: Path) -> Contents:
    """The bytes of `path` and their digest.

    Raises:
        ImageError: there is no such file, it is empty, or it stands for a file that was not downloaded.
        ResourceError: it is larger than the memory.
    """
    if not path.is_file():
        raise ImageError("missing_file", f"{path}: there is no such file.")
    size = path.stat().st_size
    if size > available_memory_bytes():
        raise ResourceError(f"{path} has {size / 2**30:.1f} GiB, more than the memory that is free.")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ImageError("unreadable", f"{path} cannot be read: {error.strerror}.") from error
    if not raw:
        raise ImageError("not_an_image", f"{path} is empty (0 bytes); copy or download it again.")
    if raw.startswith(b"version https://git-lfs"):
        remedy = "run `git lfs pull` where it came from."
        raise ImageError("not_an_image", f"{path} is a git-lfs pointer, not the file itself; {remedy}")
    return Contents(raw, sha256_bytes(raw))


def unpack_start(raw: bytes, num_bytes: int, path: Path) -> bytes:
    """The first `num_bytes` that `raw` unpacks to (fewer if there are no more); `raw` itself if it is not gzip."""
    if not raw.startswith(GZIP_MAGIC):
        return raw[:num_bytes]
    try:
        return zlib.decompressobj(_GZIP_AND_ZLIB).decompress(raw, num_bytes)
    except zlib.error as error:
        raise ImageError("truncated", f"{path}: its gzip stream is damaged ({error}); copy it again.") from error


def unpack(raw: bytes, expected_bytes: int, path: Path) -> bytes | bytearray:
    """All that the gzip stream `raw` unpacks to, every checksum compared; `raw` itself if it is not gzip.

    Args:
        raw: the file, of one or several gzip members, or not compressed.
        expected_bytes: what the header announces; a little more is tolerated as padding.
        path: for messages.

    Raises:
        ImageError: the stream is cut short, damaged, or of another size than announced.
        ResourceError: it would not fit into memory.
    """
    packed = raw.startswith(GZIP_MAGIC)
    possible = len(raw) * (_LARGEST_RATIO if packed else 1) + 1024
    if expected_bytes > possible:
        raise _too_short(path, expected_bytes, f"the file's {len(raw)} bytes cannot hold them")
    check_memory(expected_bytes, path)
    content = inflate(raw, expected_bytes + _SPARE_BYTES, path) if packed else raw
    if len(content) < expected_bytes:
        raise _too_short(path, expected_bytes, f"there are {len(content)}")
    return content


def inflate(raw: bytes | memoryview, most_bytes: int, path: Path) -> bytearray:
    """Unpack gzip or zlib members one after the other; raises ImageError as `unpack` does, also beyond `most_bytes`."""
    content = bytearray()
    rest = memoryview(raw)
    while len(rest) and rest[0]:  # zero bytes after the last member are padding (tapes, some archives)
        engine = zlib.decompressobj(_GZIP_AND_ZLIB)
        position = 0
        while not engine.eof:
            piece = rest[position : position + _PIECE]
            if not len(piece):
                raise ImageError("truncated", f"{path}: its compressed stream is cut short; copy it again.")
            try:
                content += engine.decompress(piece)
            except zlib.error as error:
                message = f"{path}: its compressed stream is damaged ({error}); copy it again."
                raise ImageError("truncated", message) from error
            position += len(piece)
            if len(content) > most_bytes:
                message = f"{path} unpacks to more than the {most_bytes} bytes that its header accounts for."
                raise ImageError("size_mismatch", message)
        rest = rest[position - len(engine.unused_data) :]
    return content


def check_memory(num_bytes: int, path: Path) -> None:
    """Raise ResourceError if an array of `num_bytes` and one working copy would not fit into the free memory."""
    available = available_memory_bytes()
    if 2 * num_bytes > available:
        sizes = f"{num_bytes / 2**30:.1f} GiB of voxels, {available / 2**30:.1f} GiB of memory are free"
        raise ResourceError(f"{path}: {sizes}, twice the voxels are needed.")


def inside(folder: Path, path: Path) -> bool:
    """Whether `path`, links followed, lies in `folder`."""
    return path.resolve().is_relative_to(folder.resolve())


def _too_short(path: Path, expected_bytes: int, found: str) -> DataError:
    message = f"{path}: its header announces {expected_bytes} bytes, {found}; it was cut short or its header is wrong."
    return ImageError("truncated", message)
