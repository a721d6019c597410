"""Limits and moments from slabs are those of a whole float32 copy, bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.preprocessing import statistics
from autoseg.preprocessing.statistics import measured, moments, read

TYPES = (np.int16, np.uint8, np.int32, np.float32, np.float64)


def noise(shape: tuple[int, ...], dtype=np.int16, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * 50 + 120).clip(0, 250).astype(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 40)),
    piece=st.sampled_from((128, 200, 1000, 1 << 22)),
    axes=st.permutations((0, 1, 2)),
)
def test_moments_are_numpys_own(dtype, shape, piece, axes) -> None:
    """Of turned views too: the sums run in the order of the view."""
    values = noise(shape, dtype).transpose(axes)[::-1]
    whole = np.array(values, dtype=np.float32, order="C")
    before = statistics.PIECE
    try:
        statistics.PIECE = piece
        channel = measured(values)
        mean, deviation = moments(channel)
    finally:
        statistics.PIECE = before
    assert (mean, deviation) == (whole.mean(), whole.std())
    assert (channel.low, channel.high) == (whole.min(), whole.max())
    assert type(mean) is type(deviation) is np.float32


def test_a_million_values_summed_in_many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    values = noise((101, 100, 99), np.float32)
    monkeypatch.setattr(statistics, "PIECE", 4096)
    assert moments(measured(values)) == (values.mean(), values.std())


def test_a_large_plane_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a 2-D image each sum reads about what it adds up, not the whole plane once a piece."""
    values, num_read = noise((1, 200, 300)), 0

    def counted(channel, box):
        nonlocal num_read
        found = read(channel, box)
        num_read += found.size
        return found

    monkeypatch.setattr(statistics, "PIECE", 2048)
    monkeypatch.setattr(statistics, "read", counted)
    whole = values.astype(np.float32)
    assert moments(measured(values)) == (whole.mean(), whole.std())
    assert 2 * values.size <= num_read < 3 * values.size


def test_a_mask_is_for_moments_alone() -> None:
    values, mask = noise((3, 4, 5)), np.zeros((3, 4, 5), bool)
    mask[1] = True
    channel = measured(values, mask)
    inside = values[mask].astype(np.float32)
    assert moments(channel) == (inside.mean(), inside.std())
    assert channel.low == values.min()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_not_finite_show_in_the_limits(bad: float) -> None:
    values = noise((3, 4, 5), np.float64)
    values[1, 2, 3] = bad
    channel = measured(values)
    assert not (np.isfinite(channel.low) and np.isfinite(channel.high))


def test_what_is_read_may_be_written_to() -> None:
    values = noise((3, 4, 5), np.float32)
    part = read(measured(values), (slice(0, 2), slice(None), slice(1, 3)))
    part[:] = -1
    assert values.min() >= 0
    assert part.flags.c_contiguous
