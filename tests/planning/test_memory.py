from autoseg.planning.memory import count_activations
from autoseg.records.plan import NetworkSpec


def _spec(architecture: str, blocks: tuple[int, ...], decoder: int, features: tuple[int, ...]) -> NetworkSpec:
    n = len(features)
    return NetworkSpec(
        architecture=architecture,
        features_per_stage=features,
        strides=((1, 1, 1),) + ((2, 2, 2),) * (n - 1),
        kernel_sizes=((3, 3, 3),) * n,
        blocks_per_stage=blocks,
        decoder_blocks_per_stage=(decoder,) * (n - 1),
    )


def test_two_stages_by_hand() -> None:
    # Encoder 2 x 4 x 8 + 2 x 8 x 1; decoder two convolutions and one transposed of 4 x 8; logits 3 x 8.
    assert count_activations(_spec("plain_unet", (2, 2), 2, (4, 8)), (2, 2, 2), 3) == 64 + 16 + 96 + 24
    # Stem 4 x 8, one block 2 x 4 x 8; three blocks 6 x 8 and a projection 8; decoder 2 x 4 x 8; logits.
    assert count_activations(_spec("residual_unet", (1, 3), 1, (4, 8)), (2, 2, 2), 3) == 32 + 64 + 48 + 8 + 64 + 24


def test_the_reference_network_of_nnunet() -> None:
    spec = _spec("plain_unet", (2,) * 6, 2, (32, 64, 128, 256, 320, 320))
    assert round(count_activations(spec, (128, 128, 128), 3) / 1e6) == 453


def test_one_stage_has_no_decoder_and_no_logits() -> None:
    assert count_activations(_spec("plain_unet", (2,), 2, (4,)), (2, 2, 2), 3) == 64
