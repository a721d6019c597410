"""An image and a target shape in, the image on that grid out, by cubic splines.

Resampling to another spacing is separable, so each axis is one small matrix: the operator that
`scipy.ndimage.zoom` applies, obtained by zooming the identity, spline prefilter and edge rule included. That
makes the result the one of skimage's order 3 (as nnU-Net calls it) to float32 rounding, as matrix products
that run on any device. A spline's influence falls by 0.268 a voxel, so blocks of output rows need
a narrow band of input rows only; and the volume passes in slabs, so beside input and result there is at most one
volume resampled in plane, and only where that is smaller than the input. skimage clips to the input's range,
since splines overshoot at edges; so does this.

Where one axis is much coarser than the others (nnU-Net's rule: more than three times), slices are resampled
one by one and the coarse axis takes the nearest slice. Logits: see `spatial.linear`; labels: `spatial.labels`.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from autoseg.records.geometry import IntTriple

ANISOTROPY_THRESHOLD = 3.0
"""Ratio of the coarsest to the finest spacing above which the coarsest axis is resampled by nearest slice."""

_NEGLIGIBLE_WEIGHT = 1e-8  # below float32 rounding of the sum it would enter
_BAND_ROWS = 64
_SLAB_VOXELS = 4 * 2**20  # 16 MiB of float32: stays near the caches; larger slabs were slower

Operator = npt.NDArray[np.float64]
SplineOrder = Literal[0, 1, 3]
Bands = list[tuple[slice, slice, torch.Tensor]]


def resampled_shape(shape: Sequence[int], before_mm: Sequence[float], after_mm: Sequence[float]) -> IntTriple:
    """Voxels z, y, x at spacing `after_mm` of a grid with `shape` at `before_mm`: rounded, at least one an axis."""
    z, y, x = (max(round(a / b * n), 1) for a, b, n in zip(before_mm, after_mm, shape, strict=True))
    return z, y, x


def separate_axis(before_mm: Sequence[float], after_mm: Sequence[float]) -> int | None:
    """The axis to be resampled by nearest slice, or None.

    nnU-Net's rule: if the spacing before (else: after) has a ratio of coarsest to finest above 3, its
    coarsest axis, provided only one axis is that coarse.
    """
    for spacing in (before_mm, after_mm):
        coarsest = max(spacing)
        if coarsest / min(spacing) > ANISOTROPY_THRESHOLD:
            axes = [i for i, s in enumerate(spacing) if s == coarsest]
            return axes[0] if len(axes) == 1 else None
    return None


def resample_image(
    image: torch.Tensor, shape: Sequence[int], separate: int | None = None, clip: bool = True
) -> torch.Tensor:
    """Resample with cubic splines.

    Args:
        image: float32, C Z Y X.
        shape: target voxels z, y, x.
        separate: axis (0 to 2) taken from the nearest slice instead; see `separate_axis`.
        clip: whether values are clipped to the input's range, of each channel, or of each slice with `separate`.

    Returns:
        float32, C and `shape`; `image` itself when it has that shape.
    """
    if tuple(image.shape[1:]) == tuple(shape):
        return image
    result = torch.empty((image.shape[0], *shape), dtype=torch.float32, device=image.device)
    for source, target in zip(image.float(), result, strict=True):
        if separate is None:
            _spline(source, target)
            if clip:
                target.clamp_(source.min(), source.max())
        else:
            _spline_slices(source.movedim(separate, 0), target.movedim(separate, 0), clip)
    return result


@lru_cache(maxsize=16)  # of the largest axes 8 MB each
def axis_operator(num_in: int, num_out: int, order: SplineOrder) -> Operator:
    """The matrix (num_out, num_in) that resamples one axis by a spline of `order` 0, 1 or 3; do not write to it.

    Voxels are cells (half-pixel centres) and values beyond the border equal the border's, as in skimage's
    `resize(mode="edge")`.
    """
    identity = np.eye(num_in)
    operator: Operator = ndimage.zoom(identity, (num_out / num_in, 1), order=order, mode="nearest", grid_mode=True)
    assert operator.shape == (num_out, num_in)
    operator.setflags(write=False)
    return operator


def _operators(before: Sequence[int], after: Sequence[int], orders: Sequence[SplineOrder]) -> list[Operator | None]:
    """One operator an axis; None where nothing changes."""
    triples = zip(before, after, orders, strict=True)
    return [None if n == m else axis_operator(n, m, order) for n, m, order in triples]


def _spline(source: torch.Tensor, target: torch.Tensor) -> None:
    """Fill `target` (Z Y X) with cubic values of `source`, in the order that keeps the volume between small."""
    along_z, *in_plane = _operators(source.shape, target.shape, (3, 3, 3))
    planes = [_bands(operator, source.device) for operator in in_plane]
    if target[0].numel() < source[0].numel():
        between = target.new_empty((source.shape[0], *target.shape[1:]))
        for where in _slabs(source.shape[0], source[0].numel()):
            between[where] = _resample_planes(source[where], planes)
        source, planes = between, [None, None]
    for where in _slabs(target.shape[0], max(source[0].numel(), target[0].numel())):
        target[where] = _resample_planes(_take_slices(source[None], along_z, where)[0], planes)


def _spline_slices(source: torch.Tensor, target: torch.Tensor, clip: bool) -> None:
    """Fill `target` (Z Y X) slice by slice with the nearest slice of `source`, cubic in plane."""
    along_z, *in_plane = _operators(source.shape, target.shape, (0, 3, 3))
    planes = [_bands(operator, source.device) for operator in in_plane]
    for where in _slabs(target.shape[0], max(source[0].numel(), target[0].numel())):
        nearest = _take_slices(source[None], along_z, where)[0]
        slab = _resample_planes(nearest, planes)
        if clip:
            slab = slab.clamp(nearest.amin((1, 2), keepdim=True), nearest.amax((1, 2), keepdim=True))
        target[where] = slab


def _slabs(num_slices: int, voxels_per_slice: int) -> list[slice]:
    step = max(_SLAB_VOXELS // voxels_per_slice, 1)
    return [slice(start, min(start + step, num_slices)) for start in range(0, num_slices, step)]


def _take_slices(volume: torch.Tensor, operator: Operator | None, where: slice) -> torch.Tensor:
    """Slices `where` of the target's z axis, C z Y X float32, from `volume` (C Z Y X)."""
    if operator is None:
        return volume[:, where].float()
    needed, weights = _band(operator, where, volume.device)
    stack = volume[:, needed].float().flatten(2)
    return torch.matmul(weights, stack).view(volume.shape[0], -1, *volume.shape[2:])


def _resample_planes(slices: torch.Tensor, planes: Sequence[Bands | None]) -> torch.Tensor:
    """Resample the last two axes of `slices` (N Y X), y first."""
    along_y, along_x = planes
    if along_y is not None:
        rows = slices.new_empty((slices.shape[0], along_y[-1][0].stop, slices.shape[2]))
        for there, needed, weights in along_y:
            rows[:, there] = torch.matmul(weights, slices[:, needed])
        slices = rows
    if along_x is not None:
        # One product over all rows of all slices: x is contiguous, so no copy is made.
        flat = slices.reshape(-1, slices.shape[2])
        columns = flat.new_empty((flat.shape[0], along_x[-1][0].stop))
        for there, needed, weights in along_x:
            torch.mm(flat[:, needed], weights.T, out=columns[:, there])
        slices = columns.view(*slices.shape[:2], -1)
    return slices


def _bands(operator: Operator | None, device: torch.device) -> Bands | None:
    """The operator in blocks of rows: (output rows, the input rows they depend on, weights)."""
    if operator is None:
        return None
    rows = [slice(start, min(start + _BAND_ROWS, len(operator))) for start in range(0, len(operator), _BAND_ROWS)]
    return [(there, *_band(operator, there, device)) for there in rows]


def _band(operator: Operator, there: slice, device: torch.device) -> tuple[slice, torch.Tensor]:
    block = operator[there]
    used = np.flatnonzero((np.abs(block) > _NEGLIGIBLE_WEIGHT).any(axis=0))
    needed = slice(int(used[0]), int(used[-1]) + 1)
    return needed, torch.tensor(block[:, needed], dtype=torch.float32, device=device)
