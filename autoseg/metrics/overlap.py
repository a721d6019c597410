"""Two label maps in, confusion counts and overlap scores of every target out.

One pass over the voxels makes a confusion matrix of the classes; every target (class or region) is then
a sum over its entries, so that the cost does not depend on the number of targets. Undefined scores are None,
never NaN and never a silent 0 or 1:

| reference | prediction | dice, iou | sensitivity | precision |
|-----------|------------|-----------|-------------|-----------|
| empty     | empty      | None      | None        | None      |
| empty     | some       | 0         | None        | 0         |
| some      | empty      | 0         | 0           | None      |

The first two rows of Dice are nnU-Net's rule: a case without the target is skipped when nothing was
predicted, and counts 0 when something was.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoseg.records.labels import LabelScheme, Target

IntArray = npt.NDArray[np.integer]
Matrix = npt.NDArray[np.int64]

_VOXELS_PER_PASS = 1 << 22


@dataclass(frozen=True)
class Counts:
    """Voxels of one target in one case."""

    true_positives: int
    false_positives: int
    false_negatives: int

    @property
    def predicted(self) -> int:
        """Voxels of the prediction."""
        return self.true_positives + self.false_positives

    @property
    def reference(self) -> int:
        """Voxels of the reference."""
        return self.true_positives + self.false_negatives


def confusion_matrix(prediction: IntArray, reference: IntArray, labels: LabelScheme) -> Matrix:
    """Voxels of each pair of classes.

    Args:
        prediction: internal class numbers, any shape.
        reference: the same shape; voxels with `labels.ignore_index` are left out.
        labels: scheme that numbers the classes.

    Returns:
        `num_classes x num_classes`: rows are the reference's classes, columns the prediction's. Voxels that
        the *prediction* calls ignore count as background: an ignore label is no answer.

    Raises:
        ValueError: the shapes differ, or a number is outside the scheme.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} must have one shape")
    side = labels.num_classes + 1
    flat_prediction, flat_reference = prediction.reshape(-1), reference.reshape(-1)
    matrix = np.zeros(side * side, dtype=np.int64)
    # In pieces, since the pair codes of a whole CT at 8 bytes each would need more memory than both label maps.
    for start in range(0, flat_prediction.size, _VOXELS_PER_PASS):
        part = slice(start, start + _VOXELS_PER_PASS)
        codes = flat_reference[part].astype(np.int64) * side + flat_prediction[part]
        if flat_prediction[part].min() < 0 or flat_prediction[part].max() >= side:
            raise ValueError(f"the prediction holds class numbers outside 0 to {side - 1}")
        counts = np.bincount(codes, minlength=side * side)
        if counts.size != side * side:
            raise ValueError(f"the reference holds class numbers outside 0 to {side - 1}")
        matrix += counts
    square = matrix.reshape(side, side)[: labels.num_classes]
    square[:, 0] += square[:, -1]
    return square[:, :-1].copy()


def target_counts(matrix: Matrix, target: Target) -> Counts:
    """Counts of one target from a confusion matrix (rows reference, columns prediction)."""
    members = list(target.members)
    both = int(matrix[np.ix_(members, members)].sum())
    return Counts(both, int(matrix[:, members].sum()) - both, int(matrix[members].sum()) - both)


def dice(counts: Counts) -> float | None:
    """2 TP / (2 TP + FP + FN); None when both are empty."""
    return _ratio(2 * counts.true_positives, counts.predicted + counts.reference)


def iou(counts: Counts) -> float | None:
    """TP / (TP + FP + FN), also called Jaccard index; None when both are empty."""
    return _ratio(counts.true_positives, counts.predicted + counts.false_negatives)


def sensitivity(counts: Counts) -> float | None:
    """TP / (TP + FN), also called recall; None when the reference is empty."""
    return _ratio(counts.true_positives, counts.reference)


def precision(counts: Counts) -> float | None:
    """TP / (TP + FP); None when the prediction is empty."""
    return _ratio(counts.true_positives, counts.predicted)


def _ratio(numerator: int, denominator: int) -> float | None:
    return numerator / denominator if denominator else None
