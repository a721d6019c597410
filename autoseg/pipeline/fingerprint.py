"""Records of a dataset in, its fingerprint out; every file is unpacked once to be checked, measured and hashed.

It is skipped when nothing changed since (see `datasets.measured_files`). As many cases are in memory at a time as
fit into what was free at the start.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from autoseg.console import say, track, warn
from autoseg.datasets.description import FILE_NAME
from autoseg.datasets.findings import Finding, describe, faults_of, raise_faults
from autoseg.datasets.guessing import guess_dataset
from autoseg.datasets.intensities import Level, check_intensities
from autoseg.datasets.layouts import inspect_dataset, list_cases
from autoseg.datasets.measured_files import MeasuredFiles, file_times, is_unchanged, measured_files
from autoseg.datasets.pairs import on_grid_of
from autoseg.datasets.verify import check_overall, read_and_check
from autoseg.devices import free_memory, num_cores
from autoseg.errors import UsageError
from autoseg.fingerprinting import CaseMeasurement, combine, measure_case
from autoseg.images.reading import expected_bytes
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Case, Dataset
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.workspace import Paths

Result = TypeVar("Result")

_COPIES = 3
"""Times the voxels as read that a case takes at its peak: packed and unpacked bytes, masks and components."""


def verify_and_fingerprint(paths: Paths, num_workers: int | None = None) -> Fingerprint:
    """Check all training cases and measure them, or read the fingerprint where nothing changed.

    Args:
        paths: where the dataset's records lie.
        num_workers: cases at a time; None: one a CPU core.

    Raises:
        DataError: cases are faulty; all faults of all cases are named.
    """
    dataset = read_record(paths.dataset, Dataset, remedy="Open the dataset's folder first.")
    times = file_times(dataset)
    if paths.fingerprint.is_file() and paths.measured_files.is_file():
        known = read_record(paths.measured_files, MeasuredFiles)
        if is_unchanged(dataset, known):
            say(f"{dataset.name}: fingerprint is up to date.")
            fingerprint = read_record(paths.fingerprint, Fingerprint)
            if (seen := measured_files(dataset, fingerprint, times)) != known:
                write_record(paths.measured_files, seen)  # with the times of now, so that none is hashed next time
            return fingerprint
    findings: list[Finding] = []
    measurements: dict[str, CaseMeasurement] = {}
    what = f"{dataset.name}: verify and fingerprint"
    results = _in_parallel(Path(dataset.root), dataset.training, lambda c: examine(dataset, c), num_workers, what)
    for case, (found, measured) in results:
        findings += found
        if measured is not None:
            measurements[case.id] = measured
    findings += _check_together(dataset, measurements)
    _warn(findings)
    raise_faults(findings, f"{dataset.name} ({dataset.root})")
    fingerprint = combine(measurements, dataset.labels, len(dataset.channel_names))
    write_record(paths.fingerprint, fingerprint)
    write_record(paths.measured_files, measured_files(dataset, fingerprint, times))
    return fingerprint


def verify_only(source: Path, num_workers: int | None = None, workspace: Path | None = None) -> list[Finding]:
    """Check a dataset: dataset.json, every file it lists, every voxel of training and test cases.

    Args:
        source: dataset folder, or the name of a dataset in `workspace`. A folder of images and labels without
            dataset.json is checked by what most of its cases have in common.
        num_workers: cases at a time; None: one a CPU core.
        workspace: where names are looked up.

    Returns:
        All faults and warnings; nothing is written and nothing is raised for faults.

    Raises:
        UsageError: there is no such folder or name.
    """
    known = None if workspace is None else Paths(folder=workspace / source.name).dataset
    if not source.is_dir() and known is not None and known.is_file():
        source = Path(read_record(known, Dataset).root)
    if not source.is_dir():
        raise UsageError(f"{source} is neither a dataset folder nor a dataset of the workspace.")
    dataset, findings = (inspect_dataset if (source / FILE_NAME).exists() else guess_dataset)(source)
    if dataset is None:
        return findings + _verify_files(source, num_workers)
    known_dataset, root = dataset, Path(dataset.root)
    measurements: dict[str, CaseMeasurement] = {}
    cases, what = (*dataset.training, *dataset.test), f"{dataset.name}: verify"
    for case, (found, measured) in _in_parallel(root, cases, lambda c: examine(known_dataset, c), num_workers, what):
        findings += found
        if measured is not None:
            measurements[case.id] = measured
    return findings + _check_together(dataset, measurements)


def examine(dataset: Dataset, case: Case) -> tuple[list[Finding], CaseMeasurement | None]:
    """Read one case once, check it, and measure it if it has a label and no fault."""
    image, label, findings = read_and_check(Path(dataset.root), case, len(dataset.channel_names), dataset.labels)
    if image is None or label is None or faults_of(findings):
        return findings, None
    label = on_grid_of(image.geometry, label, case)
    return findings, measure_case(image, label, dataset.labels)


def _verify_files(source: Path, num_workers: int | None) -> list[Finding]:
    """What is wrong with the files of a folder whose dataset.json does not tell labels or channels.

    Every file is read and every label compared with its image's grid; what the values mean cannot be checked.
    """
    described, training, test, _ = list_cases(source)
    num_channels = len(described.channel_names) or None

    def check(case: Case) -> list[Finding]:
        return read_and_check(source, case, num_channels, described.labels)[2]

    findings: list[Finding] = []
    for _, found in _in_parallel(source, (*training, *test), check, num_workers, f"{source.name}: verify"):
        findings += found
    return findings


def _in_parallel(
    root: Path, cases: Sequence[Case], work: Callable[[Case], Result], num_workers: int | None, what: str
) -> Iterator[tuple[Case, Result]]:
    """Do cases in threads (unpacking, hashing and most of numpy run outside Python's lock), in order."""
    count, memory = num_workers or num_cores(), free_memory()

    def within_memory(case: Case) -> Result:
        with memory.share(_memory_bytes(root, case)):
            return work(case)

    with ThreadPoolExecutor(max(count, 1)) as pool:
        results = pool.map(within_memory, cases)
        yield from track(zip(cases, results, strict=True), len(cases), what)


def _memory_bytes(root: Path, case: Case) -> int:
    files = [*case.images, *([case.label] if case.label else [])]
    return _COPIES * sum(expected_bytes(root / file) for file in files)


def _check_together(dataset: Dataset, measurements: dict[str, CaseMeasurement]) -> list[Finding]:
    """What only all cases together show: classes that are nowhere, intensities that do not fit the other cases'."""
    presence = {
        name: sum(m.fingerprint.voxels_per_class[number] > 0 for m in measurements.values())
        for number, name in enumerate(dataset.labels.class_names)
    }
    levels = {case: _levels(measured) for case, measured in measurements.items() if measured.intensities}
    found = check_overall(dataset.labels, presence, len(measurements))
    return found + check_intensities(levels, dataset.channel_names)


def _levels(measured: CaseMeasurement) -> list[Level]:
    num_voxels = sum(measured.fingerprint.voxels_per_class[1:])
    return [Level(i.mean, max(i.mean_square - i.mean**2, 0.0) ** 0.5, num_voxels) for i in measured.intensities]


def _warn(findings: list[Finding]) -> None:
    for finding in findings:
        if not finding.is_fault:
            warn(describe([finding]).removeprefix("warning "))
