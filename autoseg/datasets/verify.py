"""A dataset's voxels in, everything wrong with them out: all cases are looked at whatever the first one shows.

A fault is what would make training wrong or impossible; a warning is what works but may not be meant.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from autoseg.datasets.findings import Finding, fault, warning
from autoseg.datasets.pairs import compare_grids, grid_of_label, read_case_image
from autoseg.errors import DataError, ResourceError
from autoseg.images.reading import read_label
from autoseg.images.volume import ImageError, Volume
from autoseg.records.dataset import Case
from autoseg.records.labels import LabelScheme

_GRID_REMEDY = "Resample or re-export the label on the image's grid."


def read_and_check(
    root: Path, case: Case, num_channels: int | None, labels: LabelScheme | None
) -> tuple[Volume | None, Volume | None, list[Finding]]:
    """Read a case once and check it.

    Args:
        root: dataset folder.
        case: its files.
        num_channels: of the dataset; None: unknown, not checked.
        labels: of the dataset; None: unknown, values are not checked.

    Returns:
        Image and label as stored (None: unreadable, or a case without label) and what was found.
    """
    findings: list[Finding] = []
    files = ", ".join(case.images)
    image = _attempt(lambda: read_case_image(root, case, num_channels), case.id, files, findings)
    label = None
    if case.label is not None:
        path = root / case.label
        label = _attempt(lambda: read_label(path), case.id, case.label, findings)
    if image is not None and label is not None:
        findings += check_case(labels, case, image, label)
    elif image is not None:
        findings += check_image(case, image)
    elif label is not None:
        findings += check_label(labels, case, label)
    return image, label, findings


def check_case(labels: LabelScheme | None, case: Case, image: Volume, label: Volume) -> list[Finding]:
    """Check a pair that could be read: grids, label values, intensities."""
    findings = check_image(case, image) + check_label(labels, case, label)
    difference = compare_grids(image.geometry, grid_of_label(image.geometry, label, str(case.label)))
    if difference.turn is None:
        message = f"{case.label}: {difference.detail}. {_GRID_REMEDY}"
        findings.append(fault(difference.kind, message, case.id, case.label))
    elif difference.kind != "same":
        message = f"{case.label}: {difference.detail}; the label is turned to the image's order when read."
        if difference.kind == "small_offset":
            message = f"{case.label}: {difference.detail}; the image's grid is used."
        findings.append(warning(difference.kind, message, case.id, case.label))
    return findings


def check_image(case: Case, image: Volume) -> list[Finding]:
    """Check intensities: values that are not finite are faults, a channel without contrast is a warning."""
    files = ", ".join(case.images)
    findings = [warning(note.kind, note.message, case.id, files) for note in image.notes]
    for channel, values in enumerate(image.array):
        low, high = values.min(), values.max()
        if values.dtype.kind == "f" and not (np.isfinite(low) and np.isfinite(high)):
            num_bad = int(values.size - np.isfinite(values).sum())
            message = f"{files}: {num_bad} voxels of channel {channel} are NaN or infinite; replace them by a number."
            findings.append(fault("not_finite", message, case.id, files))
        elif low == high:
            message = f"{files}: channel {channel} is {low:g} everywhere."
            findings.append(warning("constant_image", message, case.id, files))
    return findings


def check_label(labels: LabelScheme | None, case: Case, label: Volume) -> list[Finding]:
    """Check label values: one that dataset.json does not name is a fault, a label without foreground a warning."""
    findings = [warning(note.kind, note.message, case.id, case.label) for note in label.notes]
    if labels is None:
        return findings
    try:
        classes = labels.to_internal(label.array, case.label or case.id)
    except DataError as error:
        return [*findings, fault("unexpected_label", f"{error}{_suggestion(labels, label)}", case.id, case.label)]
    foreground = classes > 0
    if labels.ignore_index is not None:
        foreground &= classes != labels.ignore_index
    if not foreground.any():
        findings.append(warning("empty_label", f"{case.label}: there is nothing but background.", case.id, case.label))
    return findings


def check_overall(labels: LabelScheme, cases_with_class: dict[str, int], num_cases: int) -> list[Finding]:
    """Check what only all cases together show.

    Args:
        labels: classes.
        cases_with_class: class name -> number of cases in which it occurs.
        num_cases: cases that could be read.
    """
    names = labels.class_names[1:]
    if num_cases and not any(cases_with_class.get(name, 0) for name in names):
        return [fault("no_foreground", f"no case has a voxel of {', '.join(names)}; there is nothing to learn.")]
    return [
        warning("absent_class", f"the class {name!r} of dataset.json occurs in none of {num_cases} cases.")
        for name in names
        if num_cases and not cases_with_class.get(name, 0)
    ]


def _attempt(read: Callable[[], Volume], case_id: str, file: str, findings: list[Finding]) -> Volume | None:
    try:
        return read()
    except ImageError as error:
        findings.append(fault(error.kind, str(error), case_id, file))
    except (DataError, ResourceError) as error:
        findings.append(
            fault("too_large" if isinstance(error, ResourceError) else "unreadable", str(error), case_id, file)
        )
    return None


def _suggestion(labels: LabelScheme, label: Volume) -> str:
    present = [int(value) for value in np.unique(label.array)[:10]]
    if labels.num_classes == 2 and len(present) == 2 and labels.class_values[0] in present:
        other = next(value for value in present if value != labels.class_values[0])
        return f" If {other} is {labels.class_names[1]!r}, write {other} as its value in dataset.json."
    return ""
