import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.spatial.tiles import gaussian_weights, nnunet_weights, tile_starts

sides = st.integers(1, 30)


@settings(max_examples=80, deadline=None)
@given(st.tuples(sides, sides, sides), st.tuples(sides, sides, sides), st.sampled_from([0.25, 0.5, 0.7, 1.0]))
def test_tiles_cover_every_voxel_and_stay_inside(shape, patch, step):
    covered = np.zeros(shape, dtype=bool)
    starts = tile_starts(shape, patch, step)
    assert len(set(starts)) == len(starts)
    for start in starts:
        covered[tuple(slice(a, a + p) for a, p in zip(start, patch, strict=True))] = True
        assert all(a + p <= max(s, p) for a, p, s in zip(start, patch, shape, strict=True))
    assert covered.all()


def test_by_hand():
    assert tile_starts((10, 4, 3), (4, 4, 8)) == [(0, 0, 0), (2, 0, 0), (4, 0, 0), (6, 0, 0)]
    assert tile_starts((3, 5, 5), (1, 5, 5)) == [(0, 0, 0), (1, 0, 0), (2, 0, 0)]


@pytest.mark.parametrize(("size", "patch"), [(110, 64), (128, 64), (300, 96), (65, 64), (199, 40)])
def test_counts_agree_with_nnunet(size, patch):
    peer = pytest.importorskip("nnunetv2.inference.sliding_window_prediction")
    expected = peer.compute_steps_for_sliding_window((size,) * 3, (patch,) * 3, 0.5)
    assert sorted({z for z, _, _ in tile_starts((size,) * 3, (patch,) * 3)}) == list(expected[0])


def test_weights_are_positive_symmetric_and_peak_in_the_middle():
    weights = gaussian_weights((5, 8, 1))
    assert weights.shape == (5, 8, 1)
    assert weights.max() == 1
    assert float(gaussian_weights((128, 128, 128)).min()) > 1e-11
    torch.testing.assert_close(weights, weights.flip(0, 1, 2))
    assert weights[2, 3, 0] == weights[2, 4, 0] == 1
    # one standard deviation from the middle: exp(-1/2)
    assert gaussian_weights((16, 1, 1))[9, 0, 0] == pytest.approx(np.exp(-0.5 * (1.5**2 - 0.5**2) / 4))


def test_nnunets_weights_by_its_own_words():
    """Peak 10 at voxel size // 2, its Gaussian cut off at four deviations, never zero; a row is symmetric around it."""
    weights = nnunet_weights((1, 8, 16))
    assert weights.shape == (1, 8, 16)
    assert weights[0, 4, 8] == weights.max() == 10
    assert torch.equal(weights[0, 4, 1:8], weights[0, 4, 9:].flip(0))
    assert weights[0, 4, 9] == torch.tensor(10 * math.exp(-0.5 / 2**2)).half()
    assert (weights > 0).all()
