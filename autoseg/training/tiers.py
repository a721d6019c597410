"""Bytes of the cases and of free memory in, the place where their voxels are held out, with the reason for people.

Three tiers give the same voxels and so the same training: everything on the device (a GPU's own memory), everything in
main memory, or boxes read from disk when they are needed. The choice is a function of measured sizes alone, so what is
said after preprocessing and what a training does differ only where the memory that is free differs.

Images whose normalisation bounds them are held as float16 and labels as bytes (`held_types`), by every tier alike, in
half the memory and half the copies. Patches are float32 again before anything is computed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from autoseg.devices import available_memory_bytes, free_gpu_bytes, num_cores
from autoseg.records.geometry import IntTriple
from autoseg.records.plan import Normalization

Tier = Literal["device", "memory", "disk"]

# Share of free memory that the cases may take; networks, gradients and inference need the rest.
_MEMORY_SHARE, _GPU_SHARE = 0.5, 0.5
_GPU_RESERVE_BYTES = 10 * 2**30
# Threads that send patches through a user's transforms for a GPU: as many as batches are made ahead (`source`).
_MOST_THREADS = 4
# Normalisations after which no voxel is beyond float16's 65504: a z-score of n voxels is below the root of n.
_BOUNDED: frozenset[Normalization] = frozenset(("ct", "zscore", "rescale", "rgb"))


@dataclass(frozen=True)
class HeldTypes:
    """Types of the voxels between the store and the patch."""

    image: torch.dtype = torch.float32
    labels: torch.dtype = torch.int16
    outside: int = 0
    """Label that stands for background outside the nonzero mask."""


class TierChoice(NamedTuple):
    """Where the voxels are held."""

    tier: Tier
    reason: str
    """For people, to go after the number and the size of the cases."""


def held_types(normalization: Sequence[Normalization], num_classes: int, outside: int = 0) -> HeldTypes:
    """The smallest types that lose nothing that matters.

    float16 rounds a value by at most 1/2048 of itself: of a normalised CT a fraction of a Hounsfield unit, far below
    the noise (measured in `docs/experiments.md`, beside int16 with a scale). Intensities that were not normalised
    stay float32.

    Args:
        normalization: one a channel.
        num_classes: background included; one label more may mark voxels to ignore.
        outside: label of background outside the nonzero mask.
    """
    image = torch.float16 if _BOUNDED.issuperset(normalization) else torch.float32
    is_small = max(num_classes, outside) <= torch.iinfo(torch.uint8).max
    return HeldTypes(image, torch.uint8 if is_small else torch.int16, outside)


def memory_bytes(
    shapes: Sequence[IntTriple], num_channels: int, num_maps: int = 1, held: HeldTypes = HeldTypes()
) -> int:
    """Memory that cases of these shapes take when they are held whole."""
    a_voxel = num_channels * held.image.itemsize + num_maps * held.labels.itemsize
    return sum(math.prod(shape) for shape in shapes) * a_voxel


def choose_tier(
    num_bytes: int, free_host_bytes: int, free_device_bytes: int | None = None, planned_bytes: int = 0
) -> TierChoice:
    """The fastest tier into which the cases fit beside the training itself.

    Args:
        num_bytes: of the cases, see `memory_bytes`.
        free_host_bytes: main memory that is free; half of it can be theirs.
        free_device_bytes: memory of the GPU that is free; half of it can be theirs, but at least 10 GiB are left to
            the training. None: it trains on no GPU.
        planned_bytes: what the plan gives the training of the GPU's memory; as much is left to it.
    """
    host_room, beside = int(_MEMORY_SHARE * free_host_bytes), ""
    if free_device_bytes is not None:
        left = free_device_bytes - max(_GPU_RESERVE_BYTES, planned_bytes)
        room = max(0, min(int(_GPU_SHARE * free_device_bytes), left))
        if num_bytes <= room:
            return TierChoice("device", f"held on the GPU, which has room for {_gib(room)} of cases")
        beside = f", the GPU for {_gib(room)}"
    if num_bytes <= host_room:
        return TierChoice("memory", f"held in main memory, which has room for {_gib(host_room)} of cases{beside}")
    return TierChoice(
        "disk", f"read from disk patch by patch: main memory has room for {_gib(host_room)} of cases{beside}"
    )


def tier_here(num_bytes: int, device: torch.device, planned_bytes: int = 0, transforms: bool = False) -> TierChoice:
    """`choose_tier` with the memory that is free now on this machine and on `device`.

    With a user's `transforms`, which work on the CPU, nothing is held on a GPU.
    """
    free_device_bytes = free_gpu_bytes(device) if device.type == "cuda" and not transforms else None
    return choose_tier(num_bytes, available_memory_bytes(), free_device_bytes, planned_bytes)


def num_reading_threads(tier: Tier, device: torch.device, transforms: bool = False) -> int:
    """Threads that prepare batches ahead; 0: the training does it itself.

    One thread keeps up with a CPU's training and takes little away from it. A GPU is fed by one thread out of memory
    and by two from disk, which unpack without holding Python's lock; with a user's `transforms` by one on each core
    but that of the training. On a CPU a training runs them itself: they may draw from the global generators, and so
    may its network.
    """
    is_gpu = device.type == "cuda"
    if transforms:
        return max(1, min(_MOST_THREADS, num_cores() - 1)) if is_gpu else 0
    return {"device": 0, "memory": int(is_gpu), "disk": 2 if is_gpu else 1}[tier]


def describe_tier(
    choice: TierChoice,
    num_cases: int,
    num_bytes: int,
    held: HeldTypes,
    device: torch.device,
    transforms: bool = False,
) -> str:
    """One line for people: where the cases are while the training runs, and why."""
    kind = str(held.image).removeprefix("torch.")
    threads = num_reading_threads(choice.tier, device, transforms)
    ahead = f"; threads ({threads}) prepare batches ahead of the training" if threads else ""
    return f"{num_cases} training cases, {_gib(num_bytes)} as {kind}: {choice.reason}{ahead}."


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2g} GiB"
