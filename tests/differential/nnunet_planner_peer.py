"""Run by an interpreter that has nnU-Net: planning tasks as JSON lines in, nnU-Net's plans as JSON lines out.

A task is {"fingerprint", "dataset", "planner", "gpu_memory_gib"}; the answer holds nnU-Net's plans, or {"error"}.
Networks are built on torch's meta device, because the planner only counts their activations. A task that takes longer
than a minute is given up: nnU-Net's search for a low resolution does not end for a volume of a few huge slices.
"""

import contextlib
import io
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

SECONDS_A_TASK = 60


def answer(task: dict, raw: Path, preprocessed: Path) -> dict:
    import torch
    from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner as default
    from nnunetv2.experiment_planning.experiment_planners.residual_unets import (
        residual_encoder_unet_planners as residual,
    )

    planners = {
        "nnunet": default.ExperimentPlanner,
        "nnunet_resenc_m": residual.nnUNetPlannerResEncM,
        "nnunet_resenc_l": residual.nnUNetPlannerResEncL,
        "nnunet_resenc_xl": residual.nnUNetPlannerResEncXL,
    }
    name = "Dataset999_Peer"
    for folder in (raw / name, preprocessed / name):
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.json"):
            old.unlink()
    content = {
        **task["dataset"],
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "dataset": {"case": {"images": ["case_0000.nii.gz"], "label": "case.nii.gz"}},
    }
    (raw / name / "dataset.json").write_text(json.dumps(content))
    (preprocessed / name / "dataset_fingerprint.json").write_text(json.dumps(task["fingerprint"]))
    memory = {} if task["gpu_memory_gib"] is None else {"gpu_memory_target_in_gb": task["gpu_memory_gib"]}
    with torch.device("meta"), contextlib.redirect_stdout(io.StringIO()):
        planners[task["planner"]](name, **memory).plan_experiment()
    (written,) = (preprocessed / name).glob("*Plans.json")
    return json.loads(written.read_text())


def _give_up(signal_number: int, frame: object) -> None:
    raise TimeoutError(f"no plan after {SECONDS_A_TASK} s")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        raw, preprocessed = Path(folder, "raw"), Path(folder, "preprocessed")
        os.environ.update(nnUNet_raw=str(raw), nnUNet_preprocessed=str(preprocessed), nnUNet_results=folder)
        signal.signal(signal.SIGALRM, _give_up)
        for line in sys.stdin:
            signal.alarm(SECONDS_A_TASK)
            try:
                found = answer(json.loads(line), raw, preprocessed)
            except Exception as error:  # the peer may refuse what it was not made for; the test says which
                found = {"error": f"{type(error).__name__}: {error}"}
            signal.alarm(0)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
