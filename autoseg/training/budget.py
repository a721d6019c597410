"""A few measured steps on the device at hand in, the length of the training that fits a time budget out.

The measurement uses a network of its own, so the training that follows starts from its seed as if nothing had been
measured. The number of steps is fixed once and written down: a machine that becomes slower later makes the training
longer, never different. So a margin is kept: steps are planned for `STEP_SHARE` of the time they could have.
"""

import math
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from autoseg import console
from autoseg.devices import describe_device
from autoseg.planning.step_cost import Kind, need_of_configuration
from autoseg.records.recipe import Schedule
from autoseg.training.batches import Sampler, batches
from autoseg.training.checkpoint import Progress, save_checkpoint
from autoseg.training.compiling import undo_compilation
from autoseg.training.growth import grown, stage_shares
from autoseg.training.loop import Learner, train_step
from autoseg.training.schedule import Precision, TrainingSchedule, TrainOptions
from autoseg.training.task import Task, new_learner
from autoseg.training.validation import Validator, network_input, num_tiles, predict_image, write_case

STEP_SHARE = 0.90
"""Share of the time for steps that is planned with. The steps of a 15-minute training took 0.215 s on average where
the measurement before it said 0.192 s (a ratio of 0.89), on two CPU cores that did nothing else: what a training
draws and augments in its course is dearer than in its first steps."""
# Share of a budget that measuring steps may take, and its bounds in seconds; without a budget the lower one.
_PROBE_SHARE, _PROBE_SECONDS = 0.02, (0.3, 20.0)
_MIN_STEPS, _MAX_STEPS = 2, 100
_PROBE_RATE = 1e-3  # of the learning rate, so that nothing diverges while it is timed
_MIN_UNCERTAINTY = 0.1
_CHOICE_SECONDS = 0.5  # of steps in each arithmetic, to choose one
_EPOCH_SECONDS = 60.0
_MIN_EPOCHS = 50  # of a budget's training, so that poly's last rate is near zero
_FEW_EPOCHS = 10  # with fewer, poly's last rate is above an eighth of its first
_CHECKPOINT_SHARE = 0.03
_CASE_SECONDS = 1.0  # a whole case is predicted for the measurement when it takes no longer
_CLOSING_SECONDS = 2.0  # curve, final weights, records
_VALIDATION_MARGIN = 1.1
# bfloat16 loses precision and, on a CPU, is often slower: it must be clearly faster to be chosen.
BFLOAT16_GAIN = 0.87
_WHERE = {"device": "the device's memory", "memory": "main memory", "disk": "files"}
_PROBABILITY_BYTES = 2  # float16, before compression


@dataclass(frozen=True)
class Costs:
    """What was measured before a training."""

    step_seconds: float
    uncertainty: float
    """Relative, of the time of many steps."""
    checkpoint_seconds: float
    validation_seconds: float
    memory_bytes: int
    """Peak of the process (CPU) or of the device's allocations (GPU)."""
    disk_bytes: int
    watch_seconds: float = 0.0
    """Of the watched cases, an epoch on average."""

    @property
    def epoch_seconds(self) -> float:
        """What an epoch costs beside its steps."""
        return self.checkpoint_seconds + self.watch_seconds


def decide_schedule(task: Task, options: TrainOptions, started: float) -> TrainingSchedule:
    """Measure, fix the course of the training, and tell the person about it.

    Args:
        task: to be trained.
        options: what was asked for.
        started: `time.monotonic()` at which the budget began.
    """
    budget = options.budget_seconds
    learner = warm_learner(task)
    costs = measure_costs(task, learner, budget)
    left = None if budget is None else budget - (time.monotonic() - started)
    epochs, iterations = fit_length(task.configuration.recipe.schedule, options, costs, left)
    source = task.sampler.source
    console.say(
        f"{task.title}: {len(source.cases)} cases in {_WHERE[source.tier]}, {learner.precision} on "
        f"{describe_device(task.device)}"
    )
    kind: Kind = "cuda" if task.device.type == "cuda" else "cpu"
    need = need_of_configuration(task.configuration, task.plan.labels, len(task.plan.channel_names), kind)
    say_costs(costs, epochs * iterations, task.title, None if need is None else need.flops)
    return TrainingSchedule(
        epochs=epochs,
        iterations_per_epoch=iterations,
        seed=task.sampler.seed,
        precision=learner.precision,
        budget_seconds=budget,
        until_plateau=options.until_plateau or task.configuration.recipe.schedule.ends == "plateau",
        step_seconds=costs.step_seconds,
        validation_seconds=costs.validation_seconds,
        device=describe_device(task.device),
    )


def warm_learner(task: Task) -> Learner:
    """A learner that has done two or more steps (allocation, tuning), in what the recipe's precision means here.

    `auto` is bfloat16 on a GPU that has it, else float16. On a CPU float32 and bfloat16 are timed: the fastest step
    after the first, since what other processes do makes steps slower, never faster.
    """
    candidates = precisions(task.configuration.recipe.precision, task.device)
    best, best_seconds = None, math.inf
    for precision in candidates:
        learner = new_learner(task, precision)
        limit = _CHOICE_SECONDS if len(candidates) > 1 else 0.0
        fastest = min(_timed_steps(learner, task.sampler, 2, limit)[1:])
        if best is None or fastest < BFLOAT16_GAIN * best_seconds:
            best, best_seconds = learner, fastest
    assert best is not None, "there is at least one candidate"
    return best


def precisions(wanted: str, device: torch.device) -> list[Precision]:
    """Arithmetic to choose from, the preferred one first."""
    if wanted != "auto":
        return [wanted]  # type: ignore[list-item]
    if device.type == "cuda":
        return ["bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"]
    return ["float32", "bfloat16"] if device.type == "cpu" and _has_bfloat16_instructions() else ["float32"]


def measure_costs(task: Task, learner: Learner, budget_seconds: float | None) -> Costs:
    """Time steps (with their data), a checkpoint and the validation; nothing of it is kept.

    Args:
        task: to be trained.
        learner: warm; it is used up.
        budget_seconds: measuring steps takes about a fiftieth of it; without one, as little as can be.
    """
    low, high = _PROBE_SECONDS
    limit = low if budget_seconds is None else min(max(budget_seconds * _PROBE_SHARE, low), high)
    step_seconds, uncertainty = _step_seconds(learner, task.sampler, limit)
    scratch = task.folder / ".measurement"
    try:
        started = time.monotonic()
        save_checkpoint(scratch, learner.network, learner.optimizer, learner.average, Progress())
        checkpoint_seconds = time.monotonic() - started
        checkpoint_bytes = sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file())
        trial = replace(task.validator, folder=scratch / "validation")
        validation = _validation_seconds(learner, trial, task.cases.validation) if task.cases.validation else 0.0
        look = _validation_seconds(learner, trial, task.watched) if task.watched else 0.0
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    metas = [task.validator.manifest.cases[case] for case in task.cases.validation]
    voxels = sum(math.prod(stop - start for start, stop in meta.crop) for meta in metas)
    return Costs(
        step_seconds=step_seconds,
        uncertainty=max(_MIN_UNCERTAINTY, uncertainty),
        checkpoint_seconds=checkpoint_seconds,
        validation_seconds=validation,
        memory_bytes=_peak_memory(task.device),
        disk_bytes=2 * checkpoint_bytes + voxels * task.plan.labels.num_heads * _PROBABILITY_BYTES,
        watch_seconds=look / learner.recipe.watch.every_epochs,
    )


def _step_seconds(learner: Learner, sampler: Sampler, limit: float) -> tuple[float, float]:
    """Mean over the course of the training (its patch may grow) and relative standard error."""
    growth = learner.recipe.patch_growth
    schedule = learner.recipe.schedule
    shares = stage_shares(growth, 1 - schedule.cooldown_fraction if schedule.name == "wsd" else 1.0)
    mean, error = 0.0, 0.0
    for share, fraction in shares:
        part = grown(sampler, fraction, growth.keeps_voxels)
        is_new = part is not sampler  # the network is warm for the whole patch only
        seconds = _timed_steps(learner, part, _MIN_STEPS + is_new, limit / len(shares))[is_new:]
        mean += share * _typical(seconds)
        error = max(error, _spread(seconds))
    return mean, error


def fit_length(recipe: Schedule, options: TrainOptions, costs: Costs, seconds_left: float | None) -> tuple[int, int]:
    """Epochs and iterations an epoch.

    Args:
        recipe: the plan's length, used without a budget.
        options: what was asked for; `epochs` and `iterations` are obeyed before all else.
        costs: measured.
        seconds_left: of the budget, from now to the end of the command; None without one.
    """
    iterations = options.iterations
    if seconds_left is None or (options.epochs and iterations):
        return options.epochs or recipe.epochs, iterations or recipe.iterations_per_epoch
    seconds = seconds_left - costs.validation_seconds * _VALIDATION_MARGIN - _CLOSING_SECONDS
    if seconds < costs.step_seconds:
        console.warn(
            f"The budget leaves {console.duration(max(seconds, 0))} for training beside a validation of about "
            f"{console.duration(costs.validation_seconds)}: one step is made, and the budget is exceeded."
        )
    if options.epochs:
        return options.epochs, max(1, _num_steps(seconds, options.epochs, costs) // options.epochs)
    if iterations:
        return _num_epochs(seconds, iterations, recipe, costs), iterations
    # Epochs of at most a minute, and enough of them for a smooth poly, but not so many that saving takes its toll.
    affordable = max(1, int(seconds * _CHECKPOINT_SHARE / max(costs.checkpoint_seconds, 1e-3)))
    epochs = min(max(math.ceil(seconds / _EPOCH_SECONDS), _MIN_EPOCHS), affordable, _num_steps(seconds, 0, costs))
    return epochs, max(1, _num_steps(seconds, epochs, costs) // epochs)


def _num_steps(seconds: float, epochs: int, costs: Costs) -> int:
    """Steps that fit beside the checkpoints and looks of `epochs` epochs; at least one."""
    return max(1, int((seconds - epochs * costs.epoch_seconds) * STEP_SHARE / costs.step_seconds))


def _num_epochs(seconds: float, iterations: int, recipe: Schedule, costs: Costs) -> int:
    """Epochs of `iterations` steps and a checkpoint that fit; at least one. Too few for the recipe are warned of."""
    epoch_seconds = iterations * costs.step_seconds / STEP_SHARE + costs.epoch_seconds
    epochs = max(1, int(seconds / epoch_seconds))
    if epoch_seconds > seconds:
        console.warn(
            f"An epoch of {iterations} steps takes about {console.duration(epoch_seconds)}, the budget leaves "
            f"{console.duration(max(seconds, 0))}: one epoch is made, and the budget is exceeded. Ask for fewer "
            "--iterations, or for none."
        )
    elif recipe.name == "poly" and epochs < _FEW_EPOCHS:
        console.warn(
            f"The budget leaves {epochs} epochs of {iterations} steps, and poly lowers the learning rate once an "
            "epoch: it ends far above zero. Ask for fewer --iterations, or for none."
        )
    return epochs


def say_costs(costs: Costs, num_steps: int, title: str, flops: int | None) -> None:
    """Tell the person how long the training will take, what it needs, and how sure that is; `flops` are a step's."""
    speed = ""
    if flops is not None:
        speed = f" ({flops / 1e9:.3g} GFLOP, {flops / costs.step_seconds / 1e12:.2g} TFLOP/s)"
    training = num_steps * costs.step_seconds
    console.say(
        f"{title}: {num_steps} steps of {costs.step_seconds:.3g} s{speed}, "
        f"about {console.duration(training)} of training and "
        f"{console.duration(costs.validation_seconds)} of validation (+-{100 * costs.uncertainty:.0f} %, measured); "
        f"memory {costs.memory_bytes / 2**30:.1f} GiB, disk {costs.disk_bytes / 2**30:.2g} GiB at most"
    )


def _timed_steps(learner: Learner, sampler: Sampler, count: int, limit_seconds: float) -> list[float]:
    """Seconds of each of at least `count` steps, data included, until the limit is over."""
    seconds: list[float] = []
    started = last = _now(learner.device)
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):  # as in the training
        for step, batch in enumerate(batches(sampler, ((0, step) for step in range(_MAX_STEPS)))):
            train_step(learner, batch, learner.recipe.optimizer.learning_rate * _PROBE_RATE, step)
            now = _now(learner.device)
            seconds.append(now - last)
            last = now
            if step + 1 >= count and now - started > limit_seconds:
                break
    return seconds


def _validation_seconds(learner: Learner, trial: Validator, cases: Sequence[str]) -> float:
    """Time a tile times all tiles, and of writing the smallest case times all voxels."""
    undo_compilation(learner.network)
    patch, network = trial.configuration.patch_zyx, learner.network.eval()
    metas = [trial.manifest.cases[case] for case in cases]
    smallest = min(metas, key=lambda meta: math.prod(meta.geometry.shape))
    image = network_input(trial, smallest.id)
    one_tile = torch.zeros((len(image), *patch))
    _timed_prediction(network, trial, one_tile)  # allocation and tuning
    tile_seconds, rows = _timed_prediction(network, trial, one_tile)
    if tile_seconds * num_tiles(smallest, patch) < _CASE_SECONDS:  # tiles in a batch take less than one by one
        seconds, rows = _timed_prediction(network, trial, image)
        tile_seconds = seconds / num_tiles(smallest, patch)
    blank = torch.zeros((len(rows[0]), *smallest.shape), device=rows[0].device)
    write_seconds = math.inf
    for _ in range(2):  # the first time pays for imports
        started = time.monotonic()
        write_case(trial, smallest.id, [blank])
        write_seconds = min(write_seconds, time.monotonic() - started)
    tiles = sum(num_tiles(meta, patch) for meta in metas)
    voxels = [math.prod(meta.geometry.shape) for meta in metas]
    return tiles * tile_seconds + write_seconds * sum(voxels) / min(voxels)


def _timed_prediction(network: nn.Module, trial: Validator, image: Tensor) -> tuple[float, list[Tensor]]:
    """Seconds of predicting `image`, and what came out."""
    started = _now(trial.device)
    rows = list(predict_image(network, trial, image))
    return _now(trial.device) - started, rows


def _typical(seconds: list[float]) -> float:
    """Mean without the slowest tenth: steps differ in what they augment, but an interruption is none of theirs."""
    kept = sorted(seconds)[: max(1, math.ceil(len(seconds) * 0.9))]
    return max(sum(kept) / len(kept), median(seconds))


def _spread(seconds: list[float]) -> float:
    """Relative standard error of the mean step."""
    mean = sum(seconds) / len(seconds)
    variance = sum((value - mean) ** 2 for value in seconds) / max(1, len(seconds) - 1)
    return math.sqrt(variance / len(seconds)) / mean


def _now(device: torch.device) -> float:
    """Time at which the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _has_bfloat16_instructions() -> bool:
    """Whether this CPU computes bfloat16 itself; emulating it is several times slower than float32."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and any(name in cpuinfo.read_text() for name in ("avx512_bf16", "amx_bf16", "bf16"))
