"""The bundle's dataset in, its prepared workspace out, and the same voxels in plain files for the peer.

Preparing here what was packed as downloaded is the project's own command, so it is timed as well: verify, fingerprint,
plan and preprocess, with all cores of this machine.
"""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from common import CONFIGURATION, DATASET, FOLD, PLAN, emit, options, prepared_folder

from autoseg.datasets.pairs import read_pair
from autoseg.devices import num_cores
from autoseg.pipeline.flow import PrepareOptions, prepare
from autoseg.preprocessing import store
from autoseg.preprocessing.prepare import OUTSIDE, Cropped, crop_case
from autoseg.records.base import read_record
from autoseg.records.dataset import Case, Dataset, Folds
from autoseg.records.results import PreprocessedCase
from autoseg.spatial.cropping import nonzero_mask
from autoseg.spatial.labels import resample_labels
from autoseg.spatial.resampling import separate_axis

_SMOKE_CASES = 10
"""Of each dataset; two in a fold."""


def main() -> None:
    """Prepare, export, report."""
    asked = options(__doc__, lambda parser: parser.add_argument("--dataset", default=DATASET))
    source = asked.bundle / asked.dataset
    if asked.smoke:
        source = with_few_cases(source, asked.out / "small" / asked.dataset)
    started = time.perf_counter()
    paths, _ = prepare(
        str(source),
        asked.out / "work",
        PrepareOptions(preset=PLAN, configurations=(CONFIGURATION,)),
    )
    seconds = time.perf_counter() - started
    emit(f"plan_and_preprocess {asked.dataset}", round(seconds, 2), "s", cores=num_cores())
    plan, folder = prepared_folder(paths, asked.smoke)
    settings = plan.configurations[CONFIGURATION]
    fold = read_record(paths.folds, Folds).folds[int(FOLD)]
    target = asked.out / f"peer_input_{asked.dataset}"
    target.mkdir(parents=True, exist_ok=True)
    split = {"train": fold.train, "val": fold.validation}
    dataset, metas = read_record(paths.dataset, Dataset), store.open_store(folder).cases
    cases = [case for case in dataset.training if case.id in {*fold.train, *fold.validation}]

    def export(case: Case) -> None:
        labels = nnunet_labels(crop_case(case.id, *read_pair(dataset, case), plan), metas[case.id])
        np.savez(target / f"{case.id}.npz", image=store.read_image(folder, case.id), labels=labels)

    with ThreadPoolExecutor(num_cores()) as pool:
        list(pool.map(export, cases))
    content = {
        "configuration": settings.model_dump(mode="json"),
        "intensities": {key: value.model_dump(mode="json") for key, value in plan.intensities.items()},
        "class_names": plan.labels.class_names,
        "channel_names": plan.channel_names,
        "split": split,
    }
    (target / "plan.json").write_text(json.dumps(content))


def nnunet_labels(case: Cropped, meta: PreprocessedCase) -> np.ndarray:
    """Labels `Z Y X` as nnU-Net's own preprocessing leaves them: background outside the nonzero mask is -1, also where
    no channel is normalised inside it; ours is then 0."""
    outside = (case.labels == 0) & ~nonzero_mask(case.image.astype(np.float32))
    marked = torch.from_numpy(np.where(outside, np.int16(OUTSIDE), case.labels))
    return resample_labels(marked, meta.shape, separate_axis(case.spacing_mm, meta.spacing_mm)).numpy()


def with_few_cases(source: Path, target: Path) -> Path:
    """A copy of the first cases of a dataset, for a smoke run."""
    content = json.loads((source / "dataset.json").read_text())
    few = content["training"][:_SMOKE_CASES]
    for file in (file for pair in few for file in (pair["image"], pair["label"])):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / file, target / file)
    (target / "dataset.json").write_text(json.dumps({**content, "training": few, "numTraining": len(few)}))
    return target


if __name__ == "__main__":
    main()
