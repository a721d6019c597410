"""One case's segmentation and reference in, a table of its connected components out.

What removing a component would change is fully told by its size and the counts of every target inside it, so
rules are tried on tables of a few numbers a component, never by rewriting segmentations. Components are
26-connected, as in nnU-Net.

Two levels are in one table: components of the union of all foreground, and components of each class. A component of
a class lies inside exactly one of the union, so the table also answers what is left of a class once only the
largest of the union is kept.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoseg.metrics.overlap import Counts, confusion_matrix, target_counts
from autoseg.records.labels import LabelScheme
from autoseg.spatial.components import components

IntArray = npt.NDArray[np.integer]
Counted = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ComponentTable:
    """Components of one case's segmentation; `n` components of single classes, `t` targets."""

    case: str
    voxel_volume_mm3: float
    classes: Counted
    """`n`: internal class of each component."""
    sizes: Counted
    """`n`: its voxels, whether scored or to be ignored."""
    true_positives: Counted
    """`n t`: its voxels that are a target in prediction and reference."""
    false_positives: Counted
    """`n t`: its voxels that are a target in the prediction alone."""
    in_largest_union: npt.NDArray[np.bool_]
    """`n`: whether it lies in the largest component of all foreground."""
    reference: Counted
    """`t`: voxels of each target in the reference."""


def component_table(
    case: str, prediction: IntArray, reference: IntArray, labels: LabelScheme, voxel_volume_mm3: float
) -> ComponentTable:
    """Measure every component of a segmentation.

    Args:
        case: its id.
        prediction: `Z Y X` internal class numbers.
        reference: `Z Y X` internal class numbers; voxels to ignore are in no count, but in the sizes.
        labels: scheme with the targets.
        voxel_volume_mm3: of the grid.
    """
    box = _foreground_box(prediction)
    found, wanted = prediction[box], reference[box]
    union = _largest(components(found > 0))
    parts = [_class_components(found, wanted, union, number, labels) for number in range(1, labels.num_classes)]
    classes, sizes, true, false, inside = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    matrix = confusion_matrix(prediction, reference, labels)
    return ComponentTable(
        case=case,
        voxel_volume_mm3=voxel_volume_mm3,
        classes=classes,
        sizes=sizes,
        true_positives=true,
        false_positives=false,
        in_largest_union=inside.astype(bool),
        reference=np.array([target_counts(matrix, t).reference for t in labels.targets], dtype=np.int64),
    )


def counts_of(table: ComponentTable, kept: npt.NDArray[np.bool_]) -> list[Counts]:
    """Counts of every target when only the components `kept` (`n`) stay."""
    true, false = table.true_positives[kept].sum(axis=0), table.false_positives[kept].sum(axis=0)
    return [Counts(int(t), int(f), int(r - t)) for t, f, r in zip(true, false, table.reference, strict=True)]


def kept_components(
    table: ComponentTable, keep_largest_foreground: bool, keep_largest: tuple[int, ...]
) -> npt.NDArray[np.bool_]:
    """Which components (`n`) a rule leaves; of equally large ones all stay, as in `spatial.components.keep_largest`."""
    kept = table.in_largest_union.copy() if keep_largest_foreground else np.ones(len(table.classes), dtype=bool)
    for number in keep_largest:
        rows = kept & (table.classes == number)
        if rows.any():
            kept &= ~rows | (table.sizes == table.sizes[rows].max())
    return kept


def _foreground_box(prediction: IntArray) -> tuple[slice, ...]:
    """Box around the foreground, or one voxel where there is none: labelling costs its volume."""
    box = []
    for axis in range(prediction.ndim):
        used = np.flatnonzero((prediction > 0).any(axis=tuple(a for a in range(prediction.ndim) if a != axis)))
        box.append(slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 1))
    return tuple(box)


def _largest(found: tuple[npt.NDArray[np.integer], int]) -> npt.NDArray[np.bool_]:
    """Mask of the largest of numbered components; equally large ones are all in it."""
    numbers, count = found
    sizes = np.bincount(numbers.reshape(-1), minlength=count + 1)
    sizes[0] = 0
    largest: npt.NDArray[np.bool_] = (sizes == max(1, sizes.max()))[numbers]
    return largest


def _class_components(
    found: IntArray, wanted: IntArray, union: npt.NDArray[np.bool_], number: int, labels: LabelScheme
) -> tuple[Counted, Counted, Counted, Counted, Counted]:
    """Columns `classes, sizes, true_positives, false_positives, in_largest_union` of one class's components."""
    mask = found == number
    numbers, count = components(mask)
    flat, reference = numbers[mask].astype(np.int64) - 1, wanted[mask]
    sizes = np.bincount(flat, minlength=count)
    inside = np.bincount(flat, weights=union[mask], minlength=count) > 0
    true, false = np.zeros((count, len(labels.targets)), np.int64), np.zeros((count, len(labels.targets)), np.int64)
    for column, target in enumerate(labels.targets):
        if number not in target.members:
            continue
        hits = np.isin(reference, target.members)
        scored = hits | (reference != labels.ignore_index)
        true[:, column] = np.bincount(flat[hits], minlength=count)
        false[:, column] = np.bincount(flat[scored & ~hits], minlength=count)
    return np.full(count, number, np.int64), sizes.astype(np.int64), true, false, inside.astype(np.int64)
