"""Files or JSON-like values in, sha256 hex digests out: what decides whether a stage may be skipped."""

import hashlib
import json
import mmap
from pathlib import Path
from typing import Any


def sha256_file(path: Path) -> str:
    """Digest of the file's bytes, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_bytes(content: bytes | mmap.mmap) -> str:
    """Digest of `content`."""
    return hashlib.sha256(content).hexdigest()


def sha256_json(value: Any) -> str:
    """Digest of a JSON-like value, independent of key order and spacing."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())
