"""Probabilities and a reference in, how far the probabilities can be believed out.

For classes (softmax) a voxel's confidence is the probability of the class it would be given, and it is right or wrong;
for regions (sigmoid) each region is a yes-or-no question of its own, with the probability itself as confidence in yes.
Voxels are sorted by confidence into 15 bins of equal width, (0, 1/15], (1/15, 2/15], ..., 0 itself in the first. The
expected calibration error is the mean over bins, weighed by their voxels, of |mean confidence - share that is true|
(Guo et al. 2017, arXiv 1706.04599); it depends on the bins, so their number is always named with it. The Brier score
(Brier 1950) is the mean squared error of the probabilities: summed over the classes for softmax (0 to 2), a region's
own for sigmoid (0 to 1).

Voxels to ignore are left out. Most of an image is easy background, which hides everything else in a mean over all
voxels; `mask` restricts the count, for example to a margin around the foreground. Without a voxel to count all is None.

What is counted adds up: bins of slabs, cases or folds may be summed before the scores are taken.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg.metrics.overlap import IntArray
from autoseg.records.labels import LabelScheme

NUM_BINS = 15
_VOXELS_PER_PASS = 1 << 20

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CalibrationBins:
    """Sums over the voxels of each confidence bin."""

    voxels: Floats
    """`NUM_BINS`: how many."""
    confidence: Floats
    """`NUM_BINS`: sum of their confidences."""
    true: Floats
    """`NUM_BINS`: how many are right (classes) or inside (region)."""
    squared_error: float
    """Sum over all voxels of the squared errors of their probabilities."""


def calibration_bins(
    probabilities: npt.NDArray[Any],
    reference: IntArray,
    labels: LabelScheme,
    mask: npt.NDArray[np.bool_] | None = None,
) -> dict[str, CalibrationBins]:
    """Count voxels by confidence.

    Args:
        probabilities: `H Z Y X`, 0 to 1: one head a class with background, or one a region; any float type.
        reference: `Z Y X` internal class numbers.
        labels: scheme of both.
        mask: `Z Y X`, voxels to count; None: all that are not to be ignored.

    Returns:
        For classes `{"classes": bins}`; for regions their names.

    Raises:
        ValueError: shapes or number of heads do not fit.
    """
    if probabilities.shape != (labels.num_heads, *reference.shape):
        raise ValueError(f"expected probabilities {(labels.num_heads, *reference.shape)}, got {probabilities.shape}")
    if mask is not None and mask.shape != reference.shape:
        raise ValueError(f"mask {mask.shape} and reference {reference.shape} must have one shape")
    names = [region.name for region in labels.regions] or ["classes"]
    bins = {name: [_empty()] for name in names}
    for p, truth in _pieces(probabilities, reference, labels, mask):
        if labels.has_regions:
            for region, own in zip(labels.regions, p, strict=True):
                inside = np.isin(truth, region.members)
                bins[region.name].append(count_bins(own, inside, float(((own - inside) ** 2).sum())))
        else:
            chosen = p.argmax(axis=0)
            at_truth = np.take_along_axis(p, truth[None], axis=0)[0]
            # sum over classes of (p - y)^2 with y = 1 at the truth alone
            error = float((p**2).sum() + (1 - 2 * at_truth).sum())
            bins["classes"].append(count_bins(p.max(axis=0), chosen == truth, error))
    return {name: add_bins(parts) for name, parts in bins.items()}


def add_bins(parts: Iterable[CalibrationBins]) -> CalibrationBins:
    """The bins of all parts together."""
    parts = [_empty(), *parts]
    return CalibrationBins(
        voxels=np.sum([p.voxels for p in parts], axis=0),
        confidence=np.sum([p.confidence for p in parts], axis=0),
        true=np.sum([p.true for p in parts], axis=0),
        squared_error=float(sum(p.squared_error for p in parts)),
    )


def count_bins(
    confidence: Floats, true: npt.NDArray[np.bool_], squared_error: float, weights: Floats | None = None
) -> CalibrationBins:
    """Bins of voxels one by one.

    Args:
        confidence: `n`, 0 to 1.
        true: `n`, whether each is right (classes) or inside (region).
        squared_error: sum of the squared errors of their probabilities, weighted likewise.
        weights: `n`, voxels that each stands for, where they are a sample; None: itself.
    """
    inner = np.arange(1, NUM_BINS) / NUM_BINS
    numbers = np.searchsorted(inner, confidence, side="left")
    counted = np.ones(len(confidence)) if weights is None else weights
    return CalibrationBins(
        voxels=np.bincount(numbers, weights=counted, minlength=NUM_BINS).astype(np.float64),
        confidence=np.bincount(numbers, weights=counted * confidence, minlength=NUM_BINS).astype(np.float64),
        true=np.bincount(numbers, weights=counted * true, minlength=NUM_BINS).astype(np.float64),
        squared_error=squared_error,
    )


def expected_calibration_error(bins: CalibrationBins) -> float | None:
    """Mean over voxels of the gap of their bin, 0 to 1; None without any voxel."""
    total = bins.voxels.sum()
    return float(np.abs(bins.confidence - bins.true).sum() / total) if total else None


def brier_score(bins: CalibrationBins) -> float | None:
    """Mean squared error, 0 to 2 for classes, 0 to 1 for a region; None without any voxel."""
    total = bins.voxels.sum()
    return float(bins.squared_error / total) if total else None


def _pieces(
    probabilities: npt.NDArray[Any], reference: IntArray, labels: LabelScheme, mask: npt.NDArray[np.bool_] | None
) -> Iterator[tuple[Floats, npt.NDArray[np.int64]]]:
    """Probabilities `H n` and classes `n` of the voxels that count, a bounded number at a time."""
    flat, truth = probabilities.reshape(len(probabilities), -1), reference.reshape(-1)
    chosen = None if mask is None else mask.reshape(-1)
    for start in range(0, truth.size, _VOXELS_PER_PASS):
        part = slice(start, start + _VOXELS_PER_PASS)
        counted = np.ones(truth[part].shape, dtype=bool) if chosen is None else chosen[part]
        if labels.ignore_index is not None:
            counted = counted & (truth[part] != labels.ignore_index)
        yield flat[:, part][:, counted].astype(np.float64), truth[part][counted].astype(np.int64)


def _empty() -> CalibrationBins:
    return CalibrationBins(np.zeros(NUM_BINS), np.zeros(NUM_BINS), np.zeros(NUM_BINS), 0.0)
