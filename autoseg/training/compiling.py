"""A network that is to be trained in, the same network compiled, or as it was with the reason, out.

Compiled in place: its parameters keep their names, so checkpoints and weights are the same with and without. What is
compiled is tried at once on a batch of the training's shape, since torch compiles at the first call and records CUDA
graphs at the second; a failure there (no compiler, an operation it cannot follow, no memory) leaves the network as it
was, and no measured step pays for it. On a CPU nothing is compiled: the `small` network took 1.1 times as long a step
afterwards, and minutes to compile.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from autoseg import console
from autoseg.inference.sliding_window import autocast

Compilation = Literal["off", "on", "graphs"]
_MODES: dict[Compilation, str | None] = {"on": None, "graphs": "reduce-overhead"}
"""Value of the recipe -> mode of torch.compile; `reduce-overhead` records CUDA graphs."""
_PASSES: dict[Compilation, int] = {"on": 1, "graphs": 3}
"""Steps tried at once: graphs are recorded in the second and replayed for the first time in the third."""


def compile_network(
    network: nn.Module, wanted: Compilation, sample: Tensor, precision: str, title: str, backend: str = "inductor"
) -> bool:
    """Compile `network` for batches like `sample`; tell the person where that is not done.

    Args:
        network: in train mode, on the device of `sample`; its weights stay, and no gradients are left.
        wanted: of the recipe.
        sample: `N C Z Y X` of the training's shape; values do not matter.
        precision: arithmetic of the training.
        title: of the training, for messages.
        backend: of torch.compile.

    Returns:
        Whether it is compiled.
    """
    if wanted == "off":
        return False
    if sample.device.type == "cpu" and backend == "inductor":
        console.say(f"{title}: not compiled, which does not pay on a CPU")
        return False
    mode = _MODES[wanted] if backend == "inductor" else None
    try:
        torch._dynamo.reset()  # it compiles only so many networks in a process
        network.compile(dynamic=False, mode=mode, backend=backend)
        # As in the training: a recorded graph keeps the kernels that cuDNN chose for it.
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            for _ in range(_PASSES[wanted]):
                _pass(network, sample, precision)
    except Exception as error:
        undo_compilation(network)
        torch._dynamo.reset()  # the memory of graphs that were recorded is free again
        # torch's first line says where, the second what.
        reason = " ".join(str(error).strip().splitlines()[:2]) or type(error).__name__
        console.warn(f"{title}: trained without compilation, which failed: {reason}")
        return False
    finally:
        if sample.device.type == "cuda":
            torch.cuda.synchronize(sample.device)
    return True


def _pass(network: nn.Module, sample: Tensor, precision: str) -> None:
    """Forward and backward. No gradient stays, since the next pass of a recorded graph writes where this one lies."""
    try:
        with autocast(sample.device, precision):
            outputs = network(sample)
        sum(output.float().sum() for output in outputs).backward()
    finally:
        for parameter in network.parameters():
            parameter.grad = None


def undo_compilation(network: nn.Module) -> None:
    """Call the network as it is written from now on: validation has other shapes, each of which would be compiled."""
    network._compiled_call_impl = None
