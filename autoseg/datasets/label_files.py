"""Folders of label files without a dataset around them in, their cases and what their values mean out."""

from pathlib import Path

import numpy as np

from autoseg.datasets.description import FILE_NAME, read_description
from autoseg.datasets.findings import raise_faults
from autoseg.datasets.pairs import compare_grids, grid_of_label
from autoseg.errors import DataError, UsageError
from autoseg.images.formats import known_ending, stem
from autoseg.images.volume import Volume
from autoseg.records.labels import IntArray, LabelScheme
from autoseg.spatial.orientation import Turn


def label_files(folder: Path) -> dict[str, Path]:
    """Case name -> file, hidden files (`._*` of macOS) left out; raises UsageError where there is none."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder.")
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".") and known_ending(p)]
    if not files:
        raise UsageError(f"{folder} holds no label files.")
    return {stem(path): path for path in files}


def scheme_of(references: Path, dataset_json: Path | None) -> LabelScheme | None:
    """The scheme in the given file, or in the dataset the references belong to; None where there is none."""
    beside = [folder / FILE_NAME for folder in (references, references.resolve().parent)]
    path = dataset_json or next((path for path in beside if path.is_file()), None)
    if path is None:
        return None
    described = read_description(path)
    if described.labels is None:
        raise_faults(described.findings, str(path))
    return described.labels


def scheme_from_values(*arrays: IntArray) -> LabelScheme:
    """Each value found is a class named by its number; 0 is background."""
    values = sorted({int(value) for array in arrays for value in np.unique(array)} - {0}) or [1]
    names = ("0", *(str(value) for value in values))
    return LabelScheme(class_names=names, class_values=(0, *values), num_entries=len(names))


def turn_onto(label: Volume, file: Path, reference: Volume, reference_file: Path, what: str, other: str) -> Turn:
    """The turn that brings one label map into the voxel order of another.

    Args:
        label: label map to be turned.
        file: where it was read from.
        reference: label map whose voxel order is wanted.
        reference_file: where that was read from.
        what: name of the first for messages, for example `prediction`.
        other: name of the second for messages, for example `reference`.

    Raises:
        DataError: they do not lie on one grid.
    """
    difference = compare_grids(reference.geometry, grid_of_label(reference.geometry, label, file))
    if difference.turn is None:
        text = difference.detail.replace("image", other).replace("label", what)
        raise DataError(f"{file} does not lie on the grid of {reference_file}: {text}.")
    return difference.turn
