"""The base of all records: frozen, validated, refusing unknown keys; and the one JSON codec.

A record file carries `schema_version`, so that a newer autoseg can migrate it and an older one refuses
it with a clear message. Non-finite numbers are refused: JSON has none.
"""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from autoseg.errors import AutosegError, DataError, UsageError
from autoseg.storage.atomic import write_text

SCHEMA_VERSION = 1


class Record(BaseModel):
    """A frozen value with checked fields; unknown keys are errors, so that a typing mistake is found."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


AnyRecord = TypeVar("AnyRecord", bound=Record)


def write_record(path: Path, record: Record, durable: bool = True) -> None:
    """Write `record` as readable JSON (see `write_atomically`); raises ResourceError when the disk is full."""
    write_text(path, record_to_json(record) + "\n", durable)


def record_to_json(record: Record) -> str:
    """The record as indented JSON with its schema version; short number lists stay on one line."""
    content = {"schema_version": SCHEMA_VERSION, **record.model_dump(mode="json")}
    return _indented(content)


def read_record(
    path: Path, kind: type[AnyRecord], fault: type[AutosegError] = DataError, remedy: str = ""
) -> AnyRecord:
    """Read a record of `kind` from `path`.

    Args:
        path: JSON file written by `write_record` or edited by hand.
        kind: record class.
        fault: error class to raise (ModelError for files of a model).
        remedy: sentence that says what to do when the file is missing, usually which command makes it.

    Raises:
        fault: the file is missing, no JSON, of a newer schema, or a field is wrong (each is named).
        UsageError: a file of the dataset that another command makes (`remedy`) is not there yet.
    """
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        is_too_early = remedy and fault is DataError
        raise (UsageError if is_too_early else fault)(f"{path} does not exist. {remedy}".strip()) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise fault(f"{path} cannot be read: {reason}.") from error
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise fault(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise fault(f"{path}: expected a JSON object, found {type(content).__name__}.")
    version = content.pop("schema_version", SCHEMA_VERSION)
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise fault(f"{path} has schema version {version}, this autoseg knows {SCHEMA_VERSION}: upgrade autoseg.")
    return parse_record(content, kind, str(path), fault)


def parse_record(
    content: dict[str, Any], kind: type[AnyRecord], where: str, fault: type[AutosegError] = DataError
) -> AnyRecord:
    """Validate JSON-like `content` as a record; raises `fault` naming `where` and every wrong field."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        lines = [f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in error.errors()]
        raise fault(f"{where} is not a valid {kind.__name__}:\n  " + "\n  ".join(lines)) from error


def _indented(value: Any, depth: int = 0) -> str:
    """JSON with one key a line, but lists of plain values (and lists of those) on one line."""
    pad = " " * (depth + 1)
    if isinstance(value, dict) and value:
        rows = [f"{pad}{json.dumps(str(k))}: {_indented(v, depth + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + " " * depth + "}"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        rows = [pad + _indented(item, depth + 1) for item in value]
        return "[\n" + ",\n".join(rows) + "\n" + " " * depth + "]"
    return json.dumps(value, allow_nan=False)
