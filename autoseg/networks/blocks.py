"""Channel counts, kernels and strides in, the building blocks of all networks out: convolutions, stages, decoder.

A convolution is followed by instance normalisation and leaky ReLU, downsampling is a strided convolution,
upsampling a transposed one whose kernel is its stride: nnU-Net's choices (Isensee et al., 2021,
doi:10.1038/s41592-020-01008-z). 2-D networks are made of 2-D convolutions, but take and give `N C Z Y X`:
their slices are folded into the batch.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoseg.networks.norm import SLOPE, InstanceNorm, channels_last
from autoseg.records.plan import NetworkSpec

Size = Sequence[int]

_CONVOLUTIONS: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}


def convolution(
    num_in: int, num_out: int, kernel: Size, stride: Size | None = None, bias: bool = True, groups: int = 1
) -> nn.Module:
    """A 2-D or 3-D convolution (by the length of `kernel`) padded so that stride 1 keeps the size."""
    kernel = tuple(kernel)
    stride = tuple(stride or [1] * len(kernel))
    padding = tuple((k - 1) // 2 for k in kernel)
    kind = _CONVOLUTIONS[len(kernel)]
    return kind(num_in, num_out, kernel, stride, padding, groups=groups, bias=bias)  # type: ignore[arg-type]


def transposed(num_in: int, num_out: int, kernel: Size, stride: Size, groups: int = 1) -> nn.Module:
    """A transposed convolution with odd kernels, which makes n voxels `stride * (n - 1) + 1`."""
    padding = tuple((k - 1) // 2 for k in kernel)
    kind = _TRANSPOSED[len(stride)]
    return kind(num_in, num_out, tuple(kernel), tuple(stride), padding, groups=groups)  # type: ignore[arg-type]


def head(num_in: int, num_heads: int, dims: int) -> nn.Module:
    """The last layer of an output: one logit a head from each voxel's features alone."""
    return convolution(num_in, num_heads, [1] * dims)


def upsampling(num_in: int, num_out: int, stride: Size) -> nn.Module:
    """A transposed convolution that undoes a downsampling by `stride`."""
    size = tuple(stride)
    return _TRANSPOSED[len(size)](num_in, num_out, size, size)  # type: ignore[arg-type]


class ConvNormAct(nn.Sequential):
    """Convolution, instance normalisation, leaky ReLU (left out with `slope` 1)."""

    def __init__(
        self,
        num_in: int,
        num_out: int,
        kernel: Size,
        stride: Size | None = None,
        bias: bool = True,
        slope: float = SLOPE,
    ) -> None:
        super().__init__()
        self.conv = convolution(num_in, num_out, kernel, stride, bias)
        self.norm = InstanceNorm(num_out, slope)


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut, as in ResNet-D (He et al., 2019, arXiv:1812.01187).

    The shortcut is averaged down where the block has a stride, and projected (convolution of size 1, no
    bias, normalised) where the number of channels changes.
    """

    def __init__(self, num_in: int, num_out: int, kernel: Size, stride: Size) -> None:
        super().__init__()
        self.stride = tuple(stride)
        self.conv1 = ConvNormAct(num_in, num_out, kernel, stride)
        self.conv2 = ConvNormAct(num_out, num_out, kernel, slope=1)
        ones = [1] * len(self.stride)
        self.projection = None if num_in == num_out else ConvNormAct(num_in, num_out, ones, bias=False, slope=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `N C [Z] Y X` to the block's channels at its stride."""
        out = self.conv2(self.conv1(x))
        if any(s != 1 for s in self.stride):
            pool = F.avg_pool3d if len(self.stride) == 3 else F.avg_pool2d
            x = pool(x, self.stride, self.stride)
        if self.projection is not None:
            x = self.projection(x)
        return F.leaky_relu_(out + x, SLOPE)


def conv_stage(num_in: int, num_out: int, kernel: Size, stride: Size, num_convs: int) -> nn.Sequential:
    """`num_convs` convolutions, the first with the stride."""
    first = ConvNormAct(num_in, num_out, kernel, stride)
    return nn.Sequential(first, *(ConvNormAct(num_out, num_out, kernel) for _ in range(num_convs - 1)))


def encoder(spec: NetworkSpec, num_input_channels: int) -> nn.ModuleList:
    """The plain U-Net's encoder: one stack of convolutions a resolution, finest first."""
    inputs = (num_input_channels, *spec.features_per_stage)
    stages = zip(
        inputs[:-1], spec.features_per_stage, spec.kernel_sizes, spec.strides, spec.blocks_per_stage, strict=True
    )
    return nn.ModuleList(conv_stage(*stage) for stage in stages)


def residual_stage(num_in: int, num_out: int, kernel: Size, stride: Size, num_blocks: int) -> nn.Sequential:
    """`num_blocks` residual blocks, the first with the stride."""
    ones = [1] * len(stride)
    first = ResidualBlock(num_in, num_out, kernel, stride)
    return nn.Sequential(first, *(ResidualBlock(num_out, num_out, kernel, ones) for _ in range(num_blocks - 1)))


def fold_slices(x: Tensor, dims: int) -> Tensor:
    """`N C Z Y X` as the network computes on it: for 2 `dims`, `(N Z) C Y X`; on the CPU channels-last."""
    if dims == 2:
        x = x.transpose(1, 2).flatten(0, 1)
    return channels_last(x) if x.device.type == "cpu" else x


def unfold_slices(y: Tensor, num_samples: int, dims: int) -> Tensor:
    """Undo `fold_slices` on an output: `N H Z Y X`."""
    return y.view(num_samples, -1, *y.shape[1:]).transpose(1, 2) if dims == 2 else y


def enlarge(y: Tensor, size: Size) -> Tensor:
    """Linear interpolation of `N C [Z] Y X` to `size`."""
    mode = "trilinear" if y.ndim == 5 else "bilinear"
    return F.interpolate(y, list(size), mode=mode, align_corners=False)


def initialize(network: nn.Module) -> None:
    """Draw convolution weights as He et al. (2015, arXiv:1502.01852) for the leaky ReLU; biases are zero.

    The last scale of each residual block is zero, so that at first every block is its shortcut (Goyal et
    al., 2017, arXiv:1706.02677; nnU-Net's residual presets do the same).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, a=SLOPE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, ResidualBlock):
                module.conv2.norm.weight.zero_()
