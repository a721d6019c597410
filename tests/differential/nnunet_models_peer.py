"""Run by an interpreter that has nnU-Net: models made and images predicted, as a JSON file of jobs asks.

    python nnunet_models_peer.py JOBS.json

`make`: a model folder of nnU-Net's own trainer with random weights, or trained for a few steps on blobs of noise.
`postprocess`: what nnU-Net chooses to remove from a folder of predictions, and what is left.
`predict`: nnU-Net's own prediction of a folder.
`ensemble`: that of two models together, after the given steps of post-processing.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_compile"):
    os.environ[variable] = tempfile.gettempdir()

import numpy as np  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)


def make(job: dict) -> None:
    from nnunetv2.run.run_training import get_trainer_from_args  # noqa: F401 - as nnU-Net finds its trainers
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

    folder = Path(job["folder"])
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(job["plans"]))
    (folder / "dataset.json").write_text(json.dumps(job["dataset"]))
    for number, fold in enumerate(job["folds"]):
        torch.manual_seed(job["seed"] + number)
        plans = {**json.loads(json.dumps(job["plans"])), "continue_training": False}
        trainer = nnUNetTrainer(plans, job["configuration"], fold, job["dataset"], device=torch.device("cpu"))
        channels = determine_num_input_channels(trainer.plans_manager, trainer.configuration_manager, job["dataset"])
        heads = trainer.label_manager.num_segmentation_heads
        trainer.network = trainer.build_network_architecture(
            trainer.plans_manager, trainer.configuration_manager, channels, heads, True
        )
        with torch.no_grad():
            for name, parameter in trainer.network.named_parameters():
                if "norm" in name or "all_modules.1" in name:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        trainer.optimizer, trainer.lr_scheduler = trainer.configure_optimizers()
        trainer.loss = trainer._build_loss()
        trainer.was_initialized = True
        for _ in range(job.get("steps", 0)):
            trainer.train_step(batch(trainer, channels))
        trainer._best_ema = np.float64(0.5)
        trainer.logger.log("train_losses", np.float32(0.25), 0)
        (folder / f"fold_{fold}").mkdir()
        trainer.save_checkpoint(str(folder / f"fold_{fold}" / "checkpoint_final.pth"))


def batch(trainer: object, channels: int) -> dict:
    """Smooth noise; what is bright in the first channel is foreground, what is brightest the next class."""
    patch = trainer.configuration_manager.patch_size
    pool = torch.nn.functional.avg_pool3d if len(patch) == 3 else torch.nn.functional.avg_pool2d
    data = pool(torch.randn(2, channels, *patch), 3, 1, 1) * 4
    target = (data[:, :1] > 0.5).float() + (data[:, :1] > 1.5).float()
    scales = trainer._get_deep_supervision_scales()
    targets = [torch.nn.functional.interpolate(target, scale_factor=scale, mode="nearest") for scale in scales]
    return {"data": data, "target": targets}


def predict(job: dict) -> None:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(job["model"], job["folds"], "checkpoint_final.pth")
    Path(job["output"]).mkdir(parents=True)
    predictor.predict_from_files_sequential(
        job["images"], job["output"], folder_with_segs_from_prev_stage=job.get("previous")
    )


def predict_model_folder(job: dict) -> None:
    """The command `nnUNetv2_predict_from_modelfolder`, as people call it."""
    from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder

    folds = [str(fold) for fold in job["folds"]]
    given = ["-i", job["images"], "-o", job["output"], "-m", job["model"], "-f", *folds]
    sys.argv = ["nnUNetv2_predict_from_modelfolder", *given, "-device", "cpu", "-npp", "1", "-nps", "1"]
    predict_entry_point_modelfolder()


def ensemble(job: dict) -> None:
    """As nnU-Net's instructions say: predict with probabilities, average, apply the post-processing."""
    from nnunetv2.ensembling.ensemble import ensemble_folders
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.postprocessing.remove_connected_components import (
        apply_postprocessing_to_folder,
        remove_all_but_largest_component_from_segmentation,
    )

    folders, merged = [], job["output"] + "_merged"
    for number, model in enumerate(job["models"]):
        predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(model, job["folds"], "checkpoint_final.pth")
        folders.append(f"{job['output']}_{number}")
        Path(folders[-1]).mkdir(parents=True)
        predictor.predict_from_files_sequential(job["images"], folders[-1], save_probabilities=True)
    ensemble_folders(folders, merged, num_processes=1)
    functions = [remove_all_but_largest_component_from_segmentation] * len(job["steps"])
    arguments = [{"labels_or_regions": step} for step in job["steps"]]
    apply_postprocessing_to_folder(
        merged, job["output"], functions, arguments, str(Path(folders[0]) / "plans.json"), num_processes=1
    )


def postprocess(job: dict) -> None:
    """nnU-Net's choice of post-processing for a folder of predictions, and the predictions after it."""
    from nnunetv2.postprocessing.remove_connected_components import determine_postprocessing

    determine_postprocessing(job["predictions"], job["references"], job["plans"], job["dataset"], num_processes=1)


if __name__ == "__main__":
    for job in json.loads(Path(sys.argv[1]).read_text()):
        jobs = {"make": make, "predict": predict, "predict_model_folder": predict_model_folder}
        (jobs | {"postprocess": postprocess, "ensemble": ensemble})[job["do"]](job)
