"""The path of an nnU-Net checkpoint in, its weights and facts out; a limited process of its own reads it."""

import subprocess
import sys
from pathlib import Path

from torch import Tensor

from autoseg.errors import ModelError
from autoseg.interop.checkpoint_reader import FACTS, WEIGHTS
from autoseg.records.base import Record, read_record
from autoseg.storage.atomic import scratch_folder

_SECONDS = 1800


class CheckpointFacts(Record):
    """What an nnU-Net checkpoint says beside its weights."""

    configuration: str
    """nnU-Net's name, a key of `configurations` in `plans.json`."""
    trainer: str
    """Name of the class that trained it."""
    mirror_axes: tuple[int, ...]
    """Spatial axes of the network's input that prediction may flip, counted from its first."""
    epochs: int
    """Finished ones."""


def read_checkpoint(path: Path, scratch: Path) -> tuple[CheckpointFacts, dict[str, Tensor]]:
    """Read a checkpoint without trusting it.

    Args:
        path: `checkpoint_final.pth` or another of nnU-Net's.
        scratch: folder in which a temporary one is made.

    Returns:
        Facts, and nnU-Net's parameter name -> float32 tensor, each parameter once.

    Raises:
        ModelError: it is damaged, no checkpoint of nnU-Net v2, or holds more than weights and numbers.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with scratch_folder(scratch) as folder:
        command = [sys.executable, "-m", "autoseg.interop.checkpoint_reader", str(path.resolve()), str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise ModelError(f"{path} was not read within {_SECONDS // 60} minutes; it was given up.") from error
        if done.returncode != 0:
            reason = done.stderr.strip().splitlines()[-1:] or [f"its reader ended with {done.returncode}"]
            raise ModelError(f"{path} is not read: {reason[0]}.")
        try:
            return read_record(folder / FACTS, CheckpointFacts, ModelError), load_file(folder / WEIGHTS)
        except SafetensorError as error:
            raise ModelError(f"{path} is not read: {error}.") from error
