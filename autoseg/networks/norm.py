"""A convolution's output in, instance-normalised and rectified: one differentiable function.

Instance normalisation (Ulyanov et al., 2016, arXiv:1607.08022) with scale and shift a channel, then
leaky ReLU: the pair that follows every convolution of nnU-Net's networks. PyTorch's own `instance_norm`
needs channels-first memory, in which oneDNN's 3-D convolutions are slow; on the CPU the function below
works in channels-last memory and has a closed-form backward that reads each array as few times as eager
PyTorch allows (`benchmarks/network_step.py`). Elsewhere PyTorch's own kernels are used.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-5
"""Added to the variance (nnU-Net's value)."""

SLOPE = 0.01
"""Of the leaky ReLU below zero (nnU-Net's value)."""

_META_KIND: ContextVar[str] = ContextVar("meta_kind", default="cuda")


class InstanceNorm(nn.Module):
    """Instance normalisation, scale and shift a channel, and leaky ReLU if `slope` is not 1.

    Unlike PyTorch's module it takes maps of a single element, which become `bias`.
    """

    def __init__(self, num_channels: int, slope: float = SLOPE) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        """Map `N C [Z] Y X` to the same shape and dtype."""
        return instance_norm_act(x, self.weight, self.bias, self.slope)


def instance_norm_act(x: Tensor, weight: Tensor, bias: Tensor, slope: float = SLOPE) -> Tensor:
    """Normalise each channel of each sample, scale, shift, rectify.

    Args:
        x: N C [Z] Y X, floating.
        weight: C, scale.
        bias: C, shift.
        slope: of the leaky ReLU below zero; 1 leaves it out.

    Returns:
        Same shape and dtype as `x`; on the CPU in channels-last memory.
    """
    if prefers_channels_last(x):
        y: Tensor = _NormAct.apply(channels_last(x), weight, bias, slope)  # type: ignore[no-untyped-call]
        return y
    # The functional form of nn.functional refuses maps of one element.
    y = torch.instance_norm(x, weight, bias, None, None, True, 0.0, EPSILON, torch.backends.cudnn.enabled)
    return y if slope == 1 else F.leaky_relu_(y, slope)


def prefers_channels_last(x: Tensor) -> bool:
    """Whether the function above is used for this array: on the CPU, and on a meta device that stands for one."""
    return x.device.type == "cpu" or (x.device.type == "meta" and _META_KIND.get() == "cpu")


@contextmanager
def meta_stands_for(kind: str) -> Iterator[None]:
    """Inside the block meta tensors go the way of device `kind` (`cpu`, `cuda`), so that its memory can be counted."""
    token = _META_KIND.set(kind)
    try:
        yield
    finally:
        _META_KIND.reset(token)


def channels_last(x: Tensor) -> Tensor:
    """Same values, channels innermost in memory (no copy where they are)."""
    # Of one channel `contiguous` would leave the strides, from which oneDNN chooses its kernels, as they are.
    return x.to(memory_format=torch.channels_last_3d if x.ndim == 5 else torch.channels_last)


def _rows(x: Tensor) -> Tensor:
    """View channels-last `N C [Z] Y X` as `N Z Y (X C)`: long inner rows, which PyTorch adds and multiplies fast."""
    size = x.shape
    return x.movedim(1, -1).reshape(size[0], -1, size[-2], size[-1] * size[1])


def _unrows(rows: Tensor, like: Tensor) -> Tensor:
    """Undo `_rows`."""
    return rows.view(like.movedim(1, -1).shape).movedim(-1, 1)


def _spread(values: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Repeat `N C` along a row of `width` positions: `N 1 1 (X C)`."""
    return values.repeat(1, width)[:, None, None].to(dtype)


def _sums(rows: Tensor, num_channels: int, dtype: torch.dtype) -> Tensor:
    """Sum `N Z Y (X C)` over all positions, in `dtype`: `N C`.

    Columns are summed in the array's own type first (PyTorch adds in float32 and rounds the result), since asking
    for another type would copy the array; the roundings of so many columns cancel.
    """
    return rows.sum(2).sum(1, dtype=dtype).view(len(rows), -1, num_channels).sum(1)


class _NormAct(torch.autograd.Function):
    """Channels-last instance normalisation and leaky ReLU.

    The array is first shifted by its mean as rounded to the array's own type, and the little that is left of the
    mean is measured again, so that a map far from zero keeps its digits in bfloat16 too.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
        num_channels, width, dtype = x.shape[1], x.shape[-1], x.dtype
        exact = torch.promote_types(dtype, torch.float32)
        rows, count = _rows(x), x[0, 0].numel()
        centred = rows - _spread(_sums(rows, num_channels, exact) / count, width, dtype)
        rest = _sums(centred, num_channels, exact) / count
        y = centred * centred
        variance = (_sums(y, num_channels, exact) / count - rest * rest).clamp_min(0)
        inverse = torch.rsqrt(variance + EPSILON)
        scale = weight.to(exact) * inverse
        offset = _spread(bias.to(exact) - rest * scale, width, dtype)
        torch.addcmul(offset, centred, _spread(scale, width, dtype), out=y)
        if slope != 1:
            F.leaky_relu_(y, slope)
        y = _unrows(y, x)
        ctx.slope = slope
        ctx.save_for_backward(centred, rest, inverse, weight, y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        centred, rest, inverse, weight, y = ctx.saved_tensors
        num_channels, width, dtype = y.shape[1], y.shape[-1], y.dtype
        exact = inverse.dtype
        gradient = channels_last(gradient)
        if ctx.slope != 1:
            gradient = torch.ops.aten.leaky_relu_backward(gradient, y, ctx.slope, True)
        rows = _rows(gradient)
        total = _sums(rows, num_channels, exact)
        grad_x = rows * centred
        along = (_sums(grad_x, num_channels, exact) - rest * total) * inverse
        # With h = (x - mean) * inverse: dx = scale * (g - mean(g) - h * mean(g * h)), h = (centred - rest) * inverse.
        scale, count = weight.to(exact) * inverse, y[0, 0].numel()
        by_centred = -scale * inverse * along / count
        constant = _spread(-scale * total / count - rest * by_centred, width, dtype)
        torch.addcmul(constant, rows, _spread(scale, width, dtype), out=grad_x)
        grad_x.addcmul_(centred, _spread(by_centred, width, dtype))
        return _unrows(grad_x, y), along.sum(0).to(weight.dtype), total.sum(0).to(weight.dtype), None
