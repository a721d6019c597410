"""A configuration and a device in, about how long one of its training steps takes there, before anything is trained.

The three finest stages of the network with their loss are trained for some steps on noise, about a second. The whole
step takes as much longer as it has more arithmetic, by the traced floating-point operations. So whatever the finest
maps cost beside arithmetic (normalisation, loss, memory) is in the measured part, and convolutions of a kind that the
device is slow at are measured as such. Not seen are the batches' data, and deep stages that run at another speed.
"""

import math
import time
from typing import NamedTuple

import torch

from autoseg.losses.build import build_loss
from autoseg.networks.blocks import recompute_activations
from autoseg.networks.build import build_network
from autoseg.planning.step_cost import Kind, need_of_configuration
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import Configuration, NetworkSpec
from autoseg.training.batches import Batch
from autoseg.training.learner import build_learner, train_step
from autoseg.training.probe import BFLOAT16_GAIN, precisions
from autoseg.training.schedule import Precision

STEP_TIME_ERROR = 0.4
"""Relative, largest of the plans that were measured on a CPU; see docs/experiments.md."""
_STAGES = 3
_FEWEST_SAMPLES, _SHORTEST = 2, 4
"""Batch and edge of the patch (in voxels of the coarsest map) below which nothing is cut. With one sample PyTorch takes
slower kernels on one CPU thread."""
_SAMPLE_FLOPS: dict[Kind, float] = {"cpu": 10e9, "cuda": 4e12}
"""Most arithmetic of a measured step; on a GPU a small one would measure how fast it is given work."""
_SECONDS = 0.3
"""Of measured steps, in each precision that is tried."""
_MIN_STEPS = 1
_RATE = 1e-6


class StepTime(NamedTuple):
    """Of one training step on one device."""

    seconds: float
    precision: Precision
    """Arithmetic that it is for."""


def predict_step_time(
    settings: Configuration, labels: LabelScheme, num_channels: int, device: torch.device
) -> StepTime | None:
    """About how long a step of `settings` takes on `device`; None where its arithmetic cannot be traced.

    Args:
        settings: network, patch, batch and recipe.
        labels: of the dataset.
        num_channels: of its images.
        device: measured for about a second, after three steps are traced (half a second of a CPU).

    Raises:
        AutosegError: a loss or network of the plan does not exist.
        RuntimeError: of PyTorch, for example where the device's memory is full.
    """
    kind: Kind = "cuda" if device.type == "cuda" else "cpu"
    whole = need_of_configuration(settings, labels, num_channels, kind)
    sample = _sample(settings, labels, num_channels, kind)
    part = need_of_configuration(sample, labels, num_channels, kind)
    if whole is None or part is None:
        return None
    best: StepTime | None = None
    for precision in precisions(settings, device):
        seconds = _sample_seconds(sample, labels, num_channels, precision, device) * whole.flops / part.flops
        if best is None or seconds < BFLOAT16_GAIN * best.seconds:
            best = StepTime(seconds, precision)
    return best


def _sample(settings: Configuration, labels: LabelScheme, num_channels: int, kind: Kind) -> Configuration:
    """The finest stages on a batch and a patch that are cut until a step has little enough arithmetic.

    Architectures whose decoder is no stage-by-stage mirror of the encoder keep all stages, and so their patch.
    """
    spec = settings.network
    num_stages = min(_STAGES, len(spec.strides))
    if spec.architecture in ("plain_unet", "residual_unet", "mednext"):
        spec = NetworkSpec(
            architecture=spec.architecture,
            features_per_stage=spec.features_per_stage[:num_stages],
            strides=spec.strides[:num_stages],
            kernel_sizes=spec.kernel_sizes[:num_stages],
            blocks_per_stage=spec.blocks_per_stage[:num_stages],
            decoder_blocks_per_stage=spec.decoder_blocks_per_stage[: num_stages - 1],
            expansion_per_stage=spec.expansion_per_stage[:num_stages],
        )
    whole = settings.model_copy(update={"network": spec})
    need = need_of_configuration(whole, labels, num_channels, kind)
    if need is None:
        return whole
    units = [math.prod(axis) for axis in zip(*spec.strides, strict=True)]
    patch, batch, limit = list(settings.patch_size), settings.batch_size, _SAMPLE_FLOPS[kind]
    flops_a_voxel = need.flops / (batch * math.prod(patch))  # traced once: convolutions have as much in each voxel
    while (flops := flops_a_voxel * batch * math.prod(patch)) > limit:
        lengths = [edge // unit for edge, unit in zip(patch, units, strict=True)]
        longest = lengths.index(max(lengths))
        if batch > _FEWEST_SAMPLES:
            batch = max(_FEWEST_SAMPLES, int(batch * limit / flops))
        elif lengths[longest] > _SHORTEST:
            patch[longest] = max(_SHORTEST, lengths[longest] * 3 // 4) * units[longest]
        else:
            break
    return whole.model_copy(update={"patch_size": tuple(patch), "batch_size": batch})


def _sample_seconds(
    settings: Configuration, labels: LabelScheme, num_channels: int, precision: Precision, device: torch.device
) -> float:
    """The fastest step after the first: what other processes do makes steps slower, never faster."""
    channels, labels = num_channels + settings.num_previous_channels(labels), settings.learned_labels(labels)
    network = build_network(settings.network, channels, labels.num_heads, seed=0)
    if settings.recipe.recompute_activations:
        recompute_activations(network)
    learner = build_learner(network, build_loss(settings.recipe, labels, True), settings.recipe, precision, device)
    random, shape = torch.Generator().manual_seed(0), (settings.batch_size, *settings.patch_zyx)
    batch = Batch(
        images=torch.randn((shape[0], channels, *shape[1:]), generator=random).to(device),
        labels=torch.randint(0, labels.num_classes, shape, generator=random, dtype=torch.int16).to(device),
        cases=("",) * settings.batch_size,
    )
    times: list[float] = []
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        while len(times) <= _MIN_STEPS or sum(times[1:]) < _SECONDS:
            started = _now(device)
            train_step(learner, batch, _RATE, 0)
            times.append(_now(device) - started)
    return min(times[1:])


def _now(device: torch.device) -> float:
    """Time at which the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
