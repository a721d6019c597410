"""A network and a patch in; the number of activations nnU-Net's memory rule counts out.

Counted is the output of every convolution for one sample: those of encoder and decoder, the stem and the
projections of a residual encoder, the transposed convolutions, and the logits at full resolution. It is no
number of bytes but a yardstick against reference networks whose memory was measured (`presets`).
"""

import math
from collections.abc import Iterator, Sequence

from autoseg.records.plan import NetworkSpec


def count_activations(network: NetworkSpec, patch_size: Sequence[int], num_outputs: int) -> int:
    """Values that one sample leaves behind in the forward pass.

    Args:
        network: plain or residual U-Net; `residual_unet` has two convolutions a block, a stem, and a projection in each
            stage but the first.
        patch_size: voxels z y x, or y x.
        num_outputs: channels of the logits.
    """
    residual = network.architecture == "residual_unet"
    maps = [
        features * voxels
        for features, voxels in zip(network.features_per_stage, _voxels_per_stage(network, patch_size), strict=True)
    ]
    convolutions = [2 * blocks + 1 if residual else blocks for blocks in network.blocks_per_stage]  # + stem, projection
    encoder = sum(n * m for n, m in zip(convolutions, maps, strict=True))
    decoder = sum((n + 1) * m for n, m in zip(network.decoder_blocks_per_stage, maps[:-1], strict=True))
    logits = num_outputs * math.prod(patch_size) if len(maps) > 1 else 0
    return encoder + decoder + logits


def _voxels_per_stage(network: NetworkSpec, patch_size: Sequence[int]) -> Iterator[int]:
    size = list(patch_size)
    for stride in network.strides:
        size = [edge // step for edge, step in zip(size, stride, strict=True)]
        yield math.prod(size)
