"""A training about to begin in, what it costs on the device at hand out: seconds of a step, a checkpoint and the
validation, memory and disk.

The measurement uses a network of its own, so the training that follows starts from its seed as if nothing had been
measured.
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

from autoseg.records.plan import Configuration
from autoseg.training.batches import Sampler, batches
from autoseg.training.checkpoint import Progress, save_checkpoint
from autoseg.training.compiling import undo_compilation
from autoseg.training.learner import Learner, train_step
from autoseg.training.patch_growth import grown, stage_shares
from autoseg.training.schedule import Precision
from autoseg.training.task import Task, new_learner
from autoseg.training.validation import Validator, num_tiles, predict_image, read_network_input, write_case

# Share of a budget that measuring steps may take, and its bounds in seconds; without a budget the lower one.
_PROBE_SHARE, _PROBE_SECONDS = 0.02, (0.3, 20.0)
_MIN_STEPS, _MAX_STEPS = 2, 100
_PROBE_RATE = 1e-3  # of the learning rate, so that nothing diverges while it is timed
_MIN_UNCERTAINTY = 0.1
_CHOICE_SECONDS = 0.5  # of steps in each arithmetic, to choose one
_CASE_SECONDS = 1.0  # a whole case is predicted for the measurement when it takes no longer
_PROBABILITY_BYTES = 2  # float16, before compression
# bfloat16 loses precision and, on a CPU, is often slower: it must be clearly faster to be chosen.
BFLOAT16_GAIN = 0.87
# Voxels of a feature map along an axis that a 3-D kernel spans. On maps of 2 weight gradients of torch's bfloat16
# convolutions on a CPU are not finite now and then (docs/experiments.md); 2-D convolutions gave none in 450 tries.
_THINNEST = 3


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


def warm_learner(task: Task) -> Learner:
    """A learner that has done two or more steps (allocation, tuning), in what the recipe's precision means here.

    `auto` is bfloat16 on a GPU that has it, else float16. On a CPU float32 and bfloat16 are timed: the fastest step
    after the first, since what other processes do makes steps slower, never faster.
    """
    candidates = precisions(task.configuration, task.device)
    best, best_seconds = None, math.inf
    for precision in candidates:
        learner = new_learner(task, precision)
        limit = _CHOICE_SECONDS if len(candidates) > 1 else 0.0
        fastest = min(_timed_steps(learner, task.sampler, 2, limit)[1:])
        if best is None or fastest < BFLOAT16_GAIN * best_seconds:
            best, best_seconds = learner, fastest
    assert best is not None, "there is at least one candidate"
    return best


def precisions(configuration: Configuration, device: torch.device) -> list[Precision]:
    """Arithmetic to choose from, the preferred one first."""
    wanted = configuration.recipe.precision
    if wanted != "auto":
        return [wanted]
    if device.type == "cuda":
        return ["bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"]
    if device.type == "cpu" and _has_bfloat16_instructions() and not _has_thin_maps(configuration):
        return ["float32", "bfloat16"]
    return ["float32"]


def _has_thin_maps(configuration: Configuration) -> bool:
    """Whether a 3-D kernel spans an axis along which its feature map is too short for bfloat16 on a CPU."""
    network, edges = configuration.network, configuration.patch_size
    for strides, kernel in zip(network.strides, network.kernel_sizes, strict=True):
        edges = tuple(edge // stride for edge, stride in zip(edges, strides, strict=True))
        if len(edges) == 3 and any(e < _THINNEST and k > 1 for e, k in zip(edges, kernel, strict=True)):
            return True
    return False


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
    image = read_network_input(trial, smallest.id)
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
