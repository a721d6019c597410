"""A program of its own: an nnU-Net checkpoint in, its weights as safetensors and a few facts as JSON out.

    python -m autoseg.interop.checkpoint_reader CHECKPOINT OUT_FOLDER

A checkpoint can name any code to be run, and somebody else wrote it. It is read by torch's own restricted reader,
which builds tensors, containers and numbers and calls nothing else; besides that, only numpy's numbers are let in, as
plain Python numbers. The program limits its memory, time and output before it touches the file, so that a hostile one
ends here, and what it hands back can name no code. `checkpoints.read_checkpoint` starts it.
"""

import contextlib
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from autoseg.interop.nnunet_names import without_copies

WEIGHTS, FACTS = "weights.safetensors", "facts.json"
_SPARE_BYTES = 2 << 30
_CPU_SECONDS = 600


def main(checkpoint: Path, folder: Path) -> str | None:
    """Read `checkpoint` and write both files into `folder`; returns as text why it cannot be read."""
    if not zipfile_like(checkpoint):
        return "it is not in the format that PyTorch writes since 1.6"
    limit_this_process(checkpoint.stat().st_size)
    try:
        with zipfile.ZipFile(checkpoint) as archive:  # torch's reader does not look at the checksums that torch writes
            if damaged := archive.testzip():
                return f"it is damaged: its checksum of {damaged} does not fit; copy it again"
        with torch.serialization.safe_globals(_numbers_of_numpy()):
            content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except MemoryError:
        return "it needs more memory than its size allows"
    except Exception as error:
        # Whatever a damaged or hostile file brings torch's reader to, the answer is the same: it is not read.
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        return f"it holds more than weights and numbers, or is damaged ({reason})"
    try:
        weights, facts = _weights(content["network_weights"]), _facts(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return f"it is no checkpoint of nnU-Net v2 ({type(error).__name__}: {str(error)[:300]})"
    save_file(weights, folder / WEIGHTS)
    (folder / FACTS).write_text(json.dumps(facts), "utf-8")
    return None


def zipfile_like(path: Path) -> bool:
    """Whether the file begins as a zip archive; the older formats are pickles from their first byte."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def limit_this_process(file_bytes: int) -> None:
    """Cap memory (beyond what torch has taken already), time and the size of files; where the system can."""
    with contextlib.suppress(ImportError):  # Windows has no such limits
        import resource

        taken = 0
        with contextlib.suppress(OSError):  # only Linux tells
            taken = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
        limits = {
            resource.RLIMIT_CPU: _CPU_SECONDS,
            resource.RLIMIT_FSIZE: 2 * file_bytes + (16 << 20),
            resource.RLIMIT_CORE: 0,
        }
        if taken:
            limits[resource.RLIMIT_AS] = taken + 4 * file_bytes + _SPARE_BYTES
        for kind, limit in limits.items():
            hard = resource.getrlimit(kind)[1]
            allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            resource.setrlimit(kind, (allowed, allowed))


def _numbers_of_numpy() -> list[Any]:
    """What torch's reader may build beside its own: numpy's number types, and our reader in place of its scalars."""
    kinds = (np.bool_, np.int32, np.int64, np.float16, np.float32, np.float64)
    types = [type(np.dtype(kind)) for kind in kinds]
    scalars = [(_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [np.dtype, *types, *scalars]


def _number(kind: "np.dtype[Any]", content: bytes) -> float:
    if kind.kind not in "bif" or len(content) != kind.itemsize:
        raise ValueError(f"a numpy scalar of type {kind}")
    return float(np.frombuffer(content, kind)[0])


def _weights(given: Any) -> dict[str, torch.Tensor]:
    """The parameters, each once; a name that stands for another one (nnU-Net registers modules twice) must equal it."""
    weights: dict[str, torch.Tensor] = {}
    for key, value in given.items():
        name = without_copies(str(key))
        value = value.float().contiguous()
        if name in weights and not torch.equal(weights[name], value):
            raise ValueError(f"two parameters are called {name}")
        weights.setdefault(name, value)
    # A clone each: safetensors refuses tensors that share memory.
    return {name: value.clone() for name, value in weights.items()}


def _facts(content: dict[str, Any]) -> dict[str, Any]:
    axes = content.get("inference_allowed_mirroring_axes")
    return {
        "configuration": str(content["init_args"]["configuration"]),
        "trainer": str(content["trainer_name"]),
        "mirror_axes": [] if axes is None else [int(axis) for axis in axes],
        "epochs": int(content.get("current_epoch", 0)),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    problem = main(Path(sys.argv[1]), Path(sys.argv[2]))
    if problem is not None:
        sys.stderr.write(problem)
        sys.exit(1)
