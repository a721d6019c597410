"""A network specification in, MedNeXt out: a U-Net of inverted residual blocks with depthwise kernels.

After Roy et al. (2023, arXiv:2303.09975). A block is a depthwise convolution, a normalisation a channel (group
normalisation with as many groups as channels, which is instance normalisation), a convolution of size 1 that expands
the channels, GELU, one that compresses them, and a shortcut. Blocks that change resolution do so in the depthwise
convolution, with a strided convolution of size 1 as shortcut. Skips are added, not appended. S, B and L differ in the
number and expansion of their blocks alone (`planning.presets`). Expansions are those of the authors' code: a block that
leads to a stage has that stage's.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from autoseg.networks.blocks import convolution, fold_slices, head, transposed, unfold_slices
from autoseg.networks.norm import InstanceNorm
from autoseg.records.plan import NetworkSpec

EXPANSION = 2
"""Of every block where a specification names none: MedNeXt-S."""


class Block(nn.Module):
    """The block that keeps its resolution and width."""

    def __init__(self, num_channels: int, kernel: Sequence[int], expansion: int) -> None:
        super().__init__()
        self.depthwise = convolution(num_channels, num_channels, kernel, groups=num_channels)
        self.inverted = _inverted(num_channels, num_channels, expansion, len(kernel))

    def forward(self, x: Tensor) -> Tensor:
        """Map `N C [Z] Y X` to the same shape."""
        y: Tensor = x + self.inverted(self.depthwise(x))
        return y


class Down(nn.Module):
    """The block to the next coarser stage."""

    def __init__(self, num_in: int, num_out: int, kernel: Sequence[int], stride: Sequence[int], expansion: int) -> None:
        super().__init__()
        self.depthwise = convolution(num_in, num_in, kernel, stride, groups=num_in)
        self.inverted = _inverted(num_in, num_out, expansion, len(kernel))
        self.shortcut = convolution(num_in, num_out, [1] * len(kernel), stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map `N C [Z] Y X` to the coarser stage's channels and size."""
        y: Tensor = self.shortcut(x) + self.inverted(self.depthwise(x))
        return y


class Up(nn.Module):
    """The block to the next finer stage.

    A transposed convolution padded for its odd kernel gives `stride * (n - 1) + 1` voxels; the missing ones are zeros
    before the first, in both branches.
    """

    def __init__(self, num_in: int, num_out: int, kernel: Sequence[int], stride: Sequence[int], expansion: int) -> None:
        super().__init__()
        self.depthwise = transposed(num_in, num_in, kernel, stride, groups=num_in)
        self.inverted = _inverted(num_in, num_out, expansion, len(kernel))
        self.shortcut = transposed(num_in, num_out, [1] * len(kernel), stride)
        self.missing = [edge for step in reversed(stride) for edge in (step - 1, 0)]

    def forward(self, x: Tensor) -> Tensor:
        """Map `N C [Z] Y X` to the finer stage's channels and size."""
        return F.pad(self.shortcut(x) + self.inverted(self.depthwise(x)), self.missing)


class MedNeXt(nn.Module):
    """Encoder and decoder, numbered by resolution, 0 the finest; each decoder stage has an output in training mode.

    (The authors' loss gives the bottleneck's output, which their network also has, no weight.) In evaluation mode
    the finest output alone is computed.
    """

    def __init__(self, spec: NetworkSpec, num_input_channels: int, num_heads: int) -> None:
        super().__init__()
        features, kernels, strides = spec.features_per_stage, spec.kernel_sizes, spec.strides
        self.dims = len(strides[0])
        expansions = spec.expansion_per_stage or (EXPANSION,) * len(features)
        finer = range(len(features) - 1)

        def blocks(s: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(Block(features[s], kernels[s], expansions[s]) for _ in range(count)))

        self.stem = convolution(num_input_channels, features[0], [1] * self.dims)
        self.encoder = nn.ModuleList(blocks(s, count) for s, count in enumerate(spec.blocks_per_stage))
        self.downs = nn.ModuleList(
            Down(features[s], features[s + 1], kernels[s + 1], strides[s + 1], expansions[s + 1]) for s in finer
        )
        self.ups = nn.ModuleList(
            Up(features[s + 1], features[s], kernels[s + 1], strides[s + 1], expansions[s]) for s in finer
        )
        self.decoder = nn.ModuleList(blocks(s, spec.decoder_blocks_per_stage[s]) for s in finer)
        self.heads = nn.ModuleList(head(features[s], num_heads, self.dims) for s in range(max(1, len(finer))))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images `N C Z Y X` to logits `N H Z Y X`, finest first; see the class for how many."""
        num_samples = len(x)
        x = self.stem(fold_slices(x, self.dims))
        skips = []
        for stage, down in zip(self.encoder, self.downs, strict=False):
            skips.append(stage(x))
            x = down(skips[-1])
        x = self.encoder[-1](x)
        outputs = [x]
        for s in reversed(range(len(self.decoder))):
            x = self.decoder[s](skips[s] + self.ups[s](x))
            outputs.insert(0, x)
        kept = outputs[: len(self.heads) if self.training else 1]
        return tuple(unfold_slices(make(y), num_samples, self.dims) for make, y in zip(self.heads, kept, strict=False))


def mednext(spec: NetworkSpec, num_input_channels: int, num_heads: int) -> nn.Module:
    """The MedNeXt of `spec`; forward as in `MedNeXt`. Its weights are drawn as torch does, which the authors keep."""
    return MedNeXt(spec, num_input_channels, num_heads)


def _inverted(num_in: int, num_out: int, expansion: int, dims: int) -> nn.Sequential:
    """Normalise, expand, GELU, compress."""
    wide, ones = num_in * expansion, [1] * dims
    return nn.Sequential(
        InstanceNorm(num_in, slope=1), convolution(num_in, wide, ones), nn.GELU(), convolution(wide, num_out, ones)
    )
