"""Weighted tiles in the order of z in, finished rows of the whole volume out as soon as no later tile touches them.

Between the starts and ends of tiles along z lie blocks of rows that tiles cover whole. A block is made when the first
tile touches it and given away when the last one has: never more than about one patch of rows exists, however long the
volume is. The answers for one tile (in its mirrorings, of several networks) are averaged first and added once.

Sums are float32. nnU-Net's are float16, and round: a model that is to say what it says there (`tile_weights` of the
plan) sums in float16 too, tile by tile in the same order.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from autoseg.errors import ModelError
from autoseg.records.geometry import IntTriple


class Blend:
    """Sums of weighted tiles over the rows that are not finished."""

    def __init__(
        self,
        counts: Sequence[int],
        starts: Sequence[IntTriple],
        shape: IntTriple,
        weights: Tensor,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Begin with nothing.

        Args:
            counts: by how often each of the channels is added at a tile, once a head of every mirroring, for example.
            starts: of all tiles.
            shape: of the volume, z y x.
            weights: of a tile's voxels, `z y x`; sums live on its device.
            dtype: of the sums; the smallest weight must not vanish in it.
        """
        self.counts, self.shape, self.weights, self.dtype = tuple(counts), shape, weights, dtype
        edges = sorted({edge for start, _, _ in starts for edge in (start, start + len(weights))})
        self.blocks = list(itertools.pairwise(edges))
        self.sums: dict[int, Tensor] = {}
        """Start of a block -> channels and, last, the weights: `C + 1, n, Y, X`."""
        self.tile: Tensor | None = None
        """Sums of the tile that is not finished: `C z y x`, float32."""

    def add(self, values: Tensor, channel: int = 0) -> None:
        """Add `values` (`c z y x`) to the present tile's channels from `channel`."""
        if self.tile is None:
            self.tile = torch.zeros((len(self.counts), *values.shape[1:]), device=values.device)
        self.tile[channel : channel + len(values)] += values

    def finish(self, start: IntTriple) -> None:
        """The present tile, which begins at `start`, has all its answers: its weighted mean joins the sums."""
        assert self.tile is not None, "nothing was added to the tile"
        for total, count in zip(self.tile, self.counts, strict=True):
            total /= count
        weights = self.weights.to(self.tile.device)
        tile, self.tile = (self.tile * weights).to(self.weights.device), None
        z, y, x = start
        _, height, width = weights.shape
        for low, high in self.blocks:
            if high <= z or low >= z + len(weights):
                continue
            if low not in self.sums:
                shape = (len(self.counts) + 1, high - low, *self.shape[1:])
                self.sums[low] = torch.zeros(shape, device=tile.device, dtype=self.dtype)
            rows = slice(low - z, high - z)
            here = self.sums[low][:, :, y : y + height, x : x + width]
            here[:-1] += tile[:, rows]
            here[-1] += self.weights[rows]

    def take(self, next_z: int) -> list[tuple[int, Tensor]]:
        """Rows that end at or before `next_z`, where the next tile begins: start and means `C n Y X`, of `dtype`.

        Raises:
            ModelError: a mean is not finite.
        """
        done = []
        while self.blocks and self.blocks[0][1] <= next_z:
            start, _ = self.blocks.pop(0)
            sums = self.sums.pop(start)
            means, weights = sums[:-1], sums[-1]
            for mean in means:
                mean /= weights
            # Head by head: the check of all at once would need another block.
            if not torch.stack([torch.isfinite(mean).all() for mean in means]).all():
                raise ModelError("The network gives values that are not finite: its weights or the image are damaged.")
            done.append((start, means))
        return done
