"""A network in, its size out: parameters, operations and the memory that a training step must hold.

Everything runs on PyTorch's meta device: shapes are computed, numbers are not, so that a plan for a large GPU
is costed on a small CPU in milliseconds.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from autoseg.networks.build import build_network
from autoseg.records.geometry import IntTriple
from autoseg.records.plan import NetworkSpec


@dataclass(frozen=True)
class NetworkCost:
    """What one network costs at one input size."""

    num_parameters: int
    """Trainable numbers."""
    forward_flops: int
    """Operations of a forward pass in training mode, a multiply-add being two; backward takes twice as many."""
    saved_bytes: int
    """Memory of what the forward pass keeps for the backward pass, in float32, without the parameters."""


def estimate_cost(
    spec: NetworkSpec, num_input_channels: int, num_heads: int, patch_zyx: IntTriple, batch_size: int
) -> NetworkCost:
    """Cost of a training step of the network of `spec` on `batch_size` patches.

    Raises:
        UsageError: no such architecture.
    """
    with torch.device("meta"):
        network = build_network(spec, num_input_channels, num_heads, seed=0).train()
    shape = (batch_size, num_input_channels, *patch_zyx)
    return NetworkCost(count_parameters(network), count_flops(network, shape), count_saved_bytes(network, shape))


def count_parameters(network: nn.Module) -> int:
    """Number of trainable numbers."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def count_flops(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Operations of a forward pass on an input of `shape` (N C Z Y X), in the network's current mode.

    Args:
        network: on the meta device, where this takes milliseconds, or any other, where it really computes.
        shape: of the input.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(shape, device=_device(network)))
    return int(counter.get_total_flops())


def count_saved_bytes(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Bytes that a forward pass on an input of `shape` (N C Z Y X) keeps for backward, parameters not counted."""
    parameters = {_storage(p)[0] for p in network.parameters()}
    # The storages are held, since a freed one's identity may return with another.
    held: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        identity, storage = _storage(tensor)
        if identity not in parameters:
            held[identity] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.empty(shape, device=_device(network)))
    return sum(storage.nbytes() for storage in held.values())


def _storage(tensor: Tensor) -> tuple[int, torch.UntypedStorage]:
    storage = tensor.untyped_storage()
    return storage._cdata, storage


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
