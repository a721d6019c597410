"""A coarse stage's out-of-fold probabilities in, its segmentations on the next stage's grid out (cascade).

A case's segmentation comes from the fold that held it out, so the next stage learns to correct answers as good as
those it will meet in new cases. Each is resampled once and kept; the folder is named by what decides it, so training
the coarse stage anew makes new files and never mixes with old ones.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from autoseg import console
from autoseg.errors import UsageError
from autoseg.inference.export import previous_stage_labels
from autoseg.inference.model import weights_digest
from autoseg.inference.store import read_meta, read_probabilities
from autoseg.records.base import read_record
from autoseg.records.labels import LabelScheme
from autoseg.records.results import Manifest, TrainedFold
from autoseg.storage.arrays import write_array
from autoseg.storage.hashing import sha256_json


def resample_previous_stage(
    folds: Sequence[Path],
    fine: Manifest,
    labels: LabelScheme,
    patch_zyx: Sequence[int],
    folder: Path,
    cases: Sequence[str],
) -> dict[str, Path]:
    """Bring the coarse stage's segmentations onto the fine grid.

    Args:
        folds: folders of all cross-validation folds of the coarse stage.
        fine: manifest of the cases on the fine grid.
        labels: scheme of the coarse stage's heads.
        patch_zyx: training patch on the fine grid, for chunks.
        folder: where the label maps are kept.
        cases: that the fine stage trains on or holds out.

    Returns:
        Case id -> `.b2nd` file with internal classes `Z Y X`, int16.

    Raises:
        UsageError: a fold of the coarse stage is not trained, or none of them holds out one of the cases.
    """
    missing = [fold.name for fold in folds if not (fold / "fold.json").is_file()]
    if missing or not folds:
        stage = folds[0].parent.name if folds else "the previous stage"
        raise UsageError(
            f"A cascade learns from the held-out predictions of all folds of {stage}; not trained yet: "
            f"{', '.join(missing) or 'any fold'}. Train it first: autoseg train DATASET {stage}"
        )
    out = folder / sha256_json([stage_digest(folds), sha256_json(fine.decided_by)])[:16]
    held_out = _validation_folders(folds)
    if never := [case for case in cases if case not in held_out]:
        raise UsageError(
            f"A cascade learns from held-out predictions, and no fold of {folds[0].parent.name} holds out "
            f"{', '.join(never)}. Divide the cases so that each is held out once (no splits_final.json, or another "
            "one), or train a configuration that is no cascade."
        )
    paths = {case: out / f"{case}.b2nd" for case in cases}
    waiting = [case for case, path in paths.items() if not path.is_file()]
    for case in console.track(waiting, len(waiting), "resampling the previous stage"):
        validation = held_out[case]
        found = previous_stage_labels(
            read_probabilities(validation, case), read_meta(validation, case), fine.cases[case], labels
        )
        write_array(paths[case], found.astype(np.int16, copy=False), (patch_zyx[0], patch_zyx[1], patch_zyx[2]))
    return paths


def stage_digest(folds: Sequence[Path]) -> str | None:
    """Digest of the weights, and so of the held-out predictions, of these folds; None: not all of them are trained."""
    if not all((fold / "fold.json").is_file() for fold in folds):
        return None
    return sha256_json([weights_digest(fold) for fold in folds])


def _validation_folders(folds: Sequence[Path]) -> Mapping[str, Path]:
    """Case id -> validation folder of the fold that held it out."""
    return {
        case: fold / "validation"
        for fold in folds
        for case in read_record(fold / "fold.json", TrainedFold).validation_cases
    }
