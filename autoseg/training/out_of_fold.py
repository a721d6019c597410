"""Folders of all folds of a configuration in, each case's segmentation by the fold that held it out out.

What learns from a model's mistakes (a cascade's second stage, distractors) must see those it will meet in new cases,
so a case's segmentation never comes from a network that was trained on it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from autoseg.errors import UsageError
from autoseg.inference.export import previous_stage_labels, slabs
from autoseg.inference.model import weights_digest
from autoseg.inference.store import probabilities_path, read_meta, read_probabilities
from autoseg.records.base import read_record
from autoseg.records.labels import LabelScheme
from autoseg.records.results import PreprocessedCase, TrainedFold
from autoseg.storage.arrays import array_shape
from autoseg.storage.hashing import sha256_json


@dataclass(frozen=True)
class Earlier:
    """Folders of what was trained before and is learned from; empty where a configuration needs none."""

    previous_stage: tuple[Path, ...] = ()
    """All cross-validation folds of the stage before a cascade."""
    base: tuple[Path, ...] = ()
    """All cross-validation folds whose false positives become distractors."""


@dataclass(frozen=True)
class OutOfFold:
    """Where the held-out probabilities of every case lie."""

    folders: Mapping[str, Path]
    """Case id -> `validation` folder of the fold that held it out."""
    digest: str
    """Of the weights of all folds."""


def find_out_of_fold(folds: Sequence[Path], cases: Sequence[str], learner: str) -> OutOfFold:
    """Find each case's held-out probabilities.

    Args:
        folds: folders of all cross-validation folds of the configuration that is learned from.
        cases: that must have been held out.
        learner: who learns, for messages: `A cascade`.

    Raises:
        UsageError: a fold is not trained, or none of them holds out one of the cases.
    """
    digest = folds_digest(folds)
    if digest is None:
        missing = [fold.name for fold in folds if not (fold / "fold.json").is_file()]
        name = folds[0].parent.name if folds else "the configuration before it"
        raise UsageError(
            f"{learner} learns from the held-out predictions of all folds of {name}; not trained yet: "
            f"{', '.join(missing) or 'any fold'}. Train it first: autoseg train DATASET {name}"
        )
    held_out = {
        case: fold / "validation"
        for fold in folds
        for case in read_record(fold / "fold.json", TrainedFold).validation_cases
    }
    if never := [case for case in cases if case not in held_out]:
        raise UsageError(
            f"{learner} learns from held-out predictions, and no fold of {folds[0].parent.name} holds out "
            f"{', '.join(never)}. Divide the cases so that each is held out once (no splits_final.json, or another "
            "one), or train a configuration that needs none."
        )
    return OutOfFold(held_out, digest)


def folds_digest(folds: Sequence[Path]) -> str | None:
    """Digest of the weights, and so of the held-out predictions, of these folds; None: not all of them are trained."""
    if not folds or not all((fold / "fold.json").is_file() for fold in folds):
        return None
    return sha256_json([weights_digest(fold) for fold in folds])


def held_out_segmentation(out_of_fold: OutOfFold, case: PreprocessedCase, labels: LabelScheme) -> npt.NDArray[np.int16]:
    """Held-out internal classes `Z Y X` of a case on the grid that `case` describes, whichever grid they came from."""
    folder = out_of_fold.folders[case.id]
    shape = array_shape(probabilities_path(folder, case.id))
    parts = (torch.from_numpy(read_probabilities(folder, case.id, rows)) for rows in slabs(shape))
    return previous_stage_labels(parts, read_meta(folder, case.id), case, labels)
