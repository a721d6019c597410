"""A convolution's output in, instance-normalised and rectified: one differentiable function.

Instance normalisation (Ulyanov et al., 2016, arXiv:1607.08022) with scale and shift a channel, then
leaky ReLU: the pair that follows every convolution of nnU-Net's networks. PyTorch's own `instance_norm`
needs channels-first memory, in which oneDNN's 3-D convolutions are slow; on the CPU the function below
works in channels-last memory and has a closed-form backward, both made of the kernels of batch normalisation, which
read an array once and round once (`benchmarks/network_step.py`). Elsewhere PyTorch's own kernels are used.
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

    Unlike PyTorch's module it takes maps of a single element, which become `bias`, but for rounding.
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
    """View channels-last `N C [Z] Y X` as `N (Z Y) (X C)`: long inner rows, which PyTorch's kernels read fast."""
    size = x.shape
    return x.movedim(1, -1).reshape(size[0], -1, size[-1] * size[1])


def _unrows(rows: Tensor, like: Tensor) -> Tensor:
    """Undo `_rows`."""
    return rows.view(like.movedim(1, -1).shape).movedim(-1, 1)


# The next three functions are the kernels of batch normalisation, given the rows of one sample with each of their `X C`
# columns as a channel: of channels themselves there are too few to fill a vector register. They compute in float32
# (float64 of such arrays). With a variance of 1 and nothing added to it, what they do is shift and scale.


def _moments(rows: Tensor, num_channels: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel of each sample, from those of the columns: `N C` each."""
    exact = torch.promote_types(rows.dtype, torch.float32)
    zeros, ones = rows.new_zeros(rows.shape[-1], dtype=exact), rows.new_ones(rows.shape[-1], dtype=exact)
    # The running values only say in which type to answer. For meta tensors there is no such kernel.
    found = [(zeros, ones) if rows.is_meta else torch.batch_norm_update_stats(x, zeros, ones, 0.0) for x in rows]
    means, variances = (torch.stack(parts).view(len(rows), -1, num_channels) for parts in zip(*found, strict=True))
    mean = means.mean(1)
    return mean, (variances + (means - mean[:, None]).square()).mean(1)


def _line(rows: Tensor, mean: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Compute (rows - mean) * scale + shift, rounded once; factors `N C`."""
    y, width = torch.empty_like(rows), rows.shape[-1] // mean.shape[1]
    scale = scale.to(mean.dtype)
    addend = (shift.double() - mean.double() * scale.double()).to(mean.dtype)  # differences of large numbers
    scales, shifts = scale.repeat(1, width), addend.repeat(1, width)
    zeros, ones, unused = torch.zeros_like(scales[0]), torch.ones_like(scales[0]), mean.new_empty(0)
    for x, out, factor, addend in zip(rows, y, scales, shifts, strict=True):
        torch.native_batch_norm(x, factor, addend, zeros, ones, False, 0.0, 0.0, out=(out, unused, unused))
    return y


def _sums(gradient: Tensor, rows: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of gradient * (rows - mean), and of the gradient, over each channel of each sample: `N C` each."""
    means = mean.repeat(1, rows.shape[-1] // mean.shape[1])
    ones, wanted = torch.ones_like(means[0]), [False, True, True]
    kernel = torch.ops.aten.native_batch_norm_backward
    found = [
        kernel(g, x, ones, centre, ones, None, None, False, 0.0, wanted)[1:]
        for g, x, centre in zip(gradient, rows, means, strict=True)
    ]
    along, total = (torch.stack(parts).view(*mean.shape[:1], -1, mean.shape[1]) for parts in zip(*found, strict=True))
    return along.sum(1), total.sum(1)


class _NormAct(torch.autograd.Function):
    """Channels-last instance normalisation and leaky ReLU.

    It computes in float32 and rounds once. As with PyTorch's own kernels errors grow with mean / standard deviation:
    float32 loses about 4e-5 of a standard deviation where the mean is a thousand of them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
        rows = _rows(x)
        mean, variance = _moments(rows, x.shape[1])
        inverse = torch.rsqrt(variance + EPSILON)
        y = _line(rows, mean, weight.to(mean.dtype) * inverse, bias.to(mean.dtype).expand_as(mean))
        if slope != 1:
            F.leaky_relu_(y, slope)
        y = _unrows(y, x)
        ctx.slope = slope
        ctx.save_for_backward(x, mean, inverse, weight, y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, mean, inverse, weight, y = ctx.saved_tensors
        gradient = channels_last(gradient)
        if ctx.slope != 1:
            gradient = torch.ops.aten.leaky_relu_backward(gradient, y, ctx.slope, True)
        gradient, rows = _rows(gradient), _rows(x)
        along, total = _sums(gradient, rows, mean)
        along *= inverse
        # With h = (x - mean) * inverse: dx = scale * (g - mean(g) - h * mean(g * h)).
        scale, count = weight.to(mean.dtype) * inverse, x[0, 0].numel()
        grad_x = _line(rows, mean, -scale * inverse * along / count, -scale * total / count)
        grad_x.addcmul_(gradient, scale.repeat(1, x.shape[-1])[:, None].to(x.dtype))
        return _unrows(grad_x, x), along.sum(0).to(weight.dtype), total.sum(0).to(weight.dtype), None
