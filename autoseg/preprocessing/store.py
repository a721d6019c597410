"""Prepared cases in, a folder of files out, and boxes of those files back: what training reads.

    <folder>/<case>.image.b2nd             float32, C Z Y X, in chunks of one patch
             <case>.labels.b2nd            smallest integer type, Z Y X; -1: background outside the nonzero mask
             <case>.locations.safetensors  flat indices, one array a target
             <case>.json                   how the case came here and the sha256 of its files; written last
             manifest.json                 all of these; written when every case is there

The folder is named by the digest of all that decides its content, so plans that agree share it, as do a
full-resolution configuration and its cascade. A case is there or not: an interrupted run goes on with the
missing ones. Files are not flushed to the disk one by one (that took longer than making them): each is
compared with its digest before it is used, so what a loss of power damages is found. Imports no image
library: a machine that only trains needs none.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg.devices import num_cores
from autoseg.errors import DataError
from autoseg.preprocessing.locations import FlatIndices
from autoseg.preprocessing.normalize import masked_channels
from autoseg.records.base import Record, read_record, write_record
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.geometry import IntTriple
from autoseg.records.labels import smallest_integer_type
from autoseg.records.plan import Plan
from autoseg.records.results import Manifest, PreprocessedCase
from autoseg.storage.arrays import read_array, write_array
from autoseg.storage.atomic import write_bytes
from autoseg.storage.hashing import sha256_file, sha256_json

MANIFEST = "manifest.json"
VERSION = "2"
"""Changes whenever the same inputs would give other voxels; older folders are then not used."""

Box = tuple[slice, slice, slice]


class StoredCase(Record):
    """A case that lies in the folder completely."""

    case: PreprocessedCase
    files_sha256: dict[str, str]
    """File name -> digest."""


def decided_by(plan: Plan, configuration: str, fingerprint: Fingerprint) -> dict[str, str]:
    """Name -> digest of each input that decides what the folder of a configuration holds."""
    settings = plan.configurations[configuration]  # type: ignore[index]  # any text may be asked for
    uses_intensities = "ct" in settings.normalization
    files = {name: [*case.image_sha256, case.label_sha256] for name, case in sorted(fingerprint.cases.items())}
    intensities = {key: value.model_dump() for key, value in plan.intensities.items() if uses_intensities}
    inputs: dict[str, Any] = {
        "version": VERSION,
        "files": files,
        "grid": [plan.orientation, plan.transpose, settings.spacing_mm],
        "normalization": [settings.normalization, settings.use_mask_for_norm],
        "intensities": intensities,
        "labels": plan.labels.model_dump(mode="json", exclude={"class_names", "region_order", "num_entries"}),
    }
    if masked_channels(settings.normalization, settings.use_mask_for_norm):
        inputs["outside"] = "marked"  # by itself, so that folders without a mask keep their name
    return {name: sha256_json(value) for name, value in inputs.items()}


def digest(plan: Plan, configuration: str, fingerprint: Fingerprint) -> str:
    """What the folder of a configuration is named by; see `Paths.preprocessed`."""
    return sha256_json(decided_by(plan, configuration, fingerprint))


def write_case(
    folder: Path,
    image: npt.NDArray[np.float32],
    labels: npt.NDArray[np.integer],
    locations: dict[int, FlatIndices],
    meta: PreprocessedCase,
    patch_zyx: IntTriple,
) -> StoredCase:
    """Write a prepared training case; it counts as there when the last file is.

    Args:
        folder: of the store.
        image: C Z Y X.
        labels: internal classes, Z Y X; -1: background outside the nonzero mask.
        locations: target number -> flat indices; as from `draw_locations`.
        meta: names the case.
        patch_zyx: chunk size, so that reading a patch unpacks little more than it.

    Raises:
        ResourceError: the disk is full.
    """
    from safetensors.numpy import save

    image_file, labels_file, locations_file = _files(meta.id)
    write_array(folder / image_file, image, (1, *patch_zyx), durable=False)
    smallest = smallest_integer_type((int(labels.min()), int(labels.max())))
    write_array(folder / labels_file, labels.astype(smallest), patch_zyx, durable=False)
    write_bytes(folder / locations_file, save({str(number): indices for number, indices in locations.items()}), False)
    names = (image_file, labels_file, locations_file)
    stored = StoredCase(case=meta, files_sha256={name: sha256_file(folder / name) for name in names})
    write_record(folder / f"{meta.id}.json", stored, durable=False)
    return stored


def find_case(folder: Path, case_id: str) -> StoredCase | None:
    """A case whose files are all there, else None. Their content is compared when the store is opened."""
    record = folder / f"{case_id}.json"
    if not record.is_file() or not all((folder / name).is_file() for name in _files(case_id)):
        return None
    return read_record(record, StoredCase)


def write_manifest(folder: Path, inputs: dict[str, str], cases: Iterable[StoredCase]) -> None:
    """Declare the folder complete: `inputs` as from `decided_by`, and all its cases."""
    stored = list(cases)
    manifest = Manifest(
        decided_by=inputs,
        cases={one.case.id: one.case for one in stored},
        files_sha256={name: value for one in stored for name, value in one.files_sha256.items()},
    )
    write_record(folder / MANIFEST, manifest)


def open_store(folder: Path) -> Manifest:
    """Read the manifest and compare every file with it.

    Raises:
        UsageError: the folder has no manifest: preprocessing was not finished.
        DataError: files are missing or not the ones that were written.
    """
    remedy = "Preprocess the dataset: `autoseg preprocess DATASET`."
    manifest = read_record(folder / MANIFEST, Manifest, remedy=remedy)

    def is_changed(name: str) -> bool:
        path = folder / name
        return not path.is_file() or sha256_file(path) != manifest.files_sha256[name]

    names = sorted(manifest.files_sha256)
    with ThreadPoolExecutor(num_cores()) as pool:
        changed = [name for name, bad in zip(names, pool.map(is_changed, names), strict=True) if bad]
    if changed:
        raise DataError(
            f"{folder}: {len(changed)} files are missing or were changed since they were written "
            f"({', '.join(changed[:5])}). Delete them and preprocess again; the other cases are kept."
        )
    return manifest


def read_image(folder: Path, case_id: str, box: Box | None = None) -> npt.NDArray[np.float32]:
    """The case's image or its `box` (inside the image), C Z Y X; raises DataError if it cannot be read."""
    where = None if box is None else (slice(None), *box)
    return read_array(folder / _files(case_id)[0], where)


def read_labels(folder: Path, case_id: str, box: Box | None = None) -> npt.NDArray[np.integer[Any]]:
    """The case's internal classes or their `box`, Z Y X; raises DataError if they cannot be read."""
    labels = read_marked_labels(folder, case_id, box)
    return labels if np.issubdtype(labels.dtype, np.unsignedinteger) else np.maximum(labels, 0)


def read_marked_labels(folder: Path, case_id: str, box: Box | None = None) -> npt.NDArray[np.integer[Any]]:
    """The same with -1 for background outside the nonzero mask, where a channel is normalised inside it only."""
    return read_array(folder / _files(case_id)[1], box)


def read_locations(folder: Path, case_id: str) -> tuple[FlatIndices, ...]:
    """For each target some of its voxels as flat indices into the case's grid; empty where it does not occur.

    With an ignore label the last entry has some of all annotated voxels.

    Raises:
        DataError: the file cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / _files(case_id)[2]
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read ({error}). Delete it and preprocess again.") from error
    return tuple(found[str(number)] for number in range(len(found)))


def _files(case_id: str) -> tuple[str, str, str]:
    return f"{case_id}.image.b2nd", f"{case_id}.labels.b2nd", f"{case_id}.locations.safetensors"
