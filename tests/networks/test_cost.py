import torch

from autoseg.networks.build import build_network
from autoseg.networks.cost import count_flops, count_parameters, count_saved_bytes, estimate_cost
from autoseg.records.plan import NetworkSpec

SPEC = NetworkSpec(
    architecture="plain_unet",
    features_per_stage=(4, 8),
    strides=((1, 1, 1), (1, 2, 2)),
    kernel_sizes=((1, 3, 3), (3, 3, 3)),
    blocks_per_stage=(1, 1),
    decoder_blocks_per_stage=(1,),
)
NUM_VOXELS = 2 * 4 * 8 * 8
"""Of two patches of 4 x 8 x 8."""


def test_parameters_and_operations_by_hand() -> None:
    cost = estimate_cost(SPEC, 3, 2, (4, 8, 8), 2)
    convolutions = [(3 * 9, 4, 1), (4 * 27, 8, 4), (8 * 1, 4, 1), (8 * 9, 4, 1), (4, 2, 1)]
    # A transposed convolution of kernel = stride gives each fine voxel one product of 8 coarse features.
    assert cost.forward_flops == sum(2 * NUM_VOXELS // down * size * out for size, out, down in convolutions)
    norms = 2 * (4 + 8 + 4)
    assert cost.num_parameters == (27 * 4 + 4) + (108 * 8 + 8) + (8 * 4 * 4 + 4) + (72 * 4 + 4) + (4 * 2 + 2) + norms


def test_saved_memory_by_hand() -> None:
    # A convolution keeps its input, a normalisation its input and its output, each once; the rest is a few numbers.
    images, fine, coarse, joined = 3 * NUM_VOXELS, 4 * NUM_VOXELS, 8 * NUM_VOXELS // 4, 8 * NUM_VOXELS
    expected = 4 * (images + 2 * fine + 2 * coarse + joined + 2 * fine)
    assert 0 <= estimate_cost(SPEC, 3, 2, (4, 8, 8), 2).saved_bytes - expected <= 4 * 200


def test_meta_device_and_cpu_agree() -> None:
    shape = (2, 3, 4, 8, 8)
    cost = estimate_cost(SPEC, 3, 2, (4, 8, 8), 2)
    network = build_network(SPEC, 3, 2, seed=0).train()
    assert count_parameters(network) == cost.num_parameters
    assert count_flops(network, shape) == cost.forward_flops
    assert abs(count_saved_bytes(network, shape) - cost.saved_bytes) < 1000
    assert torch.isfinite(network(torch.zeros(shape))[0]).all()
