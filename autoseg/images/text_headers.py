"""The first bytes of a NRRD or MetaImage file in, what its text header says about the voxels out.

Only what is needed to find, to bound and to read the voxels is taken from here; SimpleITK reads the geometry. Nothing
that a header says is believed before it was compared with the bytes at hand.
"""

import mmap
import re
from pathlib import Path
from typing import Literal, NamedTuple

from autoseg.images.contents import inside
from autoseg.images.volume import ImageError

LARGEST_HEADER = 1 << 20
_LONGEST_NAME = 255  # of a file, on any file system
_LONGEST_LINE = 512  # SimpleITK puts a NRRD line that it does not like into a text of about 1000 bytes, unchecked
_DATA_FILE = b"ElementDataFile"
_LINE_END = re.compile(r"\r\n?|\n")  # SimpleITK's ends of lines, fewer than Python's

_BYTES = {"char": 1, "int8": 1, "short": 2, "shortint": 2, "int16": 2, "int": 4, "int32": 4, "float": 4, "double": 8}
_BYTES |= {"longlong": 8, "longlongint": 8, "int64": 8}
_DOMAINS = ("domain", "space", "time", "???", "none", "")  # kinds of NRRD axes that are no channels
_ENDIAN: dict[str, Literal["<", ">"]] = {
    "little": "<",
    "false": "<",
    "big": ">",
    "true": ">",
}  # MetaImage: whether the most significant byte is first


class TextHeader(NamedTuple):
    """What is used of a header."""

    fields: dict[str, str]
    """Values by the names in lower case, NRRD's without blanks."""
    end: int
    """First byte after the header, where an attached block of voxels begins."""
    sizes: tuple[int, ...]
    """Lengths of 2 to 4 axes, the one that varies fastest first, with that of NRRD's channels."""
    data_file: Path | None
    """Detached file of the voxels, in the same folder; None: they follow the header."""
    is_nrrd: bool

    @property
    def num_values(self) -> int:
        """Numbers in the block, channels included."""
        count = 1
        for length in self.sizes:
            count *= length
        return count * max(int(self.fields.get("elementnumberofchannels", "1")), 1)

    @property
    def announced_bytes(self) -> int:
        """Smallest size of the voxels; a type that is not known counts as one byte."""
        return self.num_values * _BYTES.get(self._type, 1)

    @property
    def knows_type(self) -> bool:
        """Whether `announced_bytes` is exact."""
        return self._type in _BYTES

    @property
    def _type(self) -> str:
        """The voxel type without its sign and spelling: `short` for `unsigned short` and `MET_USHORT`."""
        name = self.fields.get("type", self.fields.get("elementtype", "")).lower()
        return re.sub(r"met_|unsigned|signed|_t$|[\s_]", "", name).removeprefix("u")

    @property
    def encoding(self) -> str:
        """`raw`, `gzip` or another word of NRRD; `text` for a MetaImage of numbers to be read by people."""
        if self.is_nrrd:
            name = self.fields.get("encoding", "raw").lower()
            return "gzip" if name == "gz" else name
        if self.fields.get("binarydata", "true").lower() != "true":
            return "text"
        return "gzip" if self.fields.get("compresseddata", "").lower() == "true" else "raw"

    @property
    def skipped_lines(self) -> int:
        """Lines before the voxels, not compressed."""
        return int(self.fields.get("lineskip", "0"))

    @property
    def skips_bytes(self) -> bool:
        """Whether the voxels do not begin where the block does, or NRRD's `-1`: they are its last bytes."""
        return int(self.fields.get("byteskip", "0")) != 0 or int(self.fields.get("headersize", "0")) != 0

    @property
    def first_byte(self) -> int:
        """MetaImage's `HeaderSize`: where in their file the voxels begin, whatever the header's length; 0: not told."""
        return 0 if self.is_nrrd else int(self.fields.get("headersize", "0"))

    @property
    def byte_order(self) -> Literal["<", ">"] | None:
        """`<` or `>`; None: the header does not say."""
        names = ("endian",) if self.is_nrrd else ("elementbyteordermsb", "binarydatabyteordermsb")
        value = next((self.fields[name] for name in names if name in self.fields), "")
        return _ENDIAN.get(value.lower())

    @property
    def is_plain(self) -> bool:
        """Whether the block holds nothing but the values, one after another, as they are or in one gzip stream."""
        return not self.skips_bytes and self.encoding in ("raw", "gzip")

    def channel_axis(self) -> int | None:
        """Which of `sizes` counts channels; None: not one of them does. MetaImage's channels are no axis."""
        kinds = self.fields.get("kinds", "").lower().split() if self.is_nrrd else []
        found = [axis for axis, kind in enumerate(kinds) if kind not in _DOMAINS]
        return found[0] if len(found) == 1 and len(kinds) == len(self.sizes) else None


def read_text_header(start: bytes | mmap.mmap, path: Path) -> TextHeader:
    """The header at the start of a file.

    Raises:
        ImageError: it is no NRRD or MetaImage file, has no 2 to 4 axes, or takes its voxels from elsewhere.
        ValueError: a number in it is none.
    """
    is_nrrd = path.name.lower().endswith((".nrrd", ".nhdr"))
    if is_nrrd != (start[:4] == b"NRRD"):
        expected = "NRRD" if is_nrrd else "MetaImage"
        raise ImageError("not_an_image", f"{path} is no {expected} file (it begins with {start[:8]!r}).")
    end, fields = _nrrd_fields(start, path) if is_nrrd else _meta_fields(start, path)
    named = fields.get("datafile") if is_nrrd else fields["elementdatafile"]
    num_axes = int(fields.get("dimension" if is_nrrd else "ndims", "3"))
    sizes = tuple(int(n) for n in re.findall(r"-?\d+", fields.get("sizes", fields.get("dimsize", ""))))
    if not 2 <= len(sizes) <= 4 or min(sizes) < 1 or not 2 <= num_axes <= 4:  # of -1 axes SimpleITK reads for ever
        message = f"{path}: its header gives {num_axes} axes the lengths {list(sizes)}; expected 2 to 4, above 0."
        raise ImageError("num_axes", message)
    data_file = None if named is None or named.upper() == "LOCAL" else _detached(path, named)
    return TextHeader(fields, end, sizes, data_file, is_nrrd)


def _detached(path: Path, named: str) -> Path:
    if len(named) > _LONGEST_NAME:
        raise ImageError("bad_header", f"{path} takes its voxels from a file of a name of {len(named)} characters.")
    target = path.parent / named
    if named.upper().startswith("LIST") or "%" in named or not inside(path.parent, target):
        raise ImageError(
            "path_escape", f"{path} takes its voxels from {named!r}; expected one file in the same folder."
        )
    return target


def _nrrd_fields(raw: bytes | mmap.mmap, path: Path) -> tuple[int, dict[str, str]]:
    """Where the voxels begin, and the header's fields."""
    blank = re.search(rb"\r?\n\r?\n", raw[:LARGEST_HEADER])
    if blank is None and len(raw) >= LARGEST_HEADER:  # a field beyond would be SimpleITK's alone
        raise ImageError("bad_header", f"{path}: its header has no end within {LARGEST_HEADER} bytes.")
    text = raw[: blank.start() if blank else LARGEST_HEADER].decode("latin-1")
    rows = [line.partition(":")[::2] for line in _LINE_END.split(text) if line[:1] != "#"]
    # `name:=value` is a remark of somebody's own; `:=` within a value is not.
    known = [(name.strip().lower().replace(" ", ""), value.strip()) for name, value in rows if value[:1] != "="]
    if any(len(name) + len(value) > _LONGEST_LINE for name, value in known if name != "content"):
        raise ImageError("bad_header", f"{path}: its header has a field of more than {_LONGEST_LINE} characters.")
    return (blank.end() if blank else len(raw)), _once([(name, value) for name, value in known if value], path)


def _meta_fields(raw: bytes | mmap.mmap, path: Path) -> tuple[int, dict[str, str]]:
    """As `_nrrd_fields`; a MetaImage header ends with the line ElementDataFile.

    SimpleITK knows that name in this spelling only, also before a colon, and goes on where it did not understand a
    line. So there must be no second one, or it could read another file than the one that was looked at.
    """
    last = re.search(rb"(?m)^[ \t]*(ElementDataFile)\s*=[^\n]*\n?", raw[:LARGEST_HEADER])
    if last is None:
        raise ImageError("not_an_image", f"{path} is no MetaImage file (ElementDataFile is missing).")
    if raw.find(_DATA_FILE) != last.start(1) or raw.find(_DATA_FILE, last.end(1)) >= 0:
        message = f"{path}: its header must say once, `ElementDataFile = NAME`, where the voxels are; write it again."
        raise ImageError("bad_header", message)
    text = raw[: last.end()].decode("latin-1")
    rows = [line.split("=", 1) for line in _LINE_END.split(text) if "=" in line]
    return last.end(), _once([(name.strip().lower(), value.strip()) for name, value in rows], path)


def _once(found: list[tuple[str, str]], path: Path) -> dict[str, str]:
    """The fields by name; of two of one name SimpleITK might take the other one."""
    fields = dict(found)
    if len(fields) < len(found):
        raise ImageError("bad_header", f"{path}: its header has a field twice; write it again.")
    return fields
