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
from scipy import ndimage

from autoseg.metrics.overlap import Counts, confusion_matrix, target_counts
from autoseg.records.labels import LabelScheme
from autoseg.spatial.components import components, keep_largest
from autoseg.spatial.cropping import crop, mask_box

IntArray = npt.NDArray[np.integer]
Counted = npt.NDArray[np.int64]

_ONE_VOXEL = (slice(0, 1),) * 3  # where to look for a class that is nowhere


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
    scored_voxels: int
    """Voxels of the image that are not to be ignored."""


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
    # Labelling costs its volume, so it is done in the box of all foreground, then in that of each class.
    box = mask_box(prediction > 0)
    found, wanted = crop(prediction, box), crop(reference, box)
    union = keep_largest(found > 0)
    boxes = [where or _ONE_VOXEL for where in ndimage.find_objects(found, labels.num_classes - 1)]
    parts = [
        _class_components(found[where], wanted[where], union[where], number, labels)
        for number, where in enumerate(boxes, start=1)
    ]
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
        scored_voxels=int(matrix.sum()),
    )


def counts_of(table: ComponentTable, kept: npt.NDArray[np.bool_]) -> list[Counts]:
    """Counts of every target when only the components `kept` (`n`) stay."""
    true, false = table.true_positives[kept].sum(axis=0), table.false_positives[kept].sum(axis=0)
    return [
        Counts(int(t), int(f), int(r - t), int(table.scored_voxels - r - f))
        for t, f, r in zip(true, false, table.reference, strict=True)
    ]


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
