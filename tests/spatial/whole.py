"""Slabs put together, for tests that look at whole volumes."""

from collections.abc import Sequence

import torch

from autoseg.spatial.linear import linear_windows
from autoseg.spatial.resampling import Source, resample_into


def resample_linear(logits: torch.Tensor, shape: Sequence[int], separate: int | None = None) -> torch.Tensor:
    """All windows of `linear_windows` along z."""
    windows = linear_windows([logits], logits.shape[1:], shape, separate)
    return torch.cat([window.values() for window in windows], 1)


def resample_image(
    image: torch.Tensor, shape: Sequence[int], separate: int | None = None, clip: bool = True
) -> torch.Tensor:
    """`resample_into` for all channels of an image `C Z Y X`."""
    result = torch.empty((len(image), *shape))
    for channel, target in zip(image, result, strict=True):
        resample_into(target, held(channel), separate, clip)
    return result


def held(channel: torch.Tensor) -> Source:
    """A channel `Z Y X` as a source."""
    z, y, x = channel.shape
    return Source((z, y, x), lambda box: channel[box], lambda: (float(channel.min()), float(channel.max())))
