"""Linear windows against skimage; parts, strips, columns and differences equal the whole."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.spatial import linear
from autoseg.spatial.linear import Scratch, axis_taps, linear_windows
from autoseg.spatial.resampling import axis_operator
from tests.spatial.test_resampling import PAIRS, noise, skimage_resize
from tests.spatial.whole import resample_linear


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_agrees_with_skimage(before, after):
    image = noise(2, *before)
    found = resample_linear(image, after)
    for channel in range(2):
        np.testing.assert_allclose(found[channel], skimage_resize(image[channel].numpy(), after, 1), atol=5e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([0, 1]))
def test_taps_are_the_operator(num_in, num_out, order):
    taps = axis_taps(num_in, num_out, order)
    matrix = torch.zeros(num_out, num_in, dtype=torch.float64)
    rows = torch.arange(num_out)
    matrix[rows, taps.lower] += 1 - taps.weight
    matrix[rows, taps.upper] += taps.weight
    np.testing.assert_allclose(matrix, axis_operator(num_in, num_out, order), atol=1e-8)
    assert taps.paired == bool((taps.lower != taps.upper).any())
    assert ((taps.upper - taps.lower) <= 1).all()
    needed, part = taps.part(slice(num_out // 2, num_out))
    assert torch.equal(part.lower + needed.start, taps.lower[num_out // 2 :])
    assert needed.stop == taps.upper[-1] + 1


@pytest.mark.parametrize("separate", [None, 0, 1, 2])
def test_windows_strips_and_columns_equal_the_whole(monkeypatch, separate):
    image = noise(3, 9, 10, 11)
    for after in ((13, 14, 15), (7, 5, 6), (9, 10, 15), (9, 10, 11)):
        whole = resample_linear(image, after, separate)
        with monkeypatch.context() as patch:
            patch.setattr(linear, "_STRIP_VOXELS", 25)
            for cuts in ((0, 9), (0, 1, 2, 7, 9), range(10)):
                parts = [image[:, a:b] for a, b in itertools.pairwise(cuts)]
                windows = list(linear_windows(iter(parts), image.shape[1:], after, separate))
                assert len(windows) > 2
                assert [w.where.start for w in windows[1:]] == [w.where.stop for w in windows[:-1]]
                for window in windows:
                    expected = whole[:, window.where]
                    torch.testing.assert_close(window.values(), expected, atol=1e-6, rtol=0)
                    strips = list(window.strips())
                    assert len(strips) > 1
                    assert (strips[0].down.start, strips[-1].down.stop) == (0, after[1])
                    check_strips(strips, whole)


def check_strips(strips, whole) -> None:
    scratch = Scratch()
    for strip in strips:
        expected = whole[:, strip.where, strip.down]
        assert strip.shape == expected.shape[1:]
        some = strip.values(slice(1, 3), slice(2, 5), minus=0, scratch=scratch)
        torch.testing.assert_close(some, expected[1:, ..., 2:5] - expected[:1, ..., 2:5], atol=2e-6, rtol=0)
        low, high = strip.bounds(2)
        assert (expected[:2].amin((1, 2)) >= low - 1e-6).all()
        assert (expected[:2].amax((1, 2)) <= high + 1e-6).all()


def test_values_without_scratch_stay():
    image = noise(2, 4, 5, 6)
    for shape in ((8, 8, 8), (4, 5, 6)):
        (window,) = linear_windows([image], image.shape[1:], shape)
        first = window.values(slice(0, 1))
        kept = first.clone()
        window.values(slice(1, 2)).zero_()
        assert torch.equal(first, kept)
    assert torch.equal(image, noise(2, 4, 5, 6))


def test_same_shape_is_the_same():
    image = noise(1, 4, 5, 6)
    torch.testing.assert_close(resample_linear(image, (4, 5, 6)), image, rtol=0, atol=0)


def test_half_precision_logits_become_float32():
    logits = noise(2, 4, 5, 6)
    assert resample_linear(logits.half(), (8, 8, 8)).dtype == torch.float32
    assert resample_linear(logits.half(), (4, 5, 6)).dtype == torch.float32
    (window,) = linear_windows([logits.half()], (4, 5, 6), (4, 5, 6))
    expected = logits.half()[1:].float() - logits.half()[:1].float()
    assert torch.equal(window.values(slice(1, 2), minus=0), expected)


def test_no_device_is_sent_double_precision() -> None:
    """Apple's GPUs refuse it."""
    for window in linear_windows(iter([torch.zeros(2, 3, 4, 5)]), (3, 4, 5), (5, 7, 9), None):
        assert {taps.weight.dtype for taps in window.taps} == {torch.float32}
