"""Our plans against those that nnU-Net made for six Decathlon tasks with three of its planners."""

import json
from pathlib import Path

import pytest

from autoseg.planning.build import make_plan
from tests.planning.comparison import dataset_of, fingerprint_of, ours, theirs

TASKS = ["001_BrainTumour", "003_Liver", "004_Hippocampus", "005_Prostate", "007_Pancreas", "009_Spleen"]
PRESETS = {"nnunet": "v2_default", "nnunet_resenc_m": "v2_ResEncM", "nnunet_resenc_l": "v2_ResEncL"}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("task", TASKS)
def test_agrees_with_the_reference_plans(shared_reference: Path, task: str, preset: str) -> None:
    folder = shared_reference / "decathlon_fingerprints"
    fingerprint = fingerprint_of(json.loads((folder / f"Dataset{task}.fingerprint.json").read_text()))
    dataset_json = json.loads((folder / f"Dataset{task}.dataset.json").read_text())
    reference = json.loads((shared_reference / "decathlon_plans.json").read_text())["tasks"][f"Dataset{task}"]

    plan = make_plan(fingerprint, dataset_of(dataset_json), preset, num_training=dataset_json["numTraining"])

    assert ours(plan) == theirs(reference[PRESETS[preset]])
