"""Our U-Nets against dynamic-network-architectures': the same parameters give the same outputs.

Runs in this process where that package is importable, else in the interpreter that AUTOSEG_PEER_PYTHON
names, which needs torch, numpy and that package only; otherwise the tests are skipped.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.networks.build import build_network
from autoseg.networks.cost import count_parameters
from autoseg.records.plan import NetworkSpec
from tests.differential.peer import peer_python

PEER = r"""
import json, sys
import numpy as np
import torch
from dynamic_network_architectures.architectures import unet

request = json.load(open(sys.argv[1] + "/request.json"))
dims = request["dims"]
torch.manual_seed(0)
network = getattr(unet, request["name"])(
    conv_op=[torch.nn.Conv2d, torch.nn.Conv3d][dims - 2],
    norm_op=[torch.nn.InstanceNorm2d, torch.nn.InstanceNorm3d][dims - 2],
    conv_bias=True, norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=torch.nn.LeakyReLU,
    nonlin_kwargs={"inplace": True}, deep_supervision=True, **request["arguments"],
)
for parameter in network.parameters():
    torch.nn.init.normal_(parameter, 0.2, 0.3)
x = torch.from_numpy(np.load(sys.argv[1] + "/input.npy"))
outputs = network(x)
loss = sum((output * (i + 1)).square().mean() for i, output in enumerate(outputs[:-1] or outputs))
loss.backward()
network.decoder.deep_supervision = False
tensors = {f"output.{i}": o.detach().contiguous() for i, o in enumerate(outputs)}
tensors["eval"] = network.eval()(x).detach().contiguous()
# Convolutions are registered twice there; `parameters` names each once.
for name, parameter in network.named_parameters():
    tensors["weight." + name] = parameter.detach().contiguous()
    if parameter.grad is not None:
        tensors["grad." + name] = parameter.grad.contiguous()
np.savez(sys.argv[1] + "/answer.npz", **{name: t.numpy() for name, t in tensors.items()})
"""


def _our_name(theirs: str, num_stages: int) -> str:
    """Name of one of their parameters in our networks.

    Theirs count decoder stages from the coarsest, ours from the finest (`D` below).

        encoder.stages.S.0.convs.I.{conv,norm}.W        encoder.S.I.{conv,norm}.W                plain
        encoder.stem.convs.0.{conv,norm}.W              encoder.0.0.{conv,norm}.W                residual
        encoder.stages.S.blocks.I.REST                  encoder.S.I.REST  (S = 0: encoder.0.1.I.REST)
            with REST  skip.{0,1}.{conv,norm}.W         projection.{conv,norm}.W
        decoder.stages.S.convs.I.{conv,norm}.W          decoder.D.I.{conv,norm}.W
        decoder.transpconvs.S.W                         ups.D.W
        decoder.seg_layers.S.W                          heads.D.W
    """
    name = re.sub(r"^encoder\.stages\.(\d+)\.0\.convs\.", r"encoder.\1.", theirs)
    name = name.replace("encoder.stem.convs.", "encoder.0.")
    name = re.sub(r"^encoder\.stages\.0\.blocks\.", "encoder.0.1.", name)
    name = re.sub(r"^encoder\.stages\.(\d+)\.blocks\.", r"encoder.\1.", name)
    name = re.sub(r"\.skip\.[01]\.", ".projection.", name)
    # Blocks hold their two convolutions directly, without a list, in both.
    for kind, ours in (("stages", "decoder"), ("transpconvs", "ups"), ("seg_layers", "heads")):
        name = re.sub(
            rf"^decoder\.{kind}\.(\d+)\.(convs\.)?", lambda m, o=ours: f"{o}.{num_stages - 2 - int(m[1])}.", name
        )
    return name


SPECS = {
    "isotropic": (((1, 1, 1), (2, 2, 2), (2, 2, 2)), ((3, 3, 3), (3, 3, 3), (3, 3, 3)), (1, 2, 3), (2, 1)),
    "anisotropic": (
        ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 1, 2)),
        ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3)),
        (2, 2, 2, 2),
        (2, 2, 1),
    ),
    "two_stages": (((1, 1, 1), (2, 2, 2)), ((3, 3, 3), (3, 3, 3)), (2, 2), (1,)),
    "slices": (((1, 1), (2, 2), (2, 1)), ((3, 3), (3, 3), (3, 3)), (2, 1, 2), (1, 2)),
}


@pytest.mark.parametrize("case", list(SPECS))
@pytest.mark.parametrize("architecture", ["plain_unet", "residual_unet"])
def test_same_parameters_give_same_outputs_and_gradients(architecture: str, case: str, tmp_path: Path) -> None:
    strides, kernels, blocks, decoder_blocks = SPECS[case]
    # The residual variant has a stage that keeps its channels: there the shortcut is pooled but not projected.
    features = (6, 10, 10, 12)[: len(strides)] if architecture == "residual_unet" else (6, 10, 14, 12)[: len(strides)]
    spec = NetworkSpec(
        architecture=architecture,
        features_per_stage=features,
        strides=strides,
        kernel_sizes=kernels,
        blocks_per_stage=blocks,
        decoder_blocks_per_stage=decoder_blocks,
    )
    x = torch.randn(2, 2, 8, 16, 8, generator=torch.Generator().manual_seed(0))
    folded = x.transpose(1, 2).flatten(0, 1) if len(strides[0]) == 2 else x
    answer = _ask_peer(spec, folded.contiguous(), tmp_path)

    ours = build_network(spec, 2, 3, seed=0)
    theirs = {_our_name(k.removeprefix("weight."), len(strides)): v for k, v in answer.items() if k[:7] == "weight."}
    assert count_parameters(ours) == sum(v.numel() for v in theirs.values())
    ours.load_state_dict(theirs, strict=True)
    outputs = ours.train()(x)
    assert len(outputs) == max(1, len(strides) - 2)
    for i, output in enumerate(outputs):
        expected = answer[f"output.{i}"]
        torch.testing.assert_close(_fold_like(output, expected), expected, atol=1e-5, rtol=1e-5)
    (alone,) = ours.eval()(x)
    torch.testing.assert_close(_fold_like(alone, answer["eval"]), answer["eval"], atol=1e-5, rtol=1e-5)

    sum((output * (i + 1)).square().mean() for i, output in enumerate(outputs)).backward()
    gradients = {_our_name(k[5:], len(strides)): v for k, v in answer.items() if k[:5] == "grad."}
    assert {name for name, p in ours.named_parameters() if p.grad is not None} == set(gradients)
    largest = max(v.abs().max() for v in gradients.values())
    for name, parameter in ours.named_parameters():
        if name in gradients:
            torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-4 * float(largest), rtol=1e-3)


def _fold_like(output: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    return output.transpose(1, 2).flatten(0, 1) if expected.ndim == 4 else output


def _ask_peer(spec: NetworkSpec, x: torch.Tensor, folder: Path) -> dict[str, torch.Tensor]:
    plain = spec.architecture == "plain_unet"
    request = {
        "name": "PlainConvUNet" if plain else "ResidualEncoderUNet",
        "dims": len(spec.strides[0]),
        "arguments": {
            "input_channels": x.shape[1],
            "n_stages": len(spec.strides),
            "features_per_stage": spec.features_per_stage,
            "kernel_sizes": spec.kernel_sizes,
            "strides": spec.strides,
            "n_conv_per_stage" if plain else "n_blocks_per_stage": spec.blocks_per_stage,
            "num_classes": 3,
            # Theirs counts decoder stages from the coarsest.
            "n_conv_per_stage_decoder": spec.decoder_blocks_per_stage[::-1],
        },
    }
    (folder / "request.json").write_text(json.dumps(request))
    np.save(folder / "input.npy", x.numpy())
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [peer_python("dynamic_network_architectures"), "-c", PEER, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {name: torch.from_numpy(value) for name, value in np.load(folder / "answer.npz").items()}
