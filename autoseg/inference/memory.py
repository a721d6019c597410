"""What a prediction needs of memory in, where it is blended, how many tiles go at a time and how deep slabs are out.

All that grows with classes are the rows being blended (about one patch of them along z), one batch of outputs, and one
slab of the file's grid. All that grows with the whole volume has one value a voxel.
"""

from typing import NamedTuple

import torch

from autoseg.devices import available_memory_bytes, free_gpu_bytes
from autoseg.records.geometry import IntTriple

# Voxels in one batch: enough to fill a GPU; on a CPU larger batches only spill the caches.
_VOXELS_PER_BATCH = {"cuda": 1 << 22, "cpu": 1 << 18}
_MAX_TILES_PER_BATCH = 64
# On a CPU two tiles go together up to this many voxels: PyTorch sends convolutions of one sample with few channels x
# z x y past oneDNN, to kernels that double the time of a narrow network (docs/experiments.md).
_VOXELS_OF_A_PAIR = 1 << 21
# Share of a GPU's free memory that sums and image may take; activations need the rest.
_MAX_BLENDING_SHARE = 0.5
# Share of the free memory that a batch of outputs may take.
_MAX_OUTPUT_SHARE = 0.25
_FLOAT = 4


class Layout(NamedTuple):
    """How a prediction is laid out in memory."""

    blend_on: torch.device
    """Where tiles are cut from the image and outputs are summed."""
    tile_batch: int
    """Tiles a forward pass."""


def choose_layout(
    num_channels: int, num_outputs: int, shape: IntTriple, patch_zyx: IntTriple, device: torch.device
) -> Layout:
    """Lay out the prediction of one image.

    Args:
        num_channels: of the image, previous stage included.
        num_outputs: values summed a voxel: heads and disagreement.
        shape: of the image, z y x, on the network's grid.
        patch_zyx: tile.
        device: where networks run.

    Raises:
        MemoryError: the sums alone are more than what is free; the message says how much is needed.
    """
    sums = blending_bytes(num_outputs, shape, patch_zyx)
    blend_on, free = device, _free_bytes(device)
    if device.type == "cuda" and sums + _FLOAT * num_channels * _volume(shape) > _MAX_BLENDING_SHARE * free:
        blend_on = torch.device("cpu")
    if blend_on.type != "cuda" and sums > (main := available_memory_bytes()):
        raise MemoryError(
            f"it does not fit into memory: {sums / 2**30:.1f} GiB are needed to blend {num_outputs} values a voxel, "
            f"{main / 2**30:.1f} GiB are free. Use a machine with more, or a plan with a smaller patch."
        )
    voxels = _volume(patch_zyx)
    by_speed = _VOXELS_PER_BATCH.get(device.type, _VOXELS_PER_BATCH["cpu"]) // voxels
    if device.type == "cpu" and 2 * voxels <= _VOXELS_OF_A_PAIR:
        by_speed = max(2, by_speed)
    by_memory = int(_MAX_OUTPUT_SHARE * free) // (_FLOAT * num_outputs * voxels)
    return Layout(blend_on, min(max(1, min(by_speed, by_memory)), _MAX_TILES_PER_BATCH))


def blending_bytes(num_outputs: int, shape: IntTriple, patch_zyx: IntTriple) -> int:
    """Sums of outputs and weights in float32 over the rows that are not finished: at most two patches less one row."""
    depth = min(shape[0], 2 * patch_zyx[0] - 1)
    return _FLOAT * (num_outputs + 1) * depth * shape[1] * shape[2]


def _free_bytes(device: torch.device) -> int:
    return free_gpu_bytes(device) if device.type == "cuda" else available_memory_bytes()


def _volume(shape: IntTriple) -> int:
    return shape[0] * shape[1] * shape[2]
