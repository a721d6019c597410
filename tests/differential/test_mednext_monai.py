"""Our MedNeXt against MONAI's: the same weights and images give the same outputs at all resolutions.

Runs where MONAI is importable, or where AUTOSEG_PEER_PYTHON names an interpreter that has it.
"""

import numpy as np
import pytest
import torch

from autoseg.networks.build import build_network
from autoseg.networks.cost import count_parameters
from autoseg.records.plan import NetworkSpec
from tests.differential.peer import run_peer
from tests.networks.test_mednext import published

SHAPES = {"3d_k3": (1, 2, 16, 32, 16), "3d_k5": (2, 2, 16, 16, 16), "2d_k3": (2, 2, 32, 48)}
BLOCKS = {"3d_k3": ((2, 1, 2, 1, 2), (2, 1, 2, 1)), "3d_k5": ((1, 1, 1, 1, 2), (1, 1, 1, 1))}
BLOCKS["2d_k3"] = ((1, 2, 1, 1, 2), (1, 2, 1, 1))


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    images = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    return {**images, **run_peer("mednext_monai_peer.py", images, tmp_path_factory.mktemp("mednext"), "monai")}


def _ours(name: str) -> str:
    """MONAI's name of a parameter in our numbering: resolutions from the finest, blocks under their parts."""
    head, *rest = name.split(".")
    last = {"conv1": "depthwise", "norm": "inverted.0", "conv2": "inverted.1", "conv3": "inverted.3"}
    last |= {"res_conv": "shortcut"}
    if head == "stem":
        return name
    if head == "out_0":
        return f"heads.0.{rest[-1]}"
    if head == "out_blocks":  # coarsest first, beginning with the bottleneck's
        return f"heads.{4 - int(rest[0])}.{rest[-1]}"
    if head == "bottleneck":
        return f"encoder.4.{rest[0]}.{last[rest[1]]}.{rest[2]}"
    room = {"enc_stages": "encoder", "down_blocks": "downs", "up_blocks": "ups", "dec_stages": "decoder"}[head]
    stage = int(rest[0]) if room in ("encoder", "downs") else 3 - int(rest[0])
    return ".".join([room, str(stage), *rest[1:-2], last[rest[-2]], rest[-1]])


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_equals_monai(name: str, peer: dict[str, np.ndarray]) -> None:
    dims = int(name[0])
    encoder, decoder = BLOCKS[name]
    spec = NetworkSpec(
        architecture="mednext",
        features_per_stage=(4, 8, 16, 32, 64),
        strides=((1,) * dims, *(((2,) * dims,) * 4)),
        kernel_sizes=((int(name[-1]),) * dims,) * 5,
        blocks_per_stage=encoder,
        decoder_blocks_per_stage=decoder,
        expansion_per_stage=(3,) * 5,
    )
    network = build_network(spec, 2, 3, seed=0).train()
    theirs = {key.partition("/")[2]: value for key, value in peer.items() if key.startswith(f"{name}/")}
    weights = {}
    for key, value in theirs.items():
        tensor, ours = torch.from_numpy(value), _ours(key)
        # Its heads are transposed convolutions of size 1, ours ordinary ones; the bottleneck's is not in the loss.
        weights[ours] = tensor.transpose(0, 1) if ours.startswith("heads.") and tensor.ndim > 1 else tensor
    unused = {key for key in weights if key.startswith("heads.4.")}
    network.load_state_dict({key: value for key, value in weights.items() if key not in unused})
    image = torch.from_numpy(peer[name])
    outputs = network(image if dims == 3 else image[:, :, None])
    assert len(outputs) == 4
    for level, output in enumerate(outputs):
        expected = torch.from_numpy(peer[f"{name}.output.{level}"])
        torch.testing.assert_close(output if dims == 3 else output[:, :, 0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_as_many_parameters_as_monai(peer: dict[str, np.ndarray]) -> None:
    with torch.device("meta"):
        assert count_parameters(build_network(published("S", 5), 1, 3, seed=0)) == int(peer["small_k5"])
