import json
from pathlib import Path

import pytest
import torch

from autoseg.errors import ModelError
from autoseg.storage import tensors


def saved(folder: Path, value: float) -> None:
    tensors.save(folder, {"weights": {"a": torch.full((3,), value)}, "optimizer": {}}, {"epoch": int(value)})


def test_round_trip(tmp_path: Path) -> None:
    saved(tmp_path / "c", 1.0)
    groups, state = tensors.load(tmp_path / "c")
    assert torch.equal(groups["weights"]["a"], torch.ones(3))
    assert groups["optimizer"] == {}
    assert state == {"epoch": 1}


@pytest.mark.parametrize("name", ["weights.safetensors", "state.json", "MANIFEST.json"])
def test_every_flipped_byte_is_found(tmp_path: Path, name: str) -> None:
    saved(tmp_path / "c", 1.0)
    path = tmp_path / "c" / name
    content = bytearray(path.read_bytes())
    for position in range(0, len(content), max(1, len(content) // 20)):
        changed = bytearray(content)
        changed[position] ^= 1
        path.write_bytes(bytes(changed))
        try:
            groups, state = tensors.load(tmp_path / "c")
        except ModelError:
            continue
        # A flip in the manifest's white space or an unused digit changes nothing that matters.
        assert name == "MANIFEST.json"
        assert torch.equal(groups["weights"]["a"], torch.ones(3))
        assert state == {"epoch": 1}


@pytest.mark.parametrize("left", ["c.new", "c.old"])
def test_what_a_crash_between_renames_leaves_is_found(tmp_path: Path, left: str) -> None:
    saved(tmp_path / "c", 2.0)
    (tmp_path / "c").rename(tmp_path / left)
    assert tensors.exists(tmp_path / "c")
    assert tensors.load(tmp_path / "c")[1] == {"epoch": 2}


def test_missing_newer_and_escaping_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no checkpoint"):
        tensors.load(tmp_path / "none")
    saved(tmp_path / "c", 1.0)
    manifest = tmp_path / "c" / "MANIFEST.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "format_version": 99}))
    with pytest.raises(ModelError, match="upgrade autoseg"):
        tensors.load(tmp_path / "c")
    manifest.write_text(json.dumps({**content, "sha256": {"../x": "0"}}))
    with pytest.raises(ModelError, match="outside its folder"):
        tensors.load(tmp_path / "c")
