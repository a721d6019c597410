"""The body of a `multipart/form-data` request in, the file of each of its parts out (RFC 7578).

One part a channel, named like the channel, so that channels cannot be exchanged by their order. The body lies in a file
already, of which nothing is read into memory but the parts' headers.
"""

import mmap
import os
import re
from collections.abc import Iterator, Sequence
from email.message import Message
from pathlib import Path
from typing import BinaryIO

from autoseg.errors import DataError
from autoseg.records.fine_tuning import matching_names

_NAME = re.compile(rb'^content-disposition:[^\r\n]*[; ]name="([^"\r\n]*)"', re.IGNORECASE | re.MULTILINE)
_LONGEST_HEAD = 1 << 13
"""Bytes of a part's headers."""
_PIECE = 1 << 20


def boundary_of(content_type: str) -> bytes | None:
    """What separates the parts of a body of this type; None: it has no parts.

    Raises:
        DataError: it has parts and does not say what separates them.
    """
    message = Message()
    message["content-type"] = content_type
    if message.get_content_type() != "multipart/form-data":
        return None
    boundary = message.get_param("boundary")
    if not isinstance(boundary, str) or not boundary.isascii() or not 0 < len(boundary) <= 70:
        raise DataError("Content-Type is multipart/form-data without a boundary of 1 to 70 ASCII characters.")
    return boundary.encode()


def channel_files(body: Path, boundary: bytes, channel_names: Sequence[str]) -> list[Path]:
    """Write each channel of an image to a file of its own, beside the body.

    Args:
        body: file of the parts.
        boundary: that separates them.
        channel_names: the parts' names, in the order in which the files are wanted; of a name that is there twice the
            first part is the first of these channels.

    Raises:
        DataError: the body is cut off or no such body, or its parts are others than the channels.
    """
    with body.open("rb") as stream:
        found = list(_parts(stream, boundary, len(channel_names)))
        places = matching_names([name for name, _ in found], channel_names)
        wanted = [found[place][1] for place in places if place is not None]
        if not len(found) == len(wanted) == len(channel_names):
            names = ", ".join(repr(name) for name, _ in found)
            needed = ", ".join(channel_names)
            raise DataError(f"The parts of the image are named {names or 'nothing'}; expected one each of: {needed}.")
        files = []
        for number, place in enumerate(wanted):
            files.append(body.with_name(f"channel_{number}.nii.gz"))
            with files[-1].open("wb") as target:
                _copy(stream, place, target)
    return files


def _parts(stream: BinaryIO, boundary: bytes, most: int) -> Iterator[tuple[str, range]]:
    """Name and bytes of each part, of one more than `most` at most."""
    delimiter = b"--" + boundary
    cut_off = DataError("The image is no whole multipart/form-data body with its boundary.")
    if not os.fstat(stream.fileno()).st_size:
        raise cut_off
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[: len(delimiter)] != delimiter:
            raise cut_off
        position = len(delimiter)
        for _ in range(most + 1):
            if content[position : position + 2] == b"--":
                return
            head = content.find(b"\r\n\r\n", position, position + _LONGEST_HEAD)
            end = content.find(b"\r\n" + delimiter, head + 4) if head >= 0 else -1
            if content[position : position + 2] != b"\r\n" or end < 0:
                raise cut_off
            name = _NAME.search(content[position:head])
            yield "" if name is None else name[1].decode("utf-8", "replace"), range(head + 4, end)
            position = end + 2 + len(delimiter)


def _copy(stream: BinaryIO, place: range, target: BinaryIO) -> None:
    stream.seek(place.start)
    for begin in range(place.start, place.stop, _PIECE):
        target.write(stream.read(min(_PIECE, place.stop - begin)))
