"""Epoch records in, the lines of `history.jsonl` on disk out, and back.

A line is appended before the epoch's checkpoint is written, so that no epoch of a checkpoint ever lacks its line; a
resumed training cuts off the lines of epochs that it does again.
"""

import json
import os
from pathlib import Path

from autoseg.errors import ModelError
from autoseg.records.base import parse_record
from autoseg.records.results import EpochRecord
from autoseg.storage.atomic import write_text

HISTORY = "history.jsonl"


def append_epoch(folder: Path, record: EpochRecord) -> None:
    """Add one line; it is on disk when this returns."""
    with (folder / HISTORY).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record.model_dump(mode="json")) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_history(folder: Path) -> list[EpochRecord]:
    """All epochs done, in order; a last line cut off by a crash is left out.

    Raises:
        ModelError: another line is no epoch record.
    """
    path = folder / HISTORY
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    records = []
    for number, line in enumerate(lines, 1):
        try:
            content = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise ModelError(f"{path}, line {number} is not valid JSON: {error}.") from error
        records.append(parse_record(content, EpochRecord, f"{path}, line {number}", ModelError))
    return records


def keep_epochs(folder: Path, num_epochs: int) -> list[EpochRecord]:
    """Cut the history back to the epochs before `num_epochs` and return them."""
    kept = [record for record in read_history(folder) if record.epoch < num_epochs]
    write_text(folder / HISTORY, "".join(json.dumps(r.model_dump(mode="json")) + "\n" for r in kept))
    return kept
