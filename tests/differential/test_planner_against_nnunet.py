"""Our plans against nnU-Net's own planner on random fingerprints.

Runs where nnU-Net is importable, or where AUTOSEG_PEER_PYTHON names an interpreter that has it.
`AUTOSEG_PLANNER_FUZZ=N` sets the number of fingerprints of the slow test.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoseg.pipeline.plan import PlanOptions, plan_from_files
from tests.differential.peer import peer_python
from tests.planning.comparison import ours, theirs
from tests.planning.random_fingerprints import random_task

PRESETS = ["nnunet", "nnunet_resenc_m", "nnunet_resenc_l", "nnunet_resenc_xl"]
PEER = Path(__file__).with_name("nnunet_planner_peer.py")


def _compare(seed: int, num: int, folder: Path) -> tuple[list[str], int]:
    """Disagreements on `num` random fingerprints with all presets, and on how many plans there was an answer."""
    rng = np.random.default_rng(seed)
    tasks = [{**random_task(rng), "planner": PRESETS[i % 4]} for i in range(num)]
    lines = "".join(json.dumps(task) + "\n" for task in tasks)
    done = subprocess.run(
        [peer_python(), "-W", "ignore", str(PEER)], input=lines, capture_output=True, text=True, check=False
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == num, done.stderr[-2000:]
    faults, compared = [], 0
    for number, (task, answer) in enumerate(zip(tasks, answers, strict=True)):
        if "error" in answer:
            print(number, task["kind"], answer["error"])
            continue
        compared += 1
        faults += [
            f"task {number} ({task['kind']}, {task['planner']}): {fault}" for fault in _faults(task, answer, folder)
        ]
    return faults, compared


def _faults(task: dict[str, Any], answer: dict[str, Any], folder: Path) -> list[str]:
    fingerprint, description = folder / "fingerprint.json", folder / "dataset.json"
    fingerprint.write_text(json.dumps(task["fingerprint"]))
    description.write_text(json.dumps({**task["dataset"], "file_ending": ".nii.gz"}))
    plan = plan_from_files(
        fingerprint, description, PlanOptions(task["planner"], gpu_memory_gib=task["gpu_memory_gib"])
    )
    mine, other = ours(plan), theirs(answer)
    if mine["transpose"] != other["transpose"]:
        return [f"transpose {mine['transpose']} instead of {other['transpose']}"]
    if mine["configurations"].keys() != other["configurations"].keys():
        return [f"configurations {list(mine['configurations'])} instead of {list(other['configurations'])}"]
    return [
        f"{name}.{field}: {value} instead of {other['configurations'][name][field]}"
        for name, fields in mine["configurations"].items()
        for field, value in fields.items()
        if value != other["configurations"][name][field]
    ]


def test_agrees_on_a_few_fingerprints(tmp_path: Path) -> None:
    faults, compared = _compare(seed=1, num=20, folder=tmp_path)
    assert not faults, "\n".join(faults)
    assert compared >= 18


@pytest.mark.slow
def test_agrees_on_many_fingerprints(tmp_path: Path) -> None:
    num = int(os.environ.get("AUTOSEG_PLANNER_FUZZ", "400"))
    faults, compared = _compare(seed=int(os.environ.get("AUTOSEG_PLANNER_SEED", "2")), num=num, folder=tmp_path)
    assert not faults, "\n".join(faults)
    assert compared >= 0.9 * num
