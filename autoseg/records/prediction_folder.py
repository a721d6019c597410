"""What lies beside segmentations and speaks of all of them together: its names, and how it is removed."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from autoseg import console

FINISHED = "predicted.json"
"""Record `pipeline.predict.Finished`: which model each segmentation comes from."""
QUALITY_TABLE = "quality.csv"
"""What the model says about its segmentations."""
MEASUREMENTS = "measurements.csv"
EVALUATION, EVALUATION_TABLE = "evaluation.json", "evaluation.csv"
COMPARISON, COMPARISON_TABLE = "comparison.json", "comparison.csv"
COMPONENT_SHIFT = "component_shift.json"

TABLES = (EVALUATION, EVALUATION_TABLE, COMPARISON, COMPARISON_TABLE, COMPONENT_SHIFT, MEASUREMENTS)
"""What is found out about segmentations later; none of it holds any more once one of them is another one."""


def remove_outdated(folder: Path, names: Sequence[str], segmentations: Iterable[Path]) -> None:
    """Remove those of the files from a folder whose segmentations are about to be replaced, and say which.

    Args:
        folder: of segmentations.
        names: of files in it.
        segmentations: that are about to be written. Where none of them is there and nothing was predicted, files of
            these names are somebody's own.
    """
    if not (folder / FINISHED).is_file() and not any(path.is_file() for path in segmentations):
        return
    found = [name for name in names if (folder / name).is_file()]
    if found:
        console.say(f"{folder}: {', '.join(found)} of earlier segmentations removed")
    for name in found:
        (folder / name).unlink()
