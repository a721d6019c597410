"""Named tensors and a JSON-like state in, a checked checkpoint folder out, and back. No pickle anywhere.

A checkpoint is a folder: `<name>.safetensors` files, `state.json`, and `MANIFEST.json` with the sha256
of each, written last. safetensors itself has no checksum, and a flipped bit in weights is silent, so
every file is hashed when it is written and compared when it is read. The folder is made beside its
target and renamed, and `save` keeps the previous one until the new one is complete.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as safetensors_load
from safetensors.torch import save as safetensors_save

from autoseg.errors import ModelError, ResourceError
from autoseg.storage.atomic import cannot_write, write_bytes, write_text
from autoseg.storage.hashing import sha256_bytes

FORMAT_VERSION = 1


def save(folder: Path, tensors: Mapping[str, Mapping[str, torch.Tensor]], state: Mapping[str, Any]) -> None:
    """Write a checkpoint folder, replacing an older one only when the new one is complete.

    Args:
        folder: target folder.
        tensors: file name (without ending) -> tensor name -> tensor; stored on the CPU, contiguous.
        state: JSON-like values (step counters, history length, ...).

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """
    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    digests: dict[str, str] = {}
    try:
        for name, group in tensors.items():
            content = safetensors_save({key: value.detach().cpu().contiguous() for key, value in group.items()})
            digests[f"{name}.safetensors"] = sha256_bytes(content)
            write_bytes(fresh / f"{name}.safetensors", content)
        text = json.dumps(state, indent=1, allow_nan=False)
        digests["state.json"] = sha256_bytes(text.encode())
        write_text(fresh / "state.json", text)
        manifest = {"format_version": FORMAT_VERSION, "sha256": digests}
        write_text(fresh / "MANIFEST.json", json.dumps(manifest, indent=1))
    except (OSError, ResourceError):
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    try:
        if folder.exists():
            os.replace(folder, old)
        os.replace(fresh, folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    shutil.rmtree(old, ignore_errors=True)


def load(folder: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """Read a checkpoint folder back, after every hash has been compared.

    Returns:
        The tensors as given to `save`, on the CPU, and the state.

    Raises:
        ModelError: the folder, or what a crash left of it, holds no complete and unchanged checkpoint.
    """
    problems = []
    # A crash between the two renames of `save` leaves the complete states under the other names.
    for candidate in (folder, folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")):
        if not (candidate / "MANIFEST.json").is_file():
            continue
        try:
            return _load_one(candidate)
        except ModelError as error:
            problems.append(str(error))
    raise ModelError("; ".join(problems) or f"{folder} holds no checkpoint (MANIFEST.json is missing).")


def exists(folder: Path) -> bool:
    """Whether `folder` (or what a crash left beside it) holds a checkpoint, without checking its hashes."""
    names = (folder.name, folder.name + ".new", folder.name + ".old")
    return any((folder.with_name(name) / "MANIFEST.json").is_file() for name in names)


def _load_one(folder: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    try:
        manifest = json.loads((folder / "MANIFEST.json").read_text("utf-8"))
        version, digests = manifest["format_version"], dict(manifest["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / 'MANIFEST.json'} is not readable: {error}.") from error
    if version > FORMAT_VERSION:
        raise ModelError(f"{folder} is of format {version}, this autoseg knows {FORMAT_VERSION}: upgrade autoseg.")
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    state: dict[str, Any] = {}
    for name, digest in digests.items():
        if "/" in name or "\\" in name:
            raise ModelError(f"{folder / 'MANIFEST.json'} names a file outside its folder: {name!r}.")
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            raise ModelError(f"{folder / name} cannot be read: {error.strerror}.") from error
        if sha256_bytes(content) != digest:
            raise ModelError(f"{folder / name} is not the file that was written (its sha256 differs).")
        if name.endswith(".safetensors"):
            tensors[name.removesuffix(".safetensors")] = safetensors_load(content)
        else:
            state = json.loads(content)
    return tensors, state
