"""Zeros around an image that is smaller than the patch, and one copy a device."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoseg.inference.padding import PaddedImage

THREE = st.tuples(*[st.integers(1, 6)] * 3)
META = torch.device("meta")


@given(shape=THREE, patch=THREE)
def test_the_image_lies_in_the_middle_of_zeros(shape: tuple[int, int, int], patch: tuple[int, int, int]) -> None:
    image = torch.rand(2, *shape) + 1
    padded = PaddedImage(image, patch)
    found = padded.on(image.device)
    assert found.shape == (padded.num_channels, *padded.shape)
    assert padded.shape == tuple(max(pair) for pair in zip(shape, patch, strict=True))
    inside = (slice(None), *padded.inner)
    assert torch.equal(found[inside], image)
    assert found.count_nonzero() == image.numel()
    margins = [(part.start, length - part.stop) for part, length in zip(padded.inner, padded.shape, strict=True)]
    assert all(0 <= after - before <= 1 for before, after in margins)  # the odd row comes last


@pytest.mark.parametrize("patch", [(1, 1, 1), (8, 2, 2)])
def test_it_is_copied_to_a_device_once(patch: tuple[int, int, int]) -> None:
    image = torch.zeros(1, 4, 5, 6)
    padded = PaddedImage(image, patch)
    assert padded.lies_on(image.device)
    assert not padded.lies_on(META)
    copy = padded.on(META)
    assert copy.device == META
    assert padded.lies_on(META)
    assert padded.on(META) is copy
    assert (padded.on(image.device) is image) == (patch == (1, 1, 1))  # nothing to pad, nothing to copy
