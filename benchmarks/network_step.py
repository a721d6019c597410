"""CPU milliseconds of a training step's forward, loss and backward, ours beside PyTorch's own normalisation.

    python benchmarks/network_step.py [--repeats 5]

Plain and residual U-Nets, patch 40x56x40, batch 2, float32 and bfloat16. The peer is the same network with
`nn.InstanceNorm3d` and `nn.LeakyReLU(inplace=True)`, which is what nnU-Net runs; after its first normalisation it
computes in channels-first memory. The sides take turns step by step in one process, on one thread; the figure is the
least CPU time. Prints one JSON line a case; `difference` is that of their float32 logits, over the largest logit.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable

import torch
from torch import nn

from autoseg.losses.build import build_loss
from autoseg.networks.build import build_network
from autoseg.networks.norm import InstanceNorm
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import NetworkSpec
from autoseg.records.recipe import Recipe

PATCH, BATCH_SIZE = (40, 56, 40), 2
# Name: architecture, features and arithmetic.
CASES = {
    "plain 12-96, float32": ("plain_unet", (12, 24, 48, 96), torch.float32),
    "plain 12-96, bfloat16": ("plain_unet", (12, 24, 48, 96), torch.bfloat16),
    "residual 12-96, float32": ("residual_unet", (12, 24, 48, 96), torch.float32),
    "residual 12-96, bfloat16": ("residual_unet", (12, 24, 48, 96), torch.bfloat16),
    "plain 32-256, float32": ("plain_unet", (32, 64, 128, 256), torch.float32),
    "plain 32-256, bfloat16": ("plain_unet", (32, 64, 128, 256), torch.bfloat16),
}
LABELS = LabelScheme(class_names=("background", "a", "b"), class_values=(0, 1, 2), num_entries=3)


def make_network(architecture: str, features: tuple[int, ...]) -> nn.Module:
    num_stages = len(features)
    spec = NetworkSpec(
        architecture=architecture,
        features_per_stage=features,
        strides=((1, 1, 1), *((2, 2, 2),) * (num_stages - 1)),
        kernel_sizes=((3, 3, 3),) * num_stages,
        blocks_per_stage=(2,) * num_stages,
        decoder_blocks_per_stage=(2,) * (num_stages - 1),
    )
    return build_network(spec, 1, LABELS.num_heads, seed=0).train()


def with_pytorch_norms(network: nn.Module) -> nn.Module:
    """A copy in which PyTorch's modules, with the same numbers, stand for ours."""
    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, InstanceNorm):
                norm = nn.InstanceNorm3d(len(module.weight), affine=True)
                norm.load_state_dict(module.state_dict())
                act = nn.LeakyReLU(module.slope, inplace=True) if module.slope != 1 else nn.Identity()
                setattr(parent, name, nn.Sequential(norm, act))
    return network


def make_step(network: nn.Module, precision: torch.dtype) -> Callable[[], float]:
    g = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH_SIZE, 1, *PATCH, generator=g)
    target = torch.randint(0, LABELS.num_classes, (BATCH_SIZE, *PATCH), generator=g)
    loss = build_loss(Recipe(), LABELS, batch_dice=False)

    def step() -> float:
        network.zero_grad()
        start = time.thread_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            outputs = network(images)
        loss(outputs, target).backward()
        return time.thread_time() - start

    return step


def measure(name: str, repeats: int) -> dict[str, object]:
    architecture, features, precision = CASES[name]
    ours = make_network(architecture, features)
    peer = with_pytorch_norms(ours)
    images = torch.randn(1, 1, *PATCH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        a, b = ours(images)[0], peer(images)[0]
    steps = {"ours": make_step(ours, precision), "peer": make_step(peer, precision)}
    times: dict[str, list[float]] = {side: [] for side in steps}
    for repeat in range(repeats + 1):
        for side, step in steps.items():
            seconds = step()
            if repeat > 0:
                times[side].append(seconds)
    best = {side: 1000 * min(values) for side, values in times.items()}
    return {
        "name": name,
        "ours": round(best["ours"]),
        "peer": round(best["peer"]),
        "unit": "ms CPU",
        "ratio": round(best["peer"] / best["ours"], 2),
        "difference": float(f"{(a - b).abs().max() / b.abs().max():.1e}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in CASES:
        print(json.dumps(measure(name, arguments.repeats)), flush=True)


if __name__ == "__main__":
    main()
