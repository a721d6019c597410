"""The files of a dataset in, whether and which of them changed since they were measured out.

`files.json` keeps size, modification time and digest of every file that was measured. Equal size and time count as
unchanged; a file whose time alone differs (a copy, a checkout) is hashed, which needs no unpacking, and counts as
unchanged if the digest is the same.
"""

from pathlib import Path

from autoseg.records.base import Record
from autoseg.records.dataset import Case, Dataset
from autoseg.records.fingerprint import Fingerprint, case_digest
from autoseg.storage.hashing import sha256_file, sha256_json


class FileState(Record):
    """A file of the dataset when it was measured."""

    num_bytes: int
    modified_ns: int
    """Modification time in nanoseconds."""
    sha256: str


class MeasuredFiles(Record):
    """All that a fingerprint was made from."""

    dataset_sha256: str
    """Digest of training cases, channels and labels in the dataset's record."""
    files: dict[str, FileState]
    """Path relative to the dataset's folder -> its state."""


Times = dict[str, tuple[int, int]]
"""Path relative to the dataset's folder -> (size in bytes, modification time in ns)."""


def file_times(dataset: Dataset) -> Times:
    """Size and time of each file that is there; taken before it is read, one that changes meanwhile is noticed."""
    times = {}
    for name in (name for case in dataset.training for name in _files_of(case)):
        path = Path(dataset.root) / name
        if path.is_file():
            status = path.stat()
            times[name] = (status.st_size, status.st_mtime_ns)
    return times


def measured_files(dataset: Dataset, fingerprint: Fingerprint, times: Times) -> MeasuredFiles:
    """What a fresh fingerprint was made from; `times` as from `file_times` before the files were read."""
    files = {}
    for case in dataset.training:
        measured = fingerprint.cases[case.id]
        for name, digest in zip(_files_of(case), (*measured.image_sha256, measured.label_sha256), strict=True):
            size, modified = times[name]
            files[name] = FileState(num_bytes=size, modified_ns=modified, sha256=digest)
    return MeasuredFiles(dataset_sha256=_dataset_digest(dataset), files=files)


def is_unchanged(dataset: Dataset, known: MeasuredFiles) -> bool:
    """Whether the dataset's record and all of its files are as they were measured."""
    times = file_times(dataset)
    if known.dataset_sha256 != _dataset_digest(dataset) or set(known.files) != set(times):
        return False
    return all(_sha256_now(dataset, name, times, known) == known.files[name].sha256 for name in times)


def case_digests_now(dataset: Dataset, known: MeasuredFiles | None) -> dict[str, str]:
    """Case id -> `case_digest` of its files as they are on disk now; a file that is away counts as it was measured."""
    times = file_times(dataset)
    digests = {}
    for case in dataset.training:
        files = [_sha256_now(dataset, name, times, known) for name in _files_of(case)]
        digests[case.id] = case_digest(files)
    return digests


def _sha256_now(dataset: Dataset, name: str, times: Times, known: MeasuredFiles | None) -> str:
    """Digest of a file, read only if its size or time is another than when it was measured."""
    state = None if known is None else known.files.get(name)
    if name not in times:
        return "" if state is None else state.sha256
    if state is not None and times[name] == (state.num_bytes, state.modified_ns):
        return state.sha256
    return sha256_file(Path(dataset.root) / name)


def _files_of(case: Case) -> tuple[str, ...]:
    return (*case.images, *([case.label] if case.label else []))


def _dataset_digest(dataset: Dataset) -> str:
    return sha256_json(dataset.model_dump(mode="json", include={"training", "channel_names", "labels"}))
