"""Two label maps in, confusion counts and overlap scores of every target out.

One pass over the voxels makes a confusion matrix of the classes; every target (class or region) is then
a sum over its entries, so that the cost does not depend on the number of targets. Undefined scores are None,
never NaN and never a silent 0 or 1:

| reference | prediction | dice, iou | sensitivity | precision | relative volume difference |
|-----------|------------|-----------|-------------|-----------|----------------------------|
| empty     | empty      | None      | None        | None      | None                       |
| empty     | some       | 0         | None        | 0         | None                       |
| some      | empty      | 0         | 0           | None      | -1                         |

The first two rows of Dice are nnU-Net's rule: a case without the target is skipped when nothing was
predicted, and counts 0 when something was. Specificity is None where every voxel is reference, or where the voxels
outside both masks were not counted; it depends on how much air the image holds, so it compares models, not datasets.

Each ratio's two terms stand in a function of their own: summed over cases they give the pooled score.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoseg.records.labels import LabelScheme, Target

IntArray = npt.NDArray[np.integer]
Matrix = npt.NDArray[np.int64]
Terms = tuple[float, float]
"""Numerator and denominator of a score."""

_VOXELS_PER_PASS = 1 << 22


@dataclass(frozen=True)
class Counts:
    """Voxels of one target in one case."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int | None = None
    """Scored voxels outside both masks; None: not counted."""

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
    predicted, reference = int(matrix[:, members].sum()), int(matrix[members].sum())
    return Counts(both, predicted - both, reference - both, int(matrix.sum()) - predicted - reference + both)


def dice_terms(counts: Counts) -> Terms:
    """Terms of `dice`."""
    return 2 * counts.true_positives, counts.predicted + counts.reference


def iou_terms(counts: Counts) -> Terms:
    """Terms of `iou`."""
    return counts.true_positives, counts.predicted + counts.false_negatives


def sensitivity_terms(counts: Counts) -> Terms:
    """Terms of `sensitivity`."""
    return counts.true_positives, counts.reference


def precision_terms(counts: Counts) -> Terms:
    """Terms of `precision`."""
    return counts.true_positives, counts.predicted


def specificity_terms(counts: Counts) -> Terms:
    """Terms of `specificity`."""
    if counts.true_negatives is None:
        return 0, 0
    return counts.true_negatives, counts.true_negatives + counts.false_positives


def dice(counts: Counts) -> float | None:
    """2 TP / (2 TP + FP + FN); None when both are empty."""
    return ratio(dice_terms(counts))


def iou(counts: Counts) -> float | None:
    """TP / (TP + FP + FN), also called Jaccard index; None when both are empty."""
    return ratio(iou_terms(counts))


def sensitivity(counts: Counts) -> float | None:
    """TP / (TP + FN), also called recall; None when the reference is empty."""
    return ratio(sensitivity_terms(counts))


def precision(counts: Counts) -> float | None:
    """TP / (TP + FP); None when the prediction is empty."""
    return ratio(precision_terms(counts))


def specificity(counts: Counts) -> float | None:
    """TN / (TN + FP); None when no scored voxel is outside the reference, or true negatives were not counted."""
    return ratio(specificity_terms(counts))


def ratio(terms: Terms) -> float | None:
    """Numerator over denominator; None when the denominator is 0."""
    numerator, denominator = terms
    return numerator / denominator if denominator else None
