"""Blending along z: the means of the whole volume, from no more rows at a time than a patch and a step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoseg.errors import ModelError
from autoseg.inference.blending import Blend
from autoseg.spatial.tiles import gaussian_weights, tile_starts


@given(st.integers(1, 23), st.integers(1, 7), st.sampled_from([0.3, 0.5, 0.75, 1.0]), st.integers(0, 99))
def test_rows_are_the_means_of_the_whole_volume(depth: int, patch_depth: int, step: float, seed: int) -> None:
    shape, patch = (max(depth, patch_depth), 5, 6), (patch_depth, 3, 4)
    generator = torch.Generator().manual_seed(seed)
    starts, weights = tile_starts(shape, patch, step), gaussian_weights(patch)
    tiles = [torch.randn((2, *patch), generator=generator) for _ in starts]
    total, seen = torch.zeros((2, *shape)), torch.zeros(shape)
    for (z, y, x), tile in zip(starts, tiles, strict=True):
        where = (slice(z, z + patch[0]), slice(y, y + patch[1]), slice(x, x + patch[2]))
        total[(slice(None), *where)] += tile * weights
        seen[where] += weights
    wanted = total / seen / torch.tensor([1.0, 3.0])[:, None, None, None]

    blend, rows, most = Blend([1, 3], starts, shape, weights), [], 0
    for start, tile in zip(starts, tiles, strict=True):
        rows += blend.take(start[0])
        blend.add(tile[:1])
        blend.add(tile[1:] / 2, 1)
        blend.add(tile[1:] / 2, 1)
        blend.finish(start)
        most = max(most, sum(block.shape[1] for block in blend.sums.values()))
    rows += blend.take(shape[0])
    assert [first for first, _ in rows] == [sum(part.shape[1] for _, part in rows[:i]) for i in range(len(rows))]
    torch.testing.assert_close(torch.cat([part for _, part in rows], 1), wanted, rtol=1e-4, atol=1e-5)
    assert most <= patch_depth
    assert not blend.sums


def test_values_that_are_not_finite_are_refused() -> None:
    blend = Blend([1], [(0, 0, 0)], (1, 1, 2), torch.ones(1, 1, 2))
    blend.add(torch.tensor([0.0, torch.inf]).view(1, 1, 1, 2))
    blend.finish((0, 0, 0))
    with pytest.raises(ModelError, match="not finite"):
        blend.take(1)


def test_sums_in_half_precision_round_tile_by_tile() -> None:
    """1024 + 0.5 is 1024 in float16 (its step there is 1), and 0.5 + 1024 too; float32 would give 1024.5."""
    starts, weights = [(0, 0, 0), (0, 0, 0)], torch.ones(1, 1, 1)
    for values in ((1024.0, 0.5), (0.5, 1024.0)):
        blend = Blend([1], starts, (1, 1, 1), weights, torch.float16)
        for start, value in zip(starts, values, strict=True):
            blend.add(torch.full((1, 1, 1, 1), value))
            blend.finish(start)
        ((_, rows),) = blend.take(1)
        assert rows.dtype == torch.float16
        assert rows.item() == 512
