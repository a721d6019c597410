"""A tensor and a target shape in, the tensor on that grid out: images cubic, logits linear.

Resampling to another spacing is separable, so each axis is one small matrix: the operator that
`scipy.ndimage.zoom` applies, obtained by zooming the identity, spline prefilter and edge rule included. That
makes the result the one of skimage's order 3 (as nnU-Net calls it) to float32 rounding, as matrix products
that run on any device. A spline's influence falls by 0.268 a voxel, so blocks of output rows need
a narrow band of input rows only; and the volume passes in slabs, so beside input and result there is no third volume,
and the input may be one that is made where it is read (`Source`). skimage clips to the input's range,
since splines overshoot at edges; so does this.

Where one axis is much coarser than the others (nnU-Net's rule: more than three times), slices are resampled
one by one and the coarse axis takes the nearest slice. Labels: see `spatial.labels`.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from autoseg.records.geometry import IntTriple

ANISOTROPY_THRESHOLD = 3.0
"""Ratio of the coarsest to the finest spacing above which the coarsest axis is resampled by nearest slice."""

_NEGLIGIBLE_WEIGHT = 1e-8  # below float32 rounding of the sum it would enter
_BAND_ROWS = 64
_WINDOW_VOXELS = 2**20  # 4 MiB of float32: the head being resampled, the best one and the classes stay in the caches
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


class Source(NamedTuple):
    """A volume that is read box by box and never held: normalised from a file's own type, for example."""

    shape: IntTriple
    read: Callable[[tuple[slice, slice, slice]], torch.Tensor]
    """A box in, its values out: float32 Z Y X, rows of x contiguous."""
    limits: Callable[[], tuple[float, float]]
    """Its smallest and largest value."""
    is_held: bool = False
    """Whether it is in memory after all, so that reading a row twice costs nothing."""


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
        resample_into(target, _in_memory(source), separate, clip)
    return result


def resample_into(target: torch.Tensor, source: Source, separate: int | None = None, clip: bool = True) -> None:
    """Fill `target` (float32 Z Y X) with what `resample_image` makes of a channel; of the same shape: as it is."""
    if tuple(target.shape) == source.shape:
        everything = (slice(None), slice(None))
        for where in _slabs(source.shape[0], target[0].numel()):
            target[where] = source.read((where, *everything))
    elif separate is None:
        _spline(source, target)
        if clip:
            target.clamp_(*source.limits())
    else:
        _spline_slices(source, target, separate, clip)


def _in_memory(channel: torch.Tensor) -> Source:
    """A channel `Z Y X` as a source."""
    z, y, x = channel.shape
    return Source((z, y, x), lambda box: channel[box], lambda: (float(channel.min()), float(channel.max())), True)


class Window(NamedTuple):
    """The rows of a volume that a slab of the resampled one is made of."""

    where: slice
    """Rows of the slab along the target's z axis."""
    rows: torch.Tensor
    """`C n Y X`: the source's rows that it depends on, as they came."""
    along_z: torch.Tensor | None
    """Weights `(rows of the slab, n)`; None: z is not resampled."""
    planes: tuple["Bands | None", "Bands | None"]
    """Operators of y and x."""
    block: int
    """Channels that stay near the caches when they are resampled together."""

    def values(self, channels: slice = slice(None)) -> torch.Tensor:
        """The slab's values `c z y x` (float32) of some channels: a block of them at a time needs little memory."""
        rows = self.rows[channels].float()
        if self.along_z is not None:
            rows = torch.matmul(self.along_z, rows.flatten(2)).view(len(rows), -1, *rows.shape[2:])
        flat = _resample_planes(rows.reshape(-1, *rows.shape[2:]), self.planes)
        return flat.view(len(rows), -1, *flat.shape[1:])


def linear_windows(
    parts: Iterable[torch.Tensor],
    before: Sequence[int],
    shape: Sequence[int],
    separate: int | None = None,
    depth: int | None = None,
) -> Iterator[Window]:
    """Resample a volume linearly that arrives in parts along z, none of which is kept longer than needed.

    Args:
        parts: consecutive rows `C n Y X` of the volume, all `before[0]` of them in the end.
        before: shape z, y, x of the whole volume.
        shape: target voxels z, y, x.
        separate: as in `resample_image`.
        depth: rows of a slab; default: few enough for one channel to stay near the caches.

    Yields:
        Windows in the order of z; resampling itself is left to `Window.values`.
    """
    orders: list[SplineOrder] = [0 if axis == separate else 1 for axis in range(3)]
    along_z, along_y, along_x = _operators(before, shape, orders)
    step = depth or linear_depth(1, before, shape)
    block = max(1, linear_depth(1, before, shape) // step)
    waiting, planes = iter(parts), None
    held: list[torch.Tensor] = []  # begins at the source's row `first`
    first = 0
    for start in range(0, shape[0], step):
        where = slice(start, min(start + step, shape[0]))
        needed, weights = (where, None) if along_z is None else _band(along_z, where, torch.device("cpu"))
        while first + sum(part.shape[1] for part in held) < needed.stop:
            held.append(next(waiting))
        while first + held[0].shape[1] <= needed.start:
            first += held.pop(0).shape[1]
        if planes is None:
            planes = (_bands(along_y, held[0].device), _bands(along_x, held[0].device))
        rows = _rows(held, needed.start - first, needed.stop - first)
        yield Window(where, rows, None if weights is None else weights.to(rows.device), planes, block)
    num_rows = first + sum(part.shape[1] for part in itertools.chain(held, waiting))  # some may be nobody's nearest
    assert num_rows == before[0], f"{num_rows} rows came, the volume has {before[0]}"


def _rows(parts: Sequence[torch.Tensor], start: int, stop: int) -> torch.Tensor:
    """Rows from `start` to `stop` of consecutive parts `C n Y X`, a view where they lie in one."""
    pieces = []
    for part in parts:
        if start < part.shape[1] and stop > 0:
            pieces.append(part[:, max(start, 0) : stop])
        start, stop = start - part.shape[1], stop - part.shape[1]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)


def linear_depth(num_channels: int, before: Sequence[int], shape: Sequence[int]) -> int:
    """Rows of a slab with which `num_channels` resampled together stay near the caches; at least one."""
    return max(1, _WINDOW_VOXELS // (num_channels * max(before[1] * before[2], shape[1] * shape[2])))


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


def _spline(source: Source, target: torch.Tensor) -> None:
    """Fill `target` (Z Y X) with cubic values of `source`, in the order that keeps the volume between small."""
    along_z, *in_plane = _operators(source.shape, target.shape, (3, 3, 3))
    planes: list[Bands | None] = [_bands(operator, target.device) for operator in in_plane]
    read, voxels = _kept_rows(source, 0), source.shape[1] * source.shape[2]
    if target[0].numel() < voxels:
        read, planes, voxels = _rising(_in_plane(source, planes)), [None, None], target[0].numel()
    for where in _slabs(target.shape[0], max(voxels, target[0].numel())):
        target[where] = _resample_planes(_take_slices(read, along_z, where, target.device), planes)


def _in_plane(source: Source, planes: Sequence[Bands | None]) -> Iterator[torch.Tensor]:
    """The slices of a source, resampled in plane alone, in parts."""
    for where in _slabs(source.shape[0], source.shape[1] * source.shape[2]):
        yield _resample_planes(_rows_of(source, 0, where), planes)


def _spline_slices(source: Source, target: torch.Tensor, separate: int, clip: bool) -> None:
    """Fill `target` (Z Y X) slice by slice across `separate` with the nearest slice of `source`, cubic in plane."""
    moved = [separate, *(axis for axis in range(3) if axis != separate)]
    before, target = [source.shape[axis] for axis in moved], target.movedim(separate, 0)
    along_z, *in_plane = _operators(before, target.shape, (0, 3, 3))
    planes = [_bands(operator, target.device) for operator in in_plane]
    read = _kept_rows(source, separate)
    for where in _slabs(target.shape[0], max(before[1] * before[2], target[0].numel())):
        nearest = _take_slices(read, along_z, where, target.device)
        slab = _resample_planes(nearest, planes)
        if clip:
            slab = slab.clamp(nearest.amin((1, 2), keepdim=True), nearest.amax((1, 2), keepdim=True))
        target[where] = slab


def _rows_of(source: Source, axis: int, where: slice) -> torch.Tensor:
    """Rows along an axis, which comes first."""
    everything = slice(None)
    box = (where, everything, everything), (everything, where, everything), (everything, everything, where)
    return source.read(box[axis]).movedim(axis, 0)


def _kept_rows(source: Source, axis: int) -> Callable[[slice], torch.Tensor]:
    """A reader of rows along an axis, for slices that rise: rows that two of them share are read once."""
    held, first = torch.empty(0), 0

    def read_once(where: slice) -> torch.Tensor:
        nonlocal held, first
        known = held[where.start - first :][: where.stop - where.start] if first <= where.start else held[:0]
        start = where.start + len(known)
        if start == where.stop:
            return known
        fresh = _rows_of(source, axis, slice(start, where.stop))
        held, first = (torch.cat([known, fresh]) if len(known) else fresh), where.start
        return held

    return (lambda where: _rows_of(source, axis, where)) if source.is_held else read_once


def _rising(parts: Iterable[torch.Tensor]) -> Callable[[slice], torch.Tensor]:
    """A reader of a volume that comes in parts along z, for slices that rise: rows before the last one are let go."""
    waiting, held, first = iter(parts), torch.empty(0), 0

    def read(where: slice) -> torch.Tensor:
        nonlocal held, first
        while first + len(held) < where.stop:
            gone = min(max(where.start - first, 0), len(held))
            part = next(waiting)
            held, first = (torch.cat([held[gone:], part]) if gone < len(held) else part), first + gone
        return held[where.start - first : where.stop - first]

    return read


def _slabs(num_slices: int, voxels_per_slice: int) -> list[slice]:
    step = max(_SLAB_VOXELS // voxels_per_slice, 1)
    return [slice(start, min(start + step, num_slices)) for start in range(0, num_slices, step)]


def _take_slices(
    read: Callable[[slice], torch.Tensor], operator: Operator | None, where: slice, device: torch.device
) -> torch.Tensor:
    """Slices `where` of the target's z axis, z y x float32, from a reader of the source's."""
    if operator is None:
        return read(where)
    needed, weights = _band(operator, where, device)
    rows = read(needed)
    return torch.matmul(weights, rows[None].flatten(2)).view(-1, *rows.shape[1:])


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
