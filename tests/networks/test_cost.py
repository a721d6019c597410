import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._prims_common import suggest_memory_format
from torch.utils._python_dispatch import TorchDispatchMode

from autoseg.losses.build import build_loss
from autoseg.networks import cost as tracing
from autoseg.networks.build import build_network
from autoseg.networks.cost import META, StepCost, count_parameters, trace_step, weight_bytes
from autoseg.records.plan import NetworkSpec
from autoseg.records.recipe import Recipe
from tests.networks.steps import LABELS, network_of, saved_bytes, spec_of, step_of, traced

SPEC = NetworkSpec(
    architecture="plain_unet",
    features_per_stage=(4, 8),
    strides=((1, 1, 1), (1, 2, 2)),
    kernel_sizes=((1, 3, 3), (3, 3, 3)),
    blocks_per_stage=(1, 1),
    decoder_blocks_per_stage=(1,),
)


class _OneConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 5, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.conv(x),)


def test_parameters_by_hand() -> None:
    network = build_network(SPEC, 3, 2, seed=0)
    norms = 2 * (4 + 8 + 4)
    # Two convolutions down, a transposed one of kernel = stride up, one beside the skip, and the logits.
    convolutions = (27 * 4 + 4) + (108 * 8 + 8) + (8 * 4 * 4 + 4) + (72 * 4 + 4) + (4 * 2 + 2)
    assert count_parameters(network) == convolutions + norms
    assert weight_bytes(network) == 4 * (convolutions + norms)
    network.requires_grad_(False)
    assert count_parameters(network) == 0


def _one_convolution():
    with META:
        images, labels = torch.empty(3, 2, 4, 6, 8), torch.empty(3, 4, 6, 8)
        return _OneConvolution(), lambda out, _: out[0].sum(), images, labels


def _trace_one_convolution(half: bool) -> StepCost:
    return trace_step(*_one_convolution(), half=half, kind="cuda")


def test_one_convolution_by_hand() -> None:
    voxels, weights = 3 * 4 * 6 * 8, 5 * 2 * 27
    cost = _trace_one_convolution(half=False)
    # Kept: the output and the scalar. Then the gradient of the scalar (that of the sum is a view of it), and of the
    # weights (the images have none).
    assert saved_bytes(*_one_convolution(), half=False) == 4 * (5 * voxels + 1)
    assert cost.peak_bytes == 4 * (5 * voxels + 1 + 1 + weights)
    # Forward and the gradient of the weights, two operations a product.
    assert cost.flops == 2 * 2 * voxels * weights


def test_half_precision_keeps_copies_of_weights_and_images() -> None:
    voxels, weights = 3 * 4 * 6 * 8, 5 * 2 * 27
    cost = _trace_one_convolution(half=True)
    assert saved_bytes(*_one_convolution(), half=True) == 2 * (5 * voxels + 2 * voxels + weights) + 2
    assert cost.flops == _trace_one_convolution(half=False).flops


def test_a_trace_leaves_nothing_behind_for_real_steps() -> None:
    traced("plain_unet", (4, 8), (8, 8, 8), 2)
    loss = build_loss(Recipe(), LABELS, False)
    network = build_network(spec_of("plain_unet", (4, 8), 3), 1, LABELS.num_heads, seed=0).train()
    value = loss(network(torch.zeros(1, 1, 8, 8, 8)), torch.zeros(1, 8, 8, 8, dtype=torch.int16))
    assert value.device.type == "cpu"
    assert torch.isfinite(value)


def test_bytes_grow_with_the_batch_and_fall_in_half_precision() -> None:
    one, two, half = (
        saved_bytes(*step_of("residual_unet", (16, 32), (32, 32, 32), batch), half=half)
        for batch, half in ((1, False), (2, False), (2, True))
    )
    assert 1.98 < two / one <= 2
    assert half < 0.6 * two


class _Layouts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Whether each convolution's output has its channels innermost."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[tuple[tuple[int, ...], bool]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.found.append((tuple(made.shape), suggest_memory_format(made) != torch.contiguous_format))
        return made


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("patch", [(1, 16, 16), (16, 16, 16)])
@pytest.mark.parametrize("architecture", ["plain_unet", "residual_unet", "mednext", "fpn", "fcn"])
def test_traced_convolutions_are_laid_out_as_on_a_cpu(
    architecture: str, patch: tuple[int, int, int], half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # with more of them PyTorch takes other kernels
    try:
        with _Layouts() as real, torch.autocast("cpu", torch.bfloat16, enabled=half):
            network_of(architecture, (8, 16, 32), patch)(torch.randn(2, 1, *patch))
    finally:
        torch.set_num_threads(threads)
    laid_out_so = []

    def noting(output: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        result = lay_out(output, *inputs)
        laid_out_so.append((tuple(output.shape), suggest_memory_format(result) != torch.contiguous_format))
        return result

    lay_out = tracing._laid_out_as_on_a_cpu
    monkeypatch.setattr(tracing, "_laid_out_as_on_a_cpu", noting)
    traced(architecture, (8, 16, 32), patch, 2, half=half, kind="cpu")
    assert len(real.found) > 5
    assert laid_out_so == real.found


CASES = [
    ("plain_unet", (12, 24, 48, 96), (40, 56, 40), 2, False),
    ("plain_unet", (12, 24, 48, 96), (40, 56, 40), 2, True),
    ("plain_unet", (32, 64, 128), (64, 64, 64), 1, False),
    ("plain_unet", (32, 64, 128), (64, 64, 64), 1, True),
    ("plain_unet", (16, 32, 64, 128), (1, 256, 256), 4, False),
    ("residual_unet", (12, 24, 48, 96), (40, 56, 40), 2, False),
    ("residual_unet", (16, 32, 64), (48, 64, 32), 1, True),
    ("residual_unet", (16, 32, 64, 128), (1, 192, 256), 4, False),
    ("fcn", (12, 24, 48, 96), (40, 56, 40), 2, False),
    ("plain_unet", (16,), (64, 64, 48), 2, False),  # of one stage
    ("plain_unet", (16, 32, 64), (1, 128, 128), 3, False, 105),  # as many heads as a whole-body dataset has classes
    ("plain_unet", (8, 16), (32, 48, 48), 1, False, 105),
    ("mednext", (16, 32, 64), (32, 48, 48), 1, False),
    ("fpn", (16, 32, 64), (32, 64, 48), 1, False),
]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").is_file(), reason="the system keeps no peak that can be reset")
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(str(value) for value in case))
def test_traced_peaks_are_the_measured_ones(case: tuple[object, ...]) -> None:
    """Peak of the resident memory of a process during one step, less what it had before: within a tenth of the trace.

    A process of its own, whose allocator gives freed memory back at once (`MALLOC_*`), after a step of one sample that
    loads libraries and makes their buffers.
    """
    malloc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}
    command = [sys.executable, "-m", "tests.networks.steps", json.dumps(case)]
    environment = {**os.environ, **malloc, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    measured = int(done.stdout)
    architecture, features, patch, batch, half, *num_heads = case
    predicted = traced(architecture, features, patch, batch, *num_heads, half=half, kind="cpu").peak_bytes  # type: ignore[arg-type]
    assert measured == pytest.approx(predicted, rel=0.1)
