"""Files beside segmentations that are about all of them together: their names, the record, and how they are removed."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from autoseg import console
from autoseg.records.base import Record, read_record
from autoseg.records.labels import LabelScheme
from autoseg.records.trust import Judgement

FINISHED = "predicted.json"
"""Record `Finished`: which model each segmentation comes from."""
QUALITY_TABLE = "quality.csv"
"""What the model says about its segmentations."""
MEASUREMENTS = "measurements.csv"
EVALUATION, EVALUATION_TABLE = "evaluation.json", "evaluation.csv"
COMPARISON, COMPARISON_TABLE = "comparison.json", "comparison.csv"
COMPONENT_SHIFT = "component_shift.json"

TABLES = (EVALUATION, EVALUATION_TABLE, COMPARISON, COMPARISON_TABLE, COMPONENT_SHIFT, MEASUREMENTS)
"""What is found out about segmentations later; none of it holds any more once one of them is another one."""


class Finished(Record):
    """Which model each segmentation of a folder comes from, so that a continued run trusts only its own."""

    labels: LabelScheme | None = None
    """What the segmentations' values mean; None: an older autoseg wrote them."""
    channel_names: tuple[str, ...] = ()
    """Of the images."""
    cases: dict[str, str] = {}
    """Case id -> digest of weights, plan and post-processing."""
    endings: dict[str, str] = {}
    """Case id -> ending of its segmentation, for example `.nii.gz`; also of cases that another model segmented."""
    judged: dict[str, Judgement] = {}
    """Case id -> predicted quality, volumes and reasons to look at it; empty where a model was not selected."""


def read_finished(output: Path) -> Finished:
    """Which model each segmentation of a folder comes from, and what was said about it."""
    path = output / FINISHED
    return read_record(path, Finished) if path.is_file() else Finished()


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
