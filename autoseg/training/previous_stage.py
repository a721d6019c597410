"""A coarse stage's out-of-fold probabilities in, its segmentations on the next stage's grid out (cascade).

Each is resampled once and kept; the folder is named by what decides it, so training the coarse stage anew makes new
files and never mixes with old ones.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autoseg import console
from autoseg.records.labels import LabelScheme
from autoseg.records.results import Manifest
from autoseg.storage.arrays import write_array
from autoseg.storage.hashing import sha256_json
from autoseg.training.out_of_fold import find_out_of_fold, held_out_segmentation


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
    out_of_fold = find_out_of_fold(folds, cases, "A cascade")
    out = folder / sha256_json([out_of_fold.digest, sha256_json(fine.decided_by)])[:16]
    paths = {case: out / f"{case}.b2nd" for case in cases}
    waiting = [case for case, path in paths.items() if not path.is_file()]
    for case in console.track(waiting, len(waiting), "resampling the previous stage"):
        found = held_out_segmentation(out_of_fold, fine.cases[case], labels)
        write_array(paths[case], found.astype(np.int16, copy=False), (patch_zyx[0], patch_zyx[1], patch_zyx[2]))
    return paths
