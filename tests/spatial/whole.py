"""Slabs put together, for tests that look at whole volumes."""

from collections.abc import Sequence

import torch

from autoseg.spatial.resampling import resample_linear_slabs


def resample_linear(logits: torch.Tensor, shape: Sequence[int], separate: int | None = None) -> torch.Tensor:
    """All slabs of `resample_linear_slabs` along z."""
    return torch.cat([slab for _, slab in resample_linear_slabs(logits, shape, separate)], 1)
