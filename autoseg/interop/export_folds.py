"""The paths of an export in, the folds to be exported out, once both are as they must be."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoseg.errors import UsageError
from autoseg.inference.model_folders import folds_in, open_configuration


@contextmanager
def folds_to_export(model: Path, output: Path) -> Iterator[list[Path]]:
    """Yield the fold folders of a model that is written to `output`.

    Args:
        model: a folder or a zip as `inference.model_folders` takes them, of which one configuration predicts.
        output: must be missing or an empty folder.

    Raises:
        ModelError: `model` is none.
        UsageError: it holds several, or something is in `output`.
    """
    with open_configuration(model) as folder:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise UsageError(f"{output} is there already and not empty; give another folder.")
        yield folds_in(folder)
