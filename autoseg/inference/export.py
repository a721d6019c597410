"""Logits on the network's grid in, labels or probabilities on the image file's own grid out.

Logits are resampled linearly and then decided (nnU-Net's order; deciding first loses thin structures), slab by
slab: a running maximum over the heads keeps one slab of a few heads at a time, so that memory does not grow
with classes x voxels of the file, and is faster than an argmax over the class axis.

Probabilities are kept as float16 on the box around everything nonzero, on the turned grid: configurations
of one plan share it, so their probabilities can be averaged there. Labels made from them are those made from the logits
but for ties of float16.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoseg.records.geometry import IntTriple
from autoseg.records.labels import LabelScheme
from autoseg.records.results import PreprocessedCase
from autoseg.spatial.cropping import box_slices
from autoseg.spatial.orientation import Turn, turn_back
from autoseg.spatial.resampling import resample_linear_slabs, separate_axis

Labels = npt.NDArray[np.int16]
Probabilities = npt.NDArray[np.float16]
Disagreement = npt.NDArray[np.uint8]
WatchSlab = Callable[[slice, Tensor], None]

# Voxels (of all heads) held in float32 at a time when stored probabilities are averaged.
_VALUES_PER_SLAB = 1 << 24


def to_native_labels(
    logits: Tensor, meta: PreprocessedCase, labels: LabelScheme, watch: WatchSlab | None = None
) -> Labels:
    """Labels of the image file's own grid.

    Args:
        logits: `H Z Y X` on the network's grid, on any device.
        meta: how the case came onto that grid.
        labels: scheme of the heads.
        watch: is shown the rows along z and the probabilities `H rows y x` (float16, on the CPU) of each slab.

    Returns:
        `Z Y X` int16 internal class numbers on exactly the grid of `meta.geometry`, background outside the crop.
    """
    cropped = np.empty(crop_shape(meta), dtype=np.int16)
    for where, slab in _resampled(logits, meta):
        cropped[where] = decide(slab, labels, threshold=0.0).cpu().numpy()
        if watch is not None:
            watch(where, _probabilities(slab, labels).half().cpu())
    return uncrop(cropped, meta)


def to_native_probabilities(logits: Tensor, meta: PreprocessedCase, labels: LabelScheme) -> Probabilities:
    """Probabilities (softmax, or one sigmoid a region) of the resampled logits.

    Args:
        logits: `H Z Y X` on the network's grid, on any device.
        meta: how the case came onto that grid.
        labels: scheme of the heads.

    Returns:
        `H z y x` float16 on the crop box `meta.crop` of the turned grid.
    """
    probabilities = np.empty((len(logits), *crop_shape(meta)), dtype=np.float16)
    for where, slab in _resampled(logits, meta):
        probabilities[:, where] = _probabilities(slab, labels).half().cpu().numpy()
    return probabilities


def to_native_disagreement(disagreement: Tensor, meta: PreprocessedCase) -> Disagreement:
    """Disagreement of mirrorings, `Z Y X` from 0 to 1 on the network's grid, resampled linearly.

    Returns:
        `z y x` uint8 on the crop box of the turned grid, 255 for 1: steps of 0.004 are finer than it is known.
    """
    native = np.empty(crop_shape(meta), dtype=np.uint8)
    for where, slab in _resampled(disagreement[None], meta):
        native[where] = slab[0].mul(255).round_().clamp_(0, 255).byte().cpu().numpy()
    return native


def labels_from_probabilities(
    probabilities: Sequence[Probabilities], meta: PreprocessedCase, labels: LabelScheme
) -> Labels:
    """Labels of the image file's own grid from the mean of one or more probability volumes.

    Args:
        probabilities: each `H z y x` on the crop box of the turned grid, one a configuration.
        meta: of any of the configurations (they share the crop and the turn).
        labels: scheme of the heads.

    Returns:
        `Z Y X` int16 internal class numbers on the grid of `meta.geometry`.
    """
    return uncrop(classes_from_probabilities(probabilities, labels), meta)


def classes_from_probabilities(probabilities: Sequence[Probabilities], labels: LabelScheme) -> Labels:
    """Internal class numbers `z y x`, still on the crop box, from the mean of probability volumes `H z y x`."""
    cropped = np.empty(probabilities[0].shape[1:], dtype=np.int16)
    for where in slabs(probabilities[0].shape):
        cropped[where] = decide_mean([torch.from_numpy(p[:, where]) for p in probabilities], labels).numpy()
    return cropped


def mean_probabilities(probabilities: Sequence[Probabilities]) -> Probabilities:
    """Mean of probability volumes `H z y x`, averaged in float32 slab by slab."""
    if len(probabilities) == 1:
        return probabilities[0]
    mean = np.empty_like(probabilities[0])
    for where in slabs(mean.shape):
        total = sum(p[:, where].astype(np.float32) for p in probabilities)
        mean[:, where] = total / len(probabilities)
    return mean


def mean_disagreement(disagreements: Sequence[Disagreement | None]) -> Disagreement | None:
    """Mean of the disagreements `z y x` of those models that mirror; None when none does."""
    known = [d for d in disagreements if d is not None]
    if len(known) < 2:
        return known[0] if known else None
    total = np.zeros(known[0].shape, dtype=np.float32)
    for disagreement in known:
        total += disagreement
    mean: Disagreement = np.rint(total / len(known)).astype(np.uint8)
    return mean


def previous_stage_labels(
    probabilities: Probabilities, coarse: PreprocessedCase, fine: PreprocessedCase, labels: LabelScheme
) -> Labels:
    """A coarse stage's answer on the grid of the stage after it (cascade).

    Args:
        probabilities: `H z y x` of the coarse stage, on the crop box of the turned grid.
        coarse: how the case came onto the coarse grid.
        fine: how it came onto the fine grid; the same crop.
        labels: scheme of the heads.

    Returns:
        `Z Y X` int16 internal class numbers of shape `fine.shape`.
    """
    assert coarse.crop == fine.crop, f"{fine.id}: the stages of a cascade must share one crop"
    found = np.empty(fine.shape, dtype=np.int16)
    axis = separate_axis(fine.spacing_before_mm, fine.spacing_mm)
    for where, slab in resample_linear_slabs(torch.from_numpy(probabilities), fine.shape, axis):
        found[where] = decide(slab, labels, threshold=0.5).numpy()
    return found


def decide_mean(probabilities: Sequence[Tensor], labels: LabelScheme) -> Tensor:
    """Classes `z y x` (int16) of the mean of probabilities `H z y x`, averaged in float32."""
    total = probabilities[0].float()
    for other in probabilities[1:]:
        total = total + other.float()
    return decide(total, labels, threshold=0.5 * len(probabilities))


def decide(values: Tensor, labels: LabelScheme, threshold: float) -> Tensor:
    """The class of each voxel.

    Args:
        values: logits or probabilities `H z y x`.
        labels: scheme; without regions the head with the largest value wins, the first of equals; with regions the
            heads above `threshold` are painted in `region_order`, later over earlier.
        threshold: 0 for logits, 0.5 for probabilities.

    Returns:
        `z y x` int16 internal class numbers.
    """
    found = torch.zeros(values.shape[1:], dtype=torch.int16, device=values.device)
    if labels.has_regions:
        for region, painted in zip(values, labels.region_order, strict=True):
            found.masked_fill_(region > threshold, painted)
        return found
    best = values[0].clone()
    for number in range(1, len(values)):
        larger = values[number] > best
        found.masked_fill_(larger, number)
        torch.maximum(best, values[number], out=best)
    return found


def crop_shape(meta: PreprocessedCase) -> IntTriple:
    """Voxels of the crop box on the turned grid before resampling."""
    z, y, x = (stop - start for start, stop in meta.crop)
    return (z, y, x)


def uncrop(cropped: npt.NDArray[np.int16], meta: PreprocessedCase) -> Labels:
    """Labels `z y x` of the crop box on the turned grid, put on the image file's own grid `Z Y X`."""
    whole = np.zeros(meta.shape_before_crop, dtype=np.int16)
    whole[box_slices(meta.crop)] = cropped
    return np.ascontiguousarray(turn_back(whole, Turn(meta.axes, meta.flips)))


def slabs(shape: Sequence[int]) -> Iterator[slice]:
    """Slices along z of an array `H z y x`, each of a bounded number of values."""
    depth = max(1, _VALUES_PER_SLAB // max(1, shape[0] * shape[2] * shape[3]))
    for start in range(0, shape[1], depth):
        yield slice(start, min(start + depth, shape[1]))


def _probabilities(logits: Tensor, labels: LabelScheme) -> Tensor:
    return torch.sigmoid(logits) if labels.has_regions else torch.softmax(logits, dim=0)


def _resampled(logits: Tensor, meta: PreprocessedCase) -> Iterator[tuple[slice, Tensor]]:
    """Slabs of the logits on the crop box before resampling."""
    return resample_linear_slabs(logits, crop_shape(meta), separate_axis(meta.spacing_mm, meta.spacing_before_mm))
