"""A network and its loss in, what one training step costs out: bytes that live at once, and arithmetic.

The step runs on meta tensors, which have shapes and no values, so it takes milliseconds whatever the patch. Every
tensor that an operation makes counts from then until Python and autograd let go of it; that is what PyTorch's eager
mode holds, and it holds whatever the architecture and the loss are. Not seen is what a kernel takes for itself while
it runs.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch._prims_common import suggest_memory_format
from torch.nn.utils.parametrize import register_parametrization
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

from autoseg.networks.norm import channels_last, meta_stands_for

META = torch.device("meta")

# What autocast computes in half precision and our networks are made of.
_CAST = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


class StepCost(NamedTuple):
    """What one step takes besides weights, optimiser state and the batch itself."""

    peak_bytes: int
    """Most that lives at once in forward, loss and backward; the gradients of the weights are part of it."""
    flops: int
    """Floating-point operations of all convolutions, forward and backward; a multiplication and an addition are two."""


def count_parameters(network: nn.Module) -> int:
    """Number of trainable numbers."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def weight_bytes(network: nn.Module) -> int:
    """Bytes of all weights and buffers."""
    return sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))


def trace_step(
    network: nn.Module,
    loss: Callable[[Sequence[Tensor], Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    half: bool,
    kind: Literal["cpu", "cuda"],
) -> StepCost:
    """Run one step on meta tensors and count.

    Args:
        network: on the meta device, in training mode; not to be used afterwards.
        loss: of the network's outputs and the labels.
        images: N C Z Y X, meta.
        labels: N Z Y X, meta.
        half: whether convolutions compute in bfloat16 or float16, as under autocast.
        kind: device whose kernels are counted; ours differ between the two (`norm`).
    """
    standing = (*network.parameters(), *network.buffers(), images, labels)
    if half:
        _make_half(network)
    with meta_stands_for(kind), _Counter(standing, kind) as live:
        outputs = network(images)
        loss(outputs, labels).backward()  # type: ignore[no-untyped-call]
    return StepCost(live.peak, live.flops)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operations make, takes off those that are freed, and counts arithmetic."""

    def __init__(self, standing: Iterable[Tensor], kind: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kind = kind
        self.now = self.peak = self.flops = 0
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in standing}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if self._kind == "cpu" and func is torch.ops.aten.convolution.default:
            made = _laid_out_as_on_a_cpu(made, args[0], args[1])
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=made)
        for tensor in tree_iter(made):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._sizes:  # else a view, or an operation in place
                    self._add(storage)
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        self._sizes[storage._cdata] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, storage._cdata)

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def _laid_out_as_on_a_cpu(output: Tensor, images: Tensor, weight: Tensor) -> Tensor:
    """A convolution's output as PyTorch's kernels for CPUs lay it out: channels innermost where its input has them so.

    Those for meta tensors do not, and on that depends whether `contiguous` copies it later. (3-D kernels of one voxel
    do not on a CPU either, in float32 and one thread. With more threads they do; a plan must not depend on their
    number.)
    """
    is_one_voxel = output.ndim == 5 and weight[0, 0].numel() == 1 and output.dtype == torch.float32
    has_them_last = suggest_memory_format(images) in (torch.channels_last, torch.channels_last_3d)
    return channels_last(output) if has_them_last and not is_one_voxel else output


class _ToHalf(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.bfloat16)


def _make_half(network: nn.Module) -> None:
    """What autocast does to convolutions: weights and inputs are cast; PyTorch's own does not look at meta tensors."""
    for module in [module for module in network.modules() if isinstance(module, _CAST)]:
        module.register_forward_pre_hook(lambda _, inputs: tuple(x.to(torch.bfloat16) for x in inputs))
        for name, _ in list(module.named_parameters(recurse=False)):
            register_parametrization(module, name, _ToHalf(), unsafe=True)
