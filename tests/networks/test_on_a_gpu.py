"""Networks as on a GPU: mixed precision, nothing waits, and gradients reach every weight that enters the loss."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from autoseg.networks.blocks import recompute_activations
from autoseg.networks.build import NETWORKS, build_network
from tests.fake_gpu import GPU, fake_gpu, on_gpu
from tests.networks.steps import spec_of

EDGE = 8
IN_FLOAT32 = {"fcn", "fcn_16s", "fcn_32s", "fpn"}
"""End in a linear interpolation, which autocast computes in float32 on a GPU."""


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_mixed_precision_waits_for_nothing(name: str, dims: int) -> None:
    patch = (1, EDGE, EDGE) if dims == 2 else (EDGE,) * 3
    for dtype in (torch.bfloat16, torch.float16)[: dims - 1]:
        with fake_gpu() as watch:
            network = on_gpu(spec_of(name, (4, 8, 8), dims), 2, 3)
            images = torch.empty((2, 2, *patch), device=GPU)
            with torch.autocast("cuda", dtype=dtype):
                outputs = network(images)
            assert outputs[0].shape == (2, 3, *patch)
            assert {output.device for output in outputs} == {GPU}
            assert outputs[0].dtype == (torch.float32 if name in IN_FLOAT32 - {"fpn"} else dtype)
            assert all(output.requires_grad for output in outputs)
        assert watch.copies == []


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_lie_where_and_as_their_weights_do(name: str, recomputes: bool) -> None:
    """As fused optimisers want them; on the device that fake tensors have an autograd engine for."""
    if recomputes and name == "fpn":
        return  # it has no stages to compute again
    with FakeTensorMode(), torch.device("meta"):
        network = build_network(spec_of(name, (4, 8, 8), 3), 2, 3, seed=0).train()
        if recomputes:
            recompute_activations(network)
        outputs = network(torch.empty(2, 2, EDGE, EDGE, EDGE))
        torch.stack([output.sum() for output in outputs]).sum().backward()
        with_gradient = [(n, p) for n, p in network.named_parameters() if p.grad is not None]
        assert len(with_gradient) >= len(list(network.parameters())) - 2, "the coarsest head alone may have none"
        for label, parameter in with_gradient:
            assert parameter.grad.device.type == "meta", label
            assert parameter.grad.stride() == parameter.stride(), label
