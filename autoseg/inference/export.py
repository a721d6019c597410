"""Rows of logits on the network's grid in, labels or probabilities on the image file's own grid out.

Logits are resampled linearly and then decided (nnU-Net's order; deciding first loses thin structures), slab by
slab and head by head with a running maximum, straight into the array that will be written: memory does not
grow with classes x voxels of the file, and it is faster than an argmax over the class axis. Rows are taken as the
networks finish them, so not even on the network's grid all logits exist at a time.

Probabilities are kept as float16 on the box around everything nonzero, on the turned grid: configurations
of one plan share it, so their probabilities can be averaged there. Labels made from them are those made from the logits
but for ties of float16.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoseg.inference.labelling import logits_to_labels, logits_to_labels_into
from autoseg.records.geometry import IntTriple
from autoseg.records.labels import LabelScheme
from autoseg.records.results import PreprocessedCase
from autoseg.spatial.cropping import box_slices
from autoseg.spatial.linear import Window, linear_windows
from autoseg.spatial.orientation import Turn, turn
from autoseg.spatial.resampling import separate_axis
from autoseg.spatial.workers import Workers
from autoseg.storage.large_arrays import large_array

Labels = npt.NDArray[np.int16]
Probabilities = npt.NDArray[np.float16]
Disagreement = npt.NDArray[np.uint8]

# Voxels (of all heads) held in float32 at a time when stored probabilities are averaged.
_VALUES_PER_SLAB = 1 << 24
_MAX_CHUNK_ROWS = 16


def native_windows(parts: Iterable[Tensor], meta: PreprocessedCase, depth: int | None = None) -> Iterator[Window]:
    """Windows on the crop box of the turned grid before resampling.

    Args:
        parts: consecutive rows `C n Y X` on the network's grid, as `sliding_window.predict_rows` yields them.
        meta: how the case came onto that grid.
        depth: rows of a window; default: few enough for one head of a strip to stay near the caches.
    """
    axis = separate_axis(meta.spacing_mm, meta.spacing_before_mm)
    return linear_windows(parts, meta.shape, crop_shape(meta), axis, depth)


def probability_depth(num_heads: int, shape: IntTriple) -> int:
    """Rows of a window whose heads are resampled together, and of a chunk of stored probabilities `H z y x`."""
    return min(_slab_depth((num_heads, *shape)), _MAX_CHUNK_ROWS)


def blank_labels(meta: PreprocessedCase) -> tuple[Labels, Labels]:
    """Background `Z Y X` on exactly the grid of `meta.geometry`, and the view of it that is the crop box `z y x`."""
    native = large_array(meta.geometry.shape, np.int16)
    return native, turn(native, Turn(meta.axes, meta.flips))[box_slices(meta.crop)]


def head_values(window: Window, num_heads: int) -> Tensor:
    """Values `H z y x` (float32) of all heads of a window: head by head in strips, by several threads."""
    if window.device.type != "cpu":
        return window.values(slice(0, num_heads))
    found = torch.empty((num_heads, *window.shape))

    def fill(strip: Window) -> None:
        for head in range(num_heads):
            found[head, :, strip.down] = strip.values(slice(head, head + 1), scratch=workers.scratch)[0]

    with Workers() as workers:
        workers.each(fill, window.strips(), window.device)
    return found


def to_probabilities(logits: Tensor, labels: LabelScheme) -> Tensor:
    """Probabilities `H z y x` (softmax, or one sigmoid a region) as they are stored: float16 on the CPU."""
    return (torch.sigmoid(logits) if labels.has_regions else torch.softmax(logits, dim=0)).half().cpu()


def to_disagreement(window: Window, num_heads: int) -> Disagreement | None:
    """Disagreement of mirrorings `z y x` in a window as stored: 255 for 1, steps of 0.004 are finer than it is known.

    None where nothing is mirrored: there is no channel after the heads.
    """
    if window.num_channels == num_heads:
        return None
    values = window.values(slice(num_heads, num_heads + 1))[0]
    stored: Disagreement = (values * 255).round_().clamp_(0, 255).byte().cpu().numpy()
    return stored


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
    probabilities: Iterable[Tensor], coarse: PreprocessedCase, fine: PreprocessedCase, labels: LabelScheme
) -> Labels:
    """A coarse stage's answer on the grid of the stage after it (cascade).

    Args:
        probabilities: consecutive rows `H n y x` of the coarse stage's, on the crop box of the turned grid.
        coarse: how the case came onto the coarse grid.
        fine: how it came onto the fine grid; the same crop.
        labels: scheme of the heads.

    Returns:
        `Z Y X` int16 internal class numbers of shape `fine.shape`.
    """
    assert coarse.crop == fine.crop, f"{fine.id}: the stages of a cascade must share one crop"
    found: Labels = large_array(fine.shape, np.int16)
    axis = separate_axis(fine.spacing_before_mm, fine.spacing_mm)
    with Workers() as workers:
        for window in linear_windows(probabilities, crop_shape(coarse), fine.shape, axis):
            logits_to_labels_into(found, window, labels, 0.5, workers)
    return found


def mean_to_labels(probabilities: Sequence[Tensor], labels: LabelScheme) -> Tensor:
    """Classes `z y x` (int16) of the mean of probabilities `H z y x`, averaged in float32."""
    total = probabilities[0].float()
    for other in probabilities[1:]:
        total = total + other.float()
    return logits_to_labels(total, labels, threshold=0.5 * len(probabilities))


def crop_shape(meta: PreprocessedCase) -> IntTriple:
    """Voxels of the crop box on the turned grid before resampling."""
    z, y, x = (stop - start for start, stop in meta.crop)
    return (z, y, x)


def uncrop(cropped: npt.NDArray[np.int16], meta: PreprocessedCase) -> Labels:
    """Labels `z y x` of the crop box on the turned grid, put on the image file's own grid `Z Y X`."""
    native, inside = blank_labels(meta)
    inside[...] = cropped
    return native


def slabs(shape: Sequence[int]) -> Iterator[slice]:
    """Slices along z of an array `H z y x`, each of a bounded number of values."""
    depth = _slab_depth(shape)
    for start in range(0, shape[1], depth):
        yield slice(start, min(start + depth, shape[1]))


def _slab_depth(shape: Sequence[int]) -> int:
    return min(shape[1], max(1, _VALUES_PER_SLAB // max(1, shape[0] * shape[2] * shape[3])))
