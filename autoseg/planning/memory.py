"""A network and a patch in; the number of activations nnU-Net's memory rule counts out.

Counted is the output of every convolution for one sample: those of encoder and decoder, the stem and the
projections of a residual encoder, the transposed convolutions, and the logits at full resolution. It is no
number of bytes but a yardstick against reference networks whose memory was measured (`presets`).

Behind each of those convolutions stand two maps that are kept for the backward pass: its output, which the
normalisation needs, and what that gives, which the next convolution needs. Blocks of MedNeXt keep other maps, so for it
half of the maps that are kept are counted.
"""

import math
from collections.abc import Iterator, Sequence

from autoseg.records.plan import NetworkSpec


def count_activations(network: NetworkSpec, patch_size: Sequence[int], num_outputs: int) -> int:
    """Values that one sample leaves behind in the forward pass.

    Args:
        network: any architecture; `residual_unet` has two convolutions a block, a stem, and a projection in each
            stage but the first.
        patch_size: voxels z y x, or y x.
        num_outputs: channels of the logits.
    """
    if network.architecture == "mednext":
        return _mednext_activations(network, patch_size, num_outputs)
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


def _mednext_activations(network: NetworkSpec, patch_size: Sequence[int], num_outputs: int) -> int:
    """A block keeps its input and what depthwise convolution and normalisation make of it, and two expanded maps.

    One that changes the resolution has its input on the other grid: it is counted with the stage it comes from.
    """
    voxels = list(_voxels_per_stage(network, patch_size))
    maps = [features * v for features, v in zip(network.features_per_stage, voxels, strict=True)]
    expansions = network.expansion_per_stage or (2,) * len(maps)
    decoder = (*network.decoder_blocks_per_stage, 0)
    kept = 0
    for s, (size, expansion) in enumerate(zip(maps, expansions, strict=True)):
        kept += (network.blocks_per_stage[s] + decoder[s]) * (3 + 2 * expansion) * size
        if s > 0:  # down into this stage, up out of it: two maps and two expanded ones each, on the new grid
            narrow, wide = network.features_per_stage[s - 1] * voxels[s], network.features_per_stage[s] * voxels[s - 1]
            kept += maps[s - 1] + 2 * (1 + expansion) * narrow + maps[s] + 2 * (1 + expansions[s - 1]) * wide
    return kept // 2 + num_outputs * math.prod(patch_size)


def _voxels_per_stage(network: NetworkSpec, patch_size: Sequence[int]) -> Iterator[int]:
    size = list(patch_size)
    for stride in network.strides:
        size = [edge // step for edge, step in zip(size, stride, strict=True)]
        yield math.prod(size)
