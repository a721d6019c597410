"""Steps of small networks, traced and real. As a program it prints the bytes that a real step on the CPU takes."""

import gc
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from autoseg.losses.build import build_loss
from autoseg.networks.build import build_network
from autoseg.networks.cost import META, StepCost, trace_step
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import NetworkSpec
from autoseg.records.recipe import Recipe


def labels_of(num_classes: int) -> LabelScheme:
    names = tuple(f"class {number}" for number in range(num_classes))
    return LabelScheme(class_names=names, class_values=tuple(range(num_classes)), num_entries=num_classes)


LABELS = labels_of(3)


def spec_of(architecture: str, features: Sequence[int], dims: int) -> NetworkSpec:
    n = len(features)
    return NetworkSpec(
        architecture=architecture,
        features_per_stage=tuple(features),
        strides=((1,) * dims, *((2,) * dims,) * (n - 1)),
        kernel_sizes=((3,) * dims,) * n,
        blocks_per_stage=(2,) * n,
        decoder_blocks_per_stage=(2,) * (n - 1),
    )


def network_of(
    architecture: str, features: Sequence[int], patch: Sequence[int], num_heads: int = LABELS.num_heads
) -> torch.nn.Module:
    spec = spec_of(architecture, features, 2 if patch[0] == 1 else 3)
    return build_network(spec, 1, num_heads, seed=0).train()


def saved_bytes(
    network: torch.nn.Module,
    loss: Callable[[Sequence[Tensor], Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    half: bool,
    kind: Literal["cpu", "cuda"] = "cuda",
) -> int:
    """What `trace_step` counts as held when forward and loss are done, for the backward pass."""
    held = []

    def watched(outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
        value = loss(outputs, labels)
        held.append(_get_current_dispatch_mode().now)  # of the counter
        return value

    trace_step(network, watched, images, labels, half=half, kind=kind)
    return held[0]


def traced(
    architecture: str,
    features: Sequence[int],
    patch: Sequence[int],
    batch: int,
    num_heads: int = LABELS.num_heads,
    *,
    half: bool = False,
    kind: Literal["cpu", "cuda"] = "cuda",
) -> StepCost:
    return trace_step(*step_of(architecture, features, patch, batch, num_heads), half=half, kind=kind)


def step_of(
    architecture: str,
    features: Sequence[int],
    patch: Sequence[int],
    batch: int,
    num_heads: int = LABELS.num_heads,
):
    """Network, loss, images and labels on the meta device."""
    with META:
        network = network_of(architecture, features, patch, num_heads)
        images, labels = torch.empty(batch, 1, *patch), torch.empty(batch, *patch, dtype=torch.int16)
    return network, build_loss(Recipe(), labels_of(num_heads), False), images, labels


def measured_bytes(
    architecture: str,
    features: Sequence[int],
    patch: Sequence[int],
    batch: int,
    half: bool,
    num_heads: int = LABELS.num_heads,
) -> int:
    """Peak of the resident memory in a step, less that before it."""
    torch.set_num_threads(1)
    network = network_of(architecture, features, patch, num_heads)
    loss = build_loss(Recipe(), labels_of(num_heads), False)
    batches = [(torch.randn(n, 1, *patch), torch.randint(0, 3, (n, *patch), dtype=torch.int16)) for n in (1, batch)]
    for images, labels in batches:
        network.zero_grad()
        gc.collect()
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            outputs = network(images)
        loss(outputs, labels).backward()
        del outputs
    return _status("VmHWM") - before


def _status(key: str) -> int:
    found = re.search(key + r":\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024


if __name__ == "__main__":
    print(measured_bytes(*json.loads(sys.argv[1])))
