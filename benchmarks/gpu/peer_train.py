"""nnU-Net's own trainer and a time in, its logits of the held-out cases out; `score.py` scores them.

    --epochs 50    its nnUNetTrainer_50epochs as it is (100 likewise), cut off where the time ends, which is told
    (without)      its nnUNetTrainer, annealed over as many steps as the time holds

Same plan, voxels, split and device as ours; trainer, loaders, augmentation and predictor are nnU-Net's. Left out,
in its favour: the pseudo-validation after each epoch, logs, plots and checkpoints. Runs without our package.
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

from peer import Clock, build_predictor, build_trainer, emit, num_workers, peer_options, prepared_peer

_FITTED_EPOCHS = 20
_PROBE_STEPS = 20
_PREDICTION_SHARE = 0.2
"""Of the time, kept for the held-out cases."""


def main() -> None:
    """Train, predict, say what was done."""
    asked, started = peer_options(__doc__, add_arguments), time.monotonic()
    content, dataset = prepared_peer(asked, asked.dataset)
    length = None if asked.epochs is None else f"_{asked.epochs}epochs"
    trainer = build_trainer(content, dataset, asked.device, length)
    title = "nnU-Net in the same time" if length is None else f"nnU-Net, its {asked.epochs} epochs"
    ends = started + asked.seconds * (1 - _PREDICTION_SHARE)
    if length is None:
        fit_length(trainer, Clock(asked.device, 1.0, 1), ends, 2 if asked.smoke else _PROBE_STEPS)
    if asked.smoke:
        trainer.num_epochs, trainer.num_iterations_per_epoch = 1, 2
    done, began = train(trainer, ends, asked.smoke), time.monotonic()
    about = {"epochs_done": done, "epochs_planned": trainer.num_epochs, "workers": num_workers()}
    about["steps"] = done * trainer.num_iterations_per_epoch
    about["training_seconds"] = round(began - started, 1)
    folder = asked.out / "peer_found" / f"{asked.dataset}_{asked.epochs or 'fitted'}"
    predict(trainer, content, dataset, asked.out / f"peer_input_{asked.dataset}", folder)
    emit(f"{asked.dataset}, {title}: training", began - started, unit="s", **about)
    (folder / "about.json").write_text(json.dumps({"dataset": asked.dataset, "title": title, **about}))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", default="Task04_Hippocampus")
    parser.add_argument("--epochs", type=int, default=None)


def fit_length(trainer: Any, clock: Any, ends: float, probe_steps: int) -> None:
    """Set epochs and steps so that the rate has fallen to its end when the time is over; at least one step an epoch."""
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

    trainer.lr_scheduler.step(0)
    for _ in range(3):
        trainer.train_step(next(trainer.dataloader_train))
    seconds = clock.seconds(lambda: [trainer.train_step(next(trainer.dataloader_train)) for _ in range(probe_steps)])
    steps = max(1, int((ends - time.monotonic()) / (seconds / probe_steps)))
    trainer.num_epochs = min(_FITTED_EPOCHS, steps)
    trainer.num_iterations_per_epoch = steps // trainer.num_epochs
    trainer.lr_scheduler = PolyLRScheduler(trainer.optimizer, trainer.initial_lr, trainer.num_epochs)


def train(trainer: Any, ends: float, smoke: bool) -> int:
    """nnU-Net's loop without what is not training; the epochs that were done when the time was over."""
    for epoch in range(trainer.num_epochs):
        if time.monotonic() > ends and not smoke:
            return epoch
        trainer.current_epoch = epoch
        trainer.network.train()
        trainer.lr_scheduler.step(epoch)
        for _ in range(trainer.num_iterations_per_epoch):
            trainer.train_step(next(trainer.dataloader_train))
    return int(trainer.num_epochs)


def predict(trainer: Any, content: dict[str, Any], dataset: dict[str, Any], source: Path, folder: Path) -> None:
    """Logits of the held-out cases by nnU-Net's predictor, float16 on the preprocessed grid."""
    import numpy as np
    import torch

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    predictor = build_predictor(trainer, dataset)
    for case in content["split"]["val"]:
        with np.load(source / f"{case}.npz") as arrays:
            image = torch.from_numpy(arrays["image"])
        with torch.inference_mode():
            logits = predictor.predict_sliding_window_return_logits(image)
        np.savez(folder / f"{case}.npz", logits=logits.half().cpu().numpy())
    for loader in (trainer.dataloader_train, trainer.dataloader_val):
        if hasattr(loader, "_finish"):
            loader._finish()


if __name__ == "__main__":
    main()
