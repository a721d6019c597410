"""Crops of a batch in main memory in, the same crops in pinned memory out: from there they go to a GPU without the host
waiting, and without a copy by the driver into pinned memory of its own.

Pinned memory is slow to get, so a few buffers are used over and over. A batch is gathered straight into one of them:
crops are not contiguous in their volumes, so the host has to gather them in any case, even out of volumes that were
pinned whole, which would keep up to half of the main memory from everybody else. A buffer is written again when the
copies out of it have ended; the thread that gathers waits for that, never the training.

Crops that already lie on the training's device, as all do on a CPU, are handed through as they are.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from autoseg.training.source import Crop

# Of each tensor's first byte in a buffer; what vector instructions and the GPU's copies like.
_ALIGNMENT = 64


@dataclass
class _Buffer:
    memory: Tensor
    """Pinned bytes."""
    copied: torch.cuda.Event
    """Reached when the copies out of it have ended."""


class Staged(NamedTuple):
    """The crops of a batch, ready to be copied to the device."""

    crops: list[Crop]
    buffer: _Buffer | None
    """What they lie in; None: where they lay before."""


class Staging:
    """Pinned buffers of one stream of batches; `hold` may be called by several threads."""

    def __init__(self, device: torch.device) -> None:
        """`device`: of the training."""
        self._device = device
        self._free: deque[_Buffer] = deque()

    def hold(self, crops: Sequence[Crop]) -> Staged:
        """Bring the crops of a batch, one or more, to where their copies to the device can start from.

        Waits for the GPU where it has not fetched the batch that lay in the buffer before. There are never more
        buffers than batches that were held and not released.
        """
        if self._device.type != "cuda" or crops[0].image.device.type != "cpu":
            return Staged(list(crops), None)
        buffer = self._take(sum(_room(part) for crop in crops for part in (crop.image, crop.labels)))
        moved, start = [], 0
        for crop in crops:
            image = _put(crop.image, buffer.memory[start:])
            start += _room(image)
            labels = _put(crop.labels, buffer.memory[start:])
            start += _room(labels)
            moved.append(replace(crop, image=image, labels=labels))
        return Staged(moved, buffer)

    def release(self, staged: Staged) -> None:
        """Say that all copies of a batch to the device have been asked for, in the current stream of the device."""
        if staged.buffer is not None:
            staged.buffer.copied.record(torch.cuda.current_stream(self._device))
            self._free.append(staged.buffer)

    def _take(self, num_bytes: int) -> _Buffer:
        """A buffer of at least `num_bytes` that nothing is copied from; sizes are powers of two, so they soon stay."""
        try:
            buffer = self._free.popleft()
        except IndexError:
            event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # asleep, not in a loop
            buffer = _Buffer(torch.empty(0, dtype=torch.uint8), event)
        else:
            buffer.copied.synchronize()
        if len(buffer.memory) < num_bytes:
            size = 2 ** math.ceil(math.log2(num_bytes))
            buffer.memory = torch.empty(size, dtype=torch.uint8).pin_memory()
        return buffer


def _room(values: Tensor) -> int:
    """Bytes of a buffer that `values` take."""
    return -(-values.nbytes // _ALIGNMENT) * _ALIGNMENT


def _put(values: Tensor, memory: Tensor) -> Tensor:
    """A copy of `values` at the beginning of `memory`."""
    return memory[: values.nbytes].view(values.dtype).view(values.shape).copy_(values)
