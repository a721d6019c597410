"""A network specification in, nnU-Net's residual-encoder U-Net out.

The encoder is a stem (one convolution) and stages of residual blocks, the decoder the plain U-Net's
(Isensee et al., 2024, arXiv:2404.09556).
"""

from torch import nn

from autoseg.networks.blocks import ConvNormAct, initialize, residual_stage
from autoseg.networks.plain_unet import UNet
from autoseg.records.plan import NetworkSpec


def residual_unet(spec: NetworkSpec, num_input_channels: int, num_heads: int) -> nn.Module:
    """The residual-encoder U-Net of `spec`, initialised; forward as in `UNet`."""
    first = spec.features_per_stage[0]
    inputs = (first, *spec.features_per_stage)
    rows = zip(
        inputs[:-1], spec.features_per_stage, spec.kernel_sizes, spec.strides, spec.blocks_per_stage, strict=True
    )
    stages: list[nn.Module] = [residual_stage(*row) for row in rows]
    stages[0] = nn.Sequential(ConvNormAct(num_input_channels, first, spec.kernel_sizes[0]), stages[0])
    network = UNet(nn.ModuleList(stages), spec, num_heads)
    initialize(network)
    return network
