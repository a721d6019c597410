"""A network that is to be trained in, the same network compiled, or as it was with the reason, out.

Compiled in place: its parameters keep their names, so checkpoints and weights are the same with and without. What is
compiled is tried at once on batches of all the training's shapes, since torch compiles at the first call of a shape and
records CUDA graphs at the second; a failure there (no compiler, an operation it cannot follow, no memory) leaves the
network as it was, and no measured step pays for it. Whole or not at all: what torch would leave out in silence, a piece
of the network or its graphs, is a failure here. On a CPU nothing is compiled: the `small` network took 1.1 times as
long a step afterwards, and minutes to compile. `docs/decisions/0008` says why it is the network alone.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from autoseg import console
from autoseg.inference.sliding_window import autocast

Compilation = Literal["off", "on", "graphs"]
_ATTEMPTS: dict[Compilation, tuple[Compilation, ...]] = {"off": (), "on": ("on",), "graphs": ("graphs", "on")}
"""Value of the recipe -> what is tried, one after the other, until something works."""
_MODES: dict[Compilation, str | None] = {"on": None, "graphs": "reduce-overhead"}
"""Mode of torch.compile; `reduce-overhead` records CUDA graphs."""
_NAMES: dict[Compilation, str] = {"on": "compilation", "graphs": "CUDA graphs"}
_PASSES: dict[Compilation, int] = {"on": 1, "graphs": 3}
"""Steps tried at once: graphs are recorded in the second and replayed for the first time in the third."""
_STRICT = {"triton.cudagraph_or_error": True, "graph_partition": False}
"""Settings of torch's compiler by which it raises an error where it would run (a part of) a network without graphs."""
_SPARE_RECOMPILATIONS = 8  # torch's own limit, on top of one a shape


def compile_network(
    network: nn.Module,
    wanted: Compilation,
    shapes: Sequence[Sequence[int]],
    device: torch.device,
    precision: str,
    title: str,
    backend: str = "inductor",
) -> Compilation:
    """Compile `network` for batches of `shapes`; tell the person where that is not done as wanted.

    Args:
        network: in train mode, on `device`; its weights stay, and no gradients are left.
        wanted: of the recipe.
        shapes: `N C Z Y X` of every batch that will be trained on, that which needs most memory first.
        device: of the training.
        precision: arithmetic of the training.
        title: of the training, for messages.
        backend: of torch.compile.

    Returns:
        What was done: graphs that cannot be recorded leave the network compiled without them, if that works.
    """
    if wanted != "off" and device.type == "cpu" and backend == "inductor":
        console.say(f"{title}: not compiled, which does not pay on a CPU")
        return "off"
    if wanted != "off":
        console.say(f"{title}: compiling the network for {len(shapes)} shape(s) of batches, minutes for each")
    for kind in _ATTEMPTS[wanted]:
        reason = _reason_against(network, kind, shapes, device, precision, backend)
        if reason is None:
            return kind
        console.warn(f"{title}: trained without {_NAMES[kind]}, which failed: {reason}")
    return "off"


def _reason_against(
    network: nn.Module,
    kind: Compilation,
    shapes: Sequence[Sequence[int]],
    device: torch.device,
    precision: str,
    backend: str,
) -> str | None:
    """Compile and try `kind`; None where it works, else why not, and the network is as it was."""
    try:
        known = torch._inductor.list_options()
        strict = {name: value for name, value in _STRICT.items() if name in known}  # older versions of torch lack some
        torch._dynamo.reset()  # it compiles only so many networks in a process
        network.compile(
            fullgraph=True, dynamic=False, mode=_MODES[kind] if backend == "inductor" else None, backend=backend
        )
        with (
            torch._inductor.config.patch(strict),
            torch._dynamo.config.patch(recompile_limit=len(shapes) + _SPARE_RECOMPILATIONS),
            # As in the training: a recorded graph keeps the kernels that cuDNN chose for it.
            torch.backends.cudnn.flags(enabled=True, benchmark=True),
        ):
            for shape in shapes:
                sample = torch.zeros(tuple(shape), device=device)
                for _ in range(_PASSES[kind]):
                    _pass(network, sample, precision)
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # a kernel's own failure shows here
    except Exception as error:
        undo_compilation(network)
        torch._dynamo.reset()  # the memory of graphs that were recorded is free again
        # torch's first line says where, the second what.
        return " ".join(str(error).strip().splitlines()[:2]) or type(error).__name__
    return None


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
