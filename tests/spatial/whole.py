"""Slabs put together, for tests that look at whole volumes."""

from collections.abc import Sequence

import torch

from autoseg.spatial.linear import linear_windows


def resample_linear(logits: torch.Tensor, shape: Sequence[int], separate: int | None = None) -> torch.Tensor:
    """All windows of `linear_windows` along z."""
    windows = linear_windows([logits], logits.shape[1:], shape, separate)
    return torch.cat([window.values() for window in windows], 1)
