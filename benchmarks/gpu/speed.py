"""What our side takes on this device: a training step, drawing batches, an epoch, a whole volume's prediction.

The task is fold 0 of Hippocampus in the plan `default`. `peer.py` times the same things of nnU-Net with this plan's
patch, batch, network, loss and augmentation; the names of the lines agree. `--compiled` times the compiled step
instead: compilation takes minutes, and nothing else should wait for it.
"""

import argparse
import itertools
import time
from dataclasses import replace

import torch
from common import EPOCH_STEPS, emit, fold_task, median_ms, options, peak_gib, seconds_of, whole_logits

from autoseg.inference.sliding_window import SlidingWindow
from autoseg.training.batches import batches
from autoseg.training.learner import train_step
from autoseg.training.probe import precisions, warm_learner
from autoseg.training.task import Task, new_learner

VOLUME = (96, 128, 96)
"""Voxels of the volume whose prediction is timed: four tiles along every axis, eight mirrorings; a second or so."""
RATE = 1e-4
COMPARED_STEPS = 5
"""Steps whose loss is printed for each kind of compilation."""


def main() -> None:
    """Time what was asked for, each for an equal share of the time."""
    asked = options(__doc__, lambda parser: parser.add_argument("--compiled", action="store_true"))
    device = torch.device(asked.device)
    task = fold_task(asked.out, device, asked.smoke)
    if asked.compiled:
        time_compiled(task, 0.5 if asked.smoke else asked.seconds / 16)
    else:
        time_all(task, asked, 0.5 if asked.smoke else asked.seconds / 8)


def time_all(task: Task, asked: argparse.Namespace, share: float) -> None:
    """Steps, batches, an epoch, predictions: the most telling first."""
    device = task.device
    about = {"batch": task.configuration.batch_size, "patch": task.configuration.patch_size}
    stream = batches(task.sampler, ((0, step) for step in itertools.count()))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    learner, batch = warm_learner(task), next(stream)
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        step_ms = median_ms(lambda: train_step(learner, batch, RATE, 0), device, share)
        memory = {"precision": learner.precision, "ours_peak_gib": peak_gib(device)}
        emit("training step, batch on the device", round(step_ms, 3), "ms", **memory)
        data_ms = median_ms(lambda: next(stream), device, share)
        emit("data pipeline, one batch", round(data_ms, 3), "ms", tier=task.sampler.source.tier, **about)
        steps = 2 if asked.smoke else EPOCH_STEPS

        def epoch() -> None:
            for step in range(steps):
                train_step(learner, next(stream), RATE, step)

        seconds = seconds_of(epoch, device) * EPOCH_STEPS / steps
    emit(f"epoch of {EPOCH_STEPS} steps, data included", round(seconds, 3), "s", steps_timed=steps)
    predict(task, learner.network.eval(), "float32", share, asked.smoke)
    predict(task, learner.network, "bfloat16" if device.type == "cpu" else "float16", share, asked.smoke)


def time_compiled(task: Task, share: float) -> None:
    """The step with each kind of compilation; one that fails or is not for this device is said to be skipped.

    The loss of the same steps is printed beside, since kernels that torch wrote could be wrong.
    """
    batch, precision = next(batches(task.sampler, ((0, 0),))), precisions("auto", task.device)[0]
    for kind in ("off", "on", "graphs"):
        recipe = task.configuration.recipe.model_copy(update={"compilation": kind})
        settings = task.configuration.model_copy(update={"recipe": recipe})
        started = time.perf_counter()
        learner = new_learner(replace(task, configuration=settings), precision)
        seconds = time.perf_counter() - started
        name = f"training step, compilation {kind}"
        if learner.compilation != kind:
            emit(name, None, "ms", skipped=f"compilation is {learner.compilation} here, the log says why")
            continue
        rate = recipe.optimizer.learning_rate
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            losses = torch.stack([train_step(learner, batch, rate, step) for step in range(COMPARED_STEPS)]).tolist()
            step_ms = median_ms(lambda: train_step(learner, batch, RATE, 0), task.device, share)  # noqa: B023 - called at once
        about = {
            "precision": precision,
            "compilation_s": round(seconds, 1),
            "losses": [round(one, 5) for one in losses],
        }
        emit(name, round(step_ms, 3), "ms", **about)


def predict(task: Task, network: torch.nn.Module, precision: str, share: float, smoke: bool) -> None:
    """Time the prediction of a random volume; `float32` is what `predict` uses unless the plan says otherwise."""
    settings = task.configuration
    window = SlidingWindow(settings.patch_zyx, task.plan.labels, settings.recipe.mirroring, precision=precision)
    shape = (48, 64, 48) if smoke else VOLUME
    image = torch.randn((len(task.plan.channel_names), *shape), generator=torch.Generator().manual_seed(1))

    def work() -> torch.Tensor:
        return whole_logits([network], image, window, task.device)

    milliseconds = median_ms(work, task.device, share, least=1 if smoke else 3)
    emit(f"prediction of a volume, {precision}", round(milliseconds, 1), "ms", volume=shape)


if __name__ == "__main__":
    main()
