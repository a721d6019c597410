"""The logits that `peer_train.py` left in, nnU-Net's Dice and surface Dice out, paired by case with ours.

They are brought to the files' grid as our own logits are. Needs nothing of our trainings; where `folds.py` has run with
the same results folder, the difference is told, and for Hippocampus also that to nnU-Net's own published values.
"""

import json
from pathlib import Path

import numpy as np
import torch
from common import DATASET, emit, options, prepared_folder, workspace
from scoring import against_published, case_means, paired, read_means, score_cases

from autoseg.inference.export import crop_shape, native_windows, uncrop
from autoseg.inference.labelling import logits_to_labels
from autoseg.preprocessing import store
from autoseg.records.base import read_record
from autoseg.records.dataset import Dataset
from autoseg.records.results import PreprocessedCase


def main() -> None:
    """Score each folder that a peer's part has finished."""
    asked = options(__doc__)
    for about in sorted((asked.out / "peer_found").glob("*/about.json")):
        score(asked.out, asked.bundle, about.parent, json.loads(about.read_text()), asked.smoke)


def score(out: Path, bundle: Path, folder: Path, about: dict, smoke: bool) -> None:
    name = about.pop("dataset")
    paths = workspace(out, name)
    plan, prepared = prepared_folder(paths, smoke)
    metas = store.open_store(prepared).cases
    cases = sorted(path.stem for path in folder.glob("*.npz"))

    def segmentation(meta: PreprocessedCase) -> np.ndarray:
        with np.load(folder / f"{meta.id}.npz") as arrays:
            logits = torch.from_numpy(arrays["logits"]).float()
        cropped = np.empty(crop_shape(meta), dtype=np.int16)
        for window in native_windows([logits], meta):
            cropped[window.where] = logits_to_labels(
                window.values(slice(0, len(logits))), plan.labels, threshold=0.0
            ).numpy()
        return uncrop(cropped, meta)

    dataset = read_record(paths.dataset, Dataset)
    evaluation = score_cases([metas[case] for case in cases], segmentation, dataset, plan.labels)
    theirs, ours, title = case_means(evaluation), read_means(out, name), f"{name}, {about.pop('title')}"
    for measure, unit in (("dice", "Dice"), ("nsd", "NSD")):
        pair = {"peer": evaluation.foreground_mean[measure].mean, **about, "cases": len(cases)}
        pair |= paired(ours, theirs, measure)
        emit(f"{title}: {unit}", pair.pop("ours", None), unit, **pair)
    if name == DATASET:
        published = against_published(evaluation, bundle)
        emit(f"{title}: beside its own published Dice", published.pop("ours"), "Dice", **published)


if __name__ == "__main__":
    main()
