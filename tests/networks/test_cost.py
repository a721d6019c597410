from autoseg.networks.build import build_network
from autoseg.networks.cost import count_parameters
from autoseg.records.plan import NetworkSpec

SPEC = NetworkSpec(
    architecture="plain_unet",
    features_per_stage=(4, 8),
    strides=((1, 1, 1), (1, 2, 2)),
    kernel_sizes=((1, 3, 3), (3, 3, 3)),
    blocks_per_stage=(1, 1),
    decoder_blocks_per_stage=(1,),
)


def test_parameters_by_hand() -> None:
    network = build_network(SPEC, 3, 2, seed=0)
    norms = 2 * (4 + 8 + 4)
    # Two convolutions down, a transposed one of kernel = stride up, one beside the skip, and the logits.
    convolutions = (27 * 4 + 4) + (108 * 8 + 8) + (8 * 4 * 4 + 4) + (72 * 4 + 4) + (4 * 2 + 2)
    assert count_parameters(network) == convolutions + norms
    network.requires_grad_(False)
    assert count_parameters(network) == 0
