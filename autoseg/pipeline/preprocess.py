"""Stage: images and labels of the training cases in, cases on the plan's grids out.

Each file is read once, whatever the number of configurations. Cases are done by threads (unpacking, numpy and
torch work outside Python's lock), torch itself with one thread each while there are several. A case begins when
what it is expected to need fits into the memory that was free at the start; one case is always allowed.
A faulty case is named at the end and the others are finished; called again, only the missing ones are done.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from autoseg.console import say, track
from autoseg.datasets.pairs import read_pair
from autoseg.devices import MemorySemaphore, free_memory, num_cores
from autoseg.errors import DataError, PartialError, UsageError
from autoseg.preprocessing import store
from autoseg.preprocessing.prepare import crop_case, onto_grid, target_spacing
from autoseg.records.base import read_record
from autoseg.records.dataset import Case, Dataset
from autoseg.records.fingerprint import CaseFingerprint, Fingerprint, check_same_cases
from autoseg.records.plan import Plan
from autoseg.records.workspace import Paths
from autoseg.spatial.orientation import canonical_axes, turned
from autoseg.spatial.resampling import resampled_shape

_INPUTS = "Fingerprint the dataset first: `autoseg fingerprint DATASET`."


class _Job(NamedTuple):
    """One case and the configurations it is still missing in."""

    case: Case
    measured: CaseFingerprint
    folders: dict[str, Path]
    """Configuration -> folder."""
    num_bytes: int
    """Memory it is expected to need."""


def preprocess(
    paths: Paths, plan: Plan, configurations: Sequence[str] | None = None, num_workers: int | None = None
) -> dict[str, Path]:
    """Bring all training cases onto the grids of the plan's configurations.

    Args:
        paths: where the dataset's records lie.
        plan: decides the grids.
        configurations: names in the plan; None: all.
        num_workers: cases at a time; None: one a CPU core.

    Returns:
        Configuration -> folder; configurations that agree share one.

    Raises:
        UsageError: a configuration is not in the plan, or there is no fingerprint yet.
        DataError: the fingerprint is of other cases, or no case could be done.
        PartialError: some cases failed; they are named, the others are done.
        ResourceError: the disk is full.
    """
    names = list(plan.configurations if configurations is None else configurations)
    if unknown := [name for name in names if name not in plan.configurations]:
        known = ", ".join(plan.configurations)
        raise UsageError(f"Plan {plan.name} has no configuration {', '.join(unknown)}; it has {known}.")
    dataset = read_record(paths.dataset, Dataset, remedy=_INPUTS)
    fingerprint = read_record(paths.fingerprint, Fingerprint, remedy=_INPUTS)
    check_same_cases(fingerprint, (case.id for case in dataset.training), dataset.name)
    folders = {name: paths.preprocessed(store.digest(plan, name, fingerprint)) for name in names}
    distinct = {folder: name for name, folder in reversed(folders.items())}
    missing = {name: folder for folder, name in distinct.items() if not _is_complete(folder, dataset)}
    for name, folder in folders.items():
        if folder not in missing.values():
            say(f"{dataset.name} {name}: all {dataset.num_training} cases are preprocessed already.")
    if missing:
        _run(_jobs(dataset, fingerprint, plan, missing), dataset, plan, num_workers)
        for name, folder in missing.items():
            cases = [store.find_case(folder, case.id) for case in dataset.training]
            inputs = store.decided_by(plan, name, fingerprint)
            store.write_manifest(folder, inputs, [one for one in cases if one is not None])
    return folders


def _is_complete(folder: Path, dataset: Dataset) -> bool:
    present = all(store.find_case(folder, case.id) is not None for case in dataset.training)
    return present and (folder / store.MANIFEST).is_file()


def _jobs(dataset: Dataset, fingerprint: Fingerprint, plan: Plan, missing: dict[str, Path]) -> list[_Job]:
    jobs = []
    for case in dataset.training:
        folders = {name: folder for name, folder in missing.items() if store.find_case(folder, case.id) is None}
        if folders:
            measured = fingerprint.cases[case.id]
            jobs.append(_Job(case, measured, folders, _memory_bytes(measured, plan, list(folders))))
    return jobs


def _memory_bytes(measured: CaseFingerprint, plan: Plan, configurations: Sequence[str]) -> int:
    """Peak memory of one case: what is read, and for the largest configuration the crop and result in float32."""
    channels = len(plan.channel_names)
    axes = canonical_axes(measured.orientation) if plan.orientation == "canonical" else (0, 1, 2)
    shape = turned(turned(measured.shape_after_crop, axes), plan.transpose)
    spacing = turned(turned(measured.spacing_mm, axes), plan.transpose)
    grids = []
    for name in configurations:
        settings = plan.configurations[name]  # type: ignore[index]  # checked by `preprocess`
        grids.append(resampled_shape(shape, spacing, target_spacing(settings, spacing)))
    voxels_read, voxels_cropped = _product(measured.shape), _product(shape)
    voxels_after = max(_product(grid) for grid in grids)
    # float32 or smaller as read, twice while channels are joined; a mask and its components; labels and their votes
    return voxels_read * (8 * channels + 4) + voxels_cropped * (8 * channels + 8) + voxels_after * (4 * channels + 24)


def _product(shape: Sequence[int]) -> int:
    z, y, x = shape
    return z * y * x


def _run(jobs: Sequence[_Job], dataset: Dataset, plan: Plan, num_workers: int | None) -> None:
    """Do all jobs; raises DataError or PartialError naming every case that failed."""
    workers = min(num_workers or num_cores(), max(len(jobs), 1))
    memory = free_memory()
    faults: dict[str, str] = {}
    what = f"{dataset.name}: preprocessing {', '.join(sorted({name for job in jobs for name in job.folders}))}"
    with _torch_threads(1 if workers > 1 else None), ThreadPoolExecutor(workers) as pool:
        running = {pool.submit(_do, job, dataset, plan, memory): job for job in jobs}
        try:
            for future in track(as_completed(running), len(running), what):
                try:
                    future.result()
                except DataError as error:
                    faults[running[future].case.id] = str(error)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if faults:
        lines = "".join(f"\n  {case}: {message}" for case, message in sorted(faults.items()))
        kind = DataError if len(faults) == dataset.num_training else PartialError
        raise kind(f"{dataset.name}: {len(faults)} of {len(jobs)} cases could not be preprocessed:{lines}")


def _do(job: _Job, dataset: Dataset, plan: Plan, memory: MemorySemaphore) -> None:
    with memory.share(job.num_bytes):
        image, label = read_pair(dataset, job.case)
        found = (*image.sha256, *label.sha256)
        if found != (*job.measured.image_sha256, job.measured.label_sha256):
            raise DataError(
                f"case {job.case.id}: {', '.join((*job.case.images, str(job.case.label)))} changed since the "
                "fingerprint was taken. Fingerprint and plan again."
            )
        cropped = crop_case(job.case.id, image, label, plan)
        for name, folder in job.folders.items():
            ready = onto_grid(cropped, plan, name)
            patch = plan.configurations[name].patch_zyx  # type: ignore[index]  # checked by `preprocess`
            assert ready.labels is not None, "a training case has a label"
            store.write_case(folder, ready.image, ready.labels, ready.locations, ready.meta, patch)


@contextmanager
def _torch_threads(count: int | None) -> Iterator[None]:
    """Let torch use `count` threads inside the block; None: as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
