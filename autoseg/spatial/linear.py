"""A volume that arrives in parts along z in, the same volume on another grid out, in windows: linear resampling.

Logits are resampled linearly: each voxel of the target lies between two voxels of the source along each axis (`Taps`).
Such a pair is two copies of whole rows and one multiplication, which is several times faster than a matrix product
that has two entries a row. The volume passes in windows along z, which are cut into strips along y, small enough
to stay in the caches, and no part of the source is kept longer than needed.

With one axis much coarser than the others (`resampling.separate_axis`) that axis takes the nearest slice.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from autoseg.records.geometry import IntTriple
from autoseg.spatial.resampling import SplineOrder, axis_operator

_NO_WEIGHT = 1e-9  # weights below this are none: operators are exact to float64 rounding
_STRIP_VOXELS = 2**18  # 1 MiB of float32: the head being resampled, the best one and the classes stay in the caches


class Taps(NamedTuple):
    """Where the voxels of one axis of the target lie in the source."""

    lower: Tensor
    """Index of the source's voxel before each, int64, rising."""
    upper: Tensor
    """Index of the voxel after it; `lower` again where a voxel has only one."""
    weight: Tensor
    """Weight of `upper`, float64 (float32 of a window); that of `lower` is the rest to one. With one voxel: 1."""
    paired: bool
    """Whether any voxel lies between two."""

    def part(self, where: slice) -> "tuple[slice, Taps]":
        """The source's voxels that a range of the target depends on, and the taps of that range counted from them."""
        here = self.among(where)
        needed = slice(int(here.lower[0]), int(here.upper[-1]) + 1)
        return needed, here._replace(lower=here.lower - needed.start, upper=here.upper - needed.start)

    def among(self, where: slice) -> "Taps":
        """The taps of a range of the target."""
        return Taps(self.lower[where], self.upper[where], self.weight[where], self.paired)

    def to(self, device: torch.device) -> "Taps":
        """The same on a device."""
        return Taps(self.lower.to(device), self.upper.to(device), self.weight.to(device), self.paired)


def axis_taps(num_in: int, num_out: int, order: SplineOrder) -> Taps:
    """Taps of one axis by `order` 1 (linear) or 0 (nearest), on the CPU; the rule is `resampling.axis_operator`'s."""
    if num_in == num_out:
        index = torch.arange(num_in)
        return Taps(index, index, torch.ones(num_in, dtype=torch.float64), paired=False)
    operator = torch.tensor(axis_operator(num_in, num_out, order))
    used = (operator > _NO_WEIGHT).to(torch.uint8)
    lower = used.argmax(1)
    upper = num_in - 1 - used.flip(1).argmax(1)
    weight = operator.gather(1, upper[:, None]).squeeze(1)
    return Taps(lower, upper, weight, paired=not torch.equal(lower, upper))


def _single(taps: Taps) -> Taps:
    """With weights in float32, as logits are; Apple's GPUs have nothing wider."""
    return taps._replace(weight=taps.weight.float())


class Scratch:
    """Memory that is used again and again: fresh pages cost about as much time as what is computed in them.

    `Window.values` uses the names "even", "odd" (where values come to lie) and "spare".
    """

    def __init__(self) -> None:
        self.buffers: dict[str, Tensor] = {}

    def take(self, name: str, shape: Sequence[int], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor whose values are arbitrary; it is the last one's memory that was taken by this name."""
        size = math.prod(shape)
        if name not in self.buffers or len(self.buffers[name]) < size:
            self.buffers[name] = torch.empty(size, dtype=dtype, device=device)
        return self.buffers[name][:size].view(*shape)


class Window(NamedTuple):
    """A slab of the resampled volume, or a strip of one, and the rows of the source that it is made of."""

    where: slice
    """Its rows along the target's z axis."""
    down: slice
    """Its rows along the target's y axis."""
    parts: tuple[Tensor, ...]
    """`C n Y X`, consecutive along z: what it depends on of the source, as it came."""
    taps: tuple[Taps | None, Taps | None, Taps | None]
    """Along z, y, x, counted from the first voxel of `parts`; None: not resampled."""

    @property
    def num_channels(self) -> int:
        """Channels of the source."""
        return len(self.parts[0])

    @property
    def num_bytes(self) -> int:
        """Bytes of the source's rows that it is made of."""
        return sum(part.numel() * part.element_size() for part in self.parts)

    @property
    def shape(self) -> IntTriple:
        """Voxels z, y, x of the target."""
        across = self.parts[0].shape[3] if self.taps[2] is None else len(self.taps[2].lower)
        return self.where.stop - self.where.start, self.down.stop - self.down.start, across

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        return self.parts[0].device

    def strips(self) -> "Iterator[Window]":
        """The same along y in strips that stay near a CPU's caches; other devices do best with all at once."""
        depth, height, width = self.shape
        step = _strip_height(depth, width)
        if self.device.type != "cpu" or step >= height:
            yield self
            return
        for start in range(0, height, step):
            down = slice(start, min(start + step, height))
            needed, taps = (down, None) if self.taps[1] is None else self.taps[1].part(down)
            shifted = slice(self.down.start + down.start, self.down.start + down.stop)
            parts = tuple(part[:, :, needed] for part in self.parts)
            yield Window(self.where, shifted, parts, (self.taps[0], taps, self.taps[2]))

    def bounds(self, num_channels: int) -> tuple[Tensor, Tensor]:
        """Smallest and largest value `C x` (float32) that the first channels take in each column of the source.

        No value of `values` in that column of the target lies outside, but for float32 rounding.
        """
        low = torch.stack([part[:num_channels].amin(1).amin(1) for part in self.parts]).amin(0).float()
        high = torch.stack([part[:num_channels].amax(1).amax(1) for part in self.parts]).amax(0).float()
        if (taps := self.taps[2]) is None:
            return low, high
        ends = [(one.index_select(1, taps.lower), one.index_select(1, taps.upper)) for one in (low, high)]
        return torch.minimum(*ends[0]), torch.maximum(*ends[1])

    def values(
        self,
        channels: slice = slice(None),
        across: slice = slice(None),
        minus: int | None = None,
        scratch: Scratch | None = None,
    ) -> Tensor:
        """Values `c z y x` (float32) of the window.

        Args:
            channels: of the source.
            across: columns along x of the target.
            minus: the values of this channel are subtracted, which takes a difference of the source's only.
            scratch: where they lie, until it is used again; default: in memory of their own.
        """
        scratch = scratch or Scratch()
        values = self._together(channels, across if self.taps[2] is None else slice(None), minus, scratch)
        # Axes that shrink first, then x, along which rows have to be picked apart: while the volume is small.
        resampled = [(axis, taps) for axis, taps in enumerate(self.taps) if taps is not None]
        resampled.sort(key=lambda one: (len(one[1].lower) >= values.shape[one[0] + 1], -one[0]))
        for turn, (axis, taps) in enumerate(resampled):
            here = taps.among(across) if axis == 2 else taps
            values = _between(values, axis + 1, here, scratch, ("even", "odd")[turn % 2])
        return values

    def _together(self, channels: slice, across: slice, minus: int | None, scratch: Scratch) -> Tensor:
        """The parts put together, contiguous."""
        pieces = [part[channels][..., across] for part in self.parts]
        depth = sum(piece.shape[1] for piece in pieces)
        source, start = scratch.take("odd", (len(pieces[0]), depth, *pieces[0].shape[2:]), self.device), 0
        for piece, part in zip(pieces, self.parts, strict=True):
            rows = source[:, start : start + piece.shape[1]]
            start += piece.shape[1]
            if minus is None:
                rows.copy_(piece)
            else:
                torch.sub(piece.float(), part[minus, ..., across].float(), out=rows)
        return source


def _between(values: Tensor, axis: int, taps: Taps, scratch: Scratch, name: str) -> Tensor:
    """Resample one axis of contiguous `values` into the scratch memory of a name."""
    before, after = values.shape[:axis], values.shape[axis + 1 :]
    inner = (math.prod(after),) if after else ()  # copying columns is fast in two dimensions only
    flat = values.view(math.prod(before), -1, *inner)
    shape = (len(flat), len(taps.lower), *inner)
    lower = torch.index_select(flat, 1, taps.lower, out=scratch.take(name, shape, values.device))
    if taps.paired:
        upper = torch.index_select(flat, 1, taps.upper, out=scratch.take("spare", shape, values.device))
        lower.lerp_(upper, taps.weight.view(-1, *(1 for _ in inner)))
    return lower.view(*before, -1, *after)


def linear_windows(
    parts: Iterable[Tensor],
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
        separate: as in `resampling.resample_into`.
        depth: rows of a window; default: as many as a strip of it is high.

    Yields:
        Windows in the order of z; resampling itself is left to `Window.values`.
    """
    orders: list[SplineOrder] = [0 if axis == separate else 1 for axis in range(3)]
    triples = zip(before, shape, orders, strict=True)
    along_z, *in_plane = (None if n == m else _single(axis_taps(n, m, order)) for n, m, order in triples)
    step = depth or _window_depth(shape[2])
    waiting = iter(parts)
    held: list[Tensor] = []  # begins at the source's row `first`
    first = 0
    for start in range(0, shape[0], step):
        where = slice(start, min(start + step, shape[0]))
        needed, taps = (where, None) if along_z is None else along_z.part(where)
        while first + sum(part.shape[1] for part in held) < needed.stop:
            held.append(next(waiting))
        while first + held[0].shape[1] <= needed.start:
            first += held.pop(0).shape[1]
        device = held[0].device
        along_y, along_x = (None if one is None else one.to(device) for one in in_plane)
        rows = _rows(held, needed.start - first, needed.stop - first)
        yield Window(where, slice(0, shape[1]), rows, (None if taps is None else taps.to(device), along_y, along_x))
    num_rows = first + sum(part.shape[1] for part in itertools.chain(held, waiting))  # some may be nobody's nearest
    assert num_rows == before[0], f"{num_rows} rows came, the volume has {before[0]}"


def largest_strip(before: IntTriple, shape: IntTriple) -> tuple[IntTriple, IntTriple]:
    """Voxels z, y, x of the source and of the target that a strip has at most, in windows of the default depth."""
    depth = min(shape[0], _window_depth(shape[2]))
    height = min(shape[1], _strip_height(depth, shape[2]))
    z, y = (min(n, rows * n // m + 3) for n, m, rows in zip(before, shape, (depth, height), strict=False))
    return (z, y, before[2]), (depth, height, shape[2])


def _window_depth(width: int) -> int:
    """Rows of a window: as many as a strip of it is high."""
    return math.isqrt(max(1, _STRIP_VOXELS // width))


def _strip_height(depth: int, width: int) -> int:
    return max(1, _STRIP_VOXELS // (depth * width))


def _rows(parts: Sequence[Tensor], start: int, stop: int) -> tuple[Tensor, ...]:
    """Rows from `start` to `stop` of consecutive parts `C n Y X`, as views of the parts they lie in."""
    pieces = []
    for part in parts:
        if start < part.shape[1] and stop > 0:
            pieces.append(part[:, max(start, 0) : stop])
        start, stop = start - part.shape[1], stop - part.shape[1]
    return tuple(pieces)
