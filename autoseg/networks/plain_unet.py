"""A network specification in, nnU-Net's plain U-Net out; and the decoder that all our U-Nets share.

Ronneberger et al. (2015, arXiv:1505.04597) as configured by nnU-Net: each encoder stage is a stack of
convolutions, each decoder stage upsamples, appends the encoder's map of that size and convolves.
Everything is numbered by resolution, 0 the finest.
"""

from functools import partial

import torch
from torch import Tensor, nn

from autoseg.networks.blocks import (
    conv_stage,
    encoder,
    fold_slices,
    head,
    initialize,
    run_stage,
    unfold_slices,
    upsampling,
)
from autoseg.records.plan import NetworkSpec


class UNet(nn.Module):
    """Any encoder (one module a resolution), and a decoder with an output at each of its resolutions.

    In training mode the outputs of all decoder stages but the coarsest are computed (of one stage: that
    one), since nnU-Net gives the coarsest no weight in its loss. Its head exists nevertheless, without
    ever getting a gradient, so that weights can be exchanged with nnU-Net's. In evaluation mode the
    finest alone is computed. Images too small for a second stage (under 8 voxels along each axis) get a stack of
    convolutions with one head, where nnU-Net's network has no output at all.
    """

    def __init__(self, encoder: nn.ModuleList, spec: NetworkSpec, num_heads: int) -> None:
        super().__init__()
        features, self.dims, self.recomputes = spec.features_per_stage, len(spec.strides[0]), False
        finer = range(len(features) - 1)
        self.encoder = encoder
        self.ups = nn.ModuleList(upsampling(features[s + 1], features[s], spec.strides[s + 1]) for s in finer)
        self.decoder = nn.ModuleList(
            conv_stage(
                2 * features[s], features[s], spec.kernel_sizes[s], [1] * self.dims, spec.decoder_blocks_per_stage[s]
            )
            for s in finer
        )
        self.heads = nn.ModuleList(head(features[s], num_heads, self.dims) for s in range(max(1, len(finer))))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images `N C Z Y X` to logits `N H Z Y X`, finest first; see the class for how many."""
        num_samples = len(x)
        x = fold_slices(x, self.dims)
        skips = []
        for stage in self.encoder:
            x = run_stage(self, stage, x)
            skips.append(x)
        num_outputs = max(1, len(self.heads) - 1) if self.training else 1
        outputs: list[Tensor] = []
        if not self.decoder:
            outputs.append(unfold_slices(self.heads[0](x), num_samples, self.dims))
        for s in reversed(range(len(self.decoder))):
            x = run_stage(self, partial(self._decode, s), x, skips[s])
            if s < num_outputs:
                outputs.insert(0, unfold_slices(self.heads[s](x), num_samples, self.dims))
        return tuple(outputs)

    def _decode(self, s: int, coarser: Tensor, skip: Tensor) -> Tensor:
        y: Tensor = self.decoder[s](torch.cat((self.ups[s](coarser), skip), dim=1))
        return y


def plain_unet(spec: NetworkSpec, num_input_channels: int, num_heads: int) -> nn.Module:
    """The plain U-Net of `spec`, initialised; forward as in `UNet`."""
    network = UNet(encoder(spec, num_input_channels), spec, num_heads)
    initialize(network)
    return network
