"""The paths of an export in, the folds to be exported out, once both are as they must be."""

from pathlib import Path

from autoseg.errors import ModelError, UsageError
from autoseg.inference.model import fold_folders


def folds_to_export(model: Path, output: Path) -> list[Path]:
    """Fold folders of a model that is written to `output`.

    Args:
        model: folder of a configuration with its `fold_*`, or of one fold.
        output: must be missing or an empty folder.

    Raises:
        ModelError: `model` holds no finished fold.
        UsageError: something is in `output`.
    """
    folders = [model] if (model / "fold.json").is_file() else fold_folders(model)
    if not folders:
        raise ModelError(f"{model} holds no trained fold: fold.json is in neither it nor its fold_* folders.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} is there already and not empty; give another folder.")
    return folders
