"""A network specification in, a feature pyramid network out: an encoder whose maps meet in one narrow pyramid.

After Lin et al. (2017, arXiv:1612.03144): each encoder map is projected to the pyramid's width by a convolution of size
1, the pyramid's coarser level is upsampled to the nearest voxel and added, and the sum is convolved. For segmentation
the levels are merged as in panoptic FPN (Kirillov et al., 2019, arXiv:1901.02446): upsampled linearly and added,
coarse to fine, with one head that all levels share. The encoder is the plain U-Net's, so that the difference is the
decoder alone; the pyramid is as wide as the encoder's finest stage (there 256, the width of ResNet's finest).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from autoseg.networks.blocks import (
    conv_stage,
    convolution,
    encoder,
    enlarge,
    fold_slices,
    head,
    initialize,
    unfold_slices,
)
from autoseg.records.plan import NetworkSpec


class FeaturePyramid(nn.Module):
    """An encoder, a pyramid of one width, and the merged levels' common head.

    In training mode the outputs of all levels but the coarsest are computed (of one level: that one), in evaluation
    mode the finest alone.
    """

    def __init__(self, spec: NetworkSpec, num_input_channels: int, num_heads: int) -> None:
        super().__init__()
        self.dims, width = len(spec.strides[0]), spec.features_per_stage[0]
        ones = [1] * self.dims
        self.encoder = encoder(spec, num_input_channels)
        self.laterals = nn.ModuleList(convolution(features, width, ones) for features in spec.features_per_stage)
        self.smooth = nn.ModuleList(
            conv_stage(width, width, kernel, ones, num_convs)
            for kernel, num_convs in zip(spec.kernel_sizes, spec.decoder_blocks_per_stage, strict=False)
        )
        self.head = head(width, num_heads, self.dims)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images `N C Z Y X` to logits `N H Z Y X`, finest first; see the class for how many."""
        num_samples = len(x)
        x = fold_slices(x, self.dims)
        maps = []
        for stage in self.encoder:
            x = stage(x)
            maps.append(x)
        pyramid = merged = self.laterals[-1](maps[-1])
        num_outputs = max(1, len(self.smooth)) if self.training else 1
        outputs: list[Tensor] = [merged] if len(maps) == 1 else []
        for s in reversed(range(len(self.smooth))):
            size = maps[s].shape[2:]
            pyramid = self.laterals[s](maps[s]) + F.interpolate(pyramid, size, mode="nearest")
            merged = self.smooth[s](pyramid) + enlarge(merged, size)
            if s < num_outputs:
                outputs.insert(0, merged)
        return tuple(unfold_slices(self.head(y), num_samples, self.dims) for y in outputs)


def fpn(spec: NetworkSpec, num_input_channels: int, num_heads: int) -> nn.Module:
    """The feature pyramid network of `spec`, initialised; forward as in `FeaturePyramid`."""
    network = FeaturePyramid(spec, num_input_channels, num_heads)
    initialize(network)
    return network
