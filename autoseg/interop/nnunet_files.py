"""The path of a JSON file of nnU-Net's in, its content out, without trusting who wrote it."""

import json
from pathlib import Path
from typing import Any

from autoseg.errors import ModelError

_MAX_JSON_BYTES = 1 << 28


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; raises ModelError where there is none, or it is larger than any of nnU-Net's."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ModelError(f"{path} is larger than any that nnU-Net writes.")
        content = json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing; nnU-Net writes one beside its folds.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is no readable JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: expected a JSON object.")
    return content
