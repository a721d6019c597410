"""The bundle's dataset in, its prepared workspace out, and the same voxels in plain files for the peer.

Preparing here what was packed as downloaded is the project's own command, so it is timed as well: verify, fingerprint,
plan and preprocess, with all cores of this machine.
"""

import json
import time

import numpy as np
from common import CONFIGURATION, DATASET, FOLD, PLAN, default_plan, emit, options

from autoseg.devices import num_cores
from autoseg.pipeline.flow import PrepareOptions, prepare
from autoseg.preprocessing import store
from autoseg.records.base import read_record
from autoseg.records.dataset import Folds
from autoseg.records.fingerprint import Fingerprint

_PEER_CASES = 40
"""Cases on each side of the split that the peer gets: what a step takes does not depend on their number."""


def main() -> None:
    """Prepare, export, report."""
    asked = options(__doc__)
    started = time.perf_counter()
    paths, _ = prepare(
        str(asked.bundle / DATASET),
        asked.out / "work",
        PrepareOptions(preset=PLAN, configurations=(CONFIGURATION,)),
    )
    seconds = time.perf_counter() - started
    emit(f"plan_and_preprocess {DATASET}", round(seconds, 2), "s", cores=num_cores())
    plan = default_plan(paths, asked.smoke)
    settings = plan.configurations[CONFIGURATION]
    folder = paths.preprocessed(store.digest(plan, CONFIGURATION, read_record(paths.fingerprint, Fingerprint)))
    fold = read_record(paths.folds, Folds).folds[int(FOLD)]
    target = asked.out / "peer_input"
    target.mkdir(parents=True, exist_ok=True)
    split = {"train": fold.train[:_PEER_CASES], "val": fold.validation[:_PEER_CASES]}
    for case in (*split["train"], *split["val"]):
        np.savez(target / f"{case}.npz", image=store.read_image(folder, case), labels=store.read_labels(folder, case))
    content = {
        "configuration": settings.model_dump(mode="json"),
        "intensities": {key: value.model_dump(mode="json") for key, value in plan.intensities.items()},
        "class_names": plan.labels.class_names,
        "channel_names": plan.channel_names,
        "split": split,
    }
    (target / "plan.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main()
