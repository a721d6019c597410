"""Weighted tiles in the order of z in, finished rows of the whole volume out as soon as no later tile touches them.

Between the starts and ends of tiles along z lie blocks of rows that tiles cover whole. A block is made when the first
tile touches it and given away, without a copy, when the last one has: never more than about one patch of rows exists,
however long the volume is. Sums stay float32: what is left to save is small, and float16 would change labels.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from autoseg.errors import ModelError
from autoseg.records.geometry import IntTriple


class Blend:
    """Sums of weighted tiles over the rows that are not finished."""

    def __init__(self, counts: Sequence[int], starts: Sequence[IntTriple], shape: IntTriple, weights: Tensor) -> None:
        """Begin with nothing.

        Args:
            counts: by how often each of the channels is added at a tile, once a head of every mirroring, for example.
            starts: of all tiles.
            shape: of the volume, z y x.
            weights: of a tile's voxels, `z y x`; sums live on its device.
        """
        self.counts, self.shape, self.weights = torch.tensor(counts, dtype=torch.float32), shape, weights
        edges = sorted({edge for start, _, _ in starts for edge in (start, start + len(weights))})
        self.blocks = list(itertools.pairwise(edges))
        self.sums: dict[int, Tensor] = {}
        """Start of a block -> channels and, last, the weights: `C + 1, n, Y, X`."""

    def add(self, start: IntTriple, values: Tensor, channel: int = 0) -> None:
        """Add weighted `values` (`c z y x`, on any device) of the tile at `start` to the channels from `channel`."""
        weighted = (values * self.weights.to(values.device)).to(self.weights.device)
        self._add(start, weighted, slice(channel, channel + len(values)))

    def add_weights(self, start: IntTriple) -> None:
        """Count the tile at `start`, once."""
        self._add(start, self.weights[None], slice(len(self.counts), len(self.counts) + 1))

    def take(self, next_z: int) -> list[tuple[int, Tensor]]:
        """Rows that end at or before `next_z`, where the next tile begins: start and means `C n Y X`.

        Raises:
            ModelError: a mean is not finite.
        """
        done = []
        while self.blocks and self.blocks[0][1] <= next_z:
            start, _ = self.blocks.pop(0)
            sums = self.sums.pop(start)
            means, weights = sums[:-1], sums[-1]
            for mean, count in zip(means, self.counts.tolist(), strict=True):
                mean /= weights * count
            # Head by head: the check of all at once would need another block.
            if not torch.stack([torch.isfinite(mean).all() for mean in means]).all():
                raise ModelError("The network gives values that are not finite: its weights or the image are damaged.")
            done.append((start, means))
        return done

    def _add(self, start: IntTriple, values: Tensor, channels: slice) -> None:
        z, y, x = start
        _, height, width = self.weights.shape
        end = z + len(self.weights)
        for low, high in self.blocks:
            if high <= z or low >= end:
                continue
            if low not in self.sums:
                plane = self.shape[1:]
                self.sums[low] = torch.zeros((len(self.counts) + 1, high - low, *plane), device=self.weights.device)
            part = values[:, low - z : high - z]
            self.sums[low][channels, :, y : y + height, x : x + width] += part
