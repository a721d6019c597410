"""A network specification, labels and a recipe in; what one training step needs of memory and arithmetic out.

The bytes are traced (`networks.cost`), not estimated from constants: measured peaks on a CPU differ by less than a
hundredth. To try many patches only few steps are traced: with the same strides and kernels, bytes grow linearly with
the voxels of the batch. torch is imported when the first step is traced; `small` and `nnunet*` plan without it.
"""

from functools import lru_cache
from math import ceil, prod
from typing import Literal, NamedTuple

from autoseg.errors import AutosegError
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import Configuration, NetworkSpec, Plan
from autoseg.records.recipe import Recipe

Kind = Literal["cpu", "cuda"]

GIB = 2**30
_RESERVE_GIB, _RESERVE_SHARE = 2.5, 0.3
"""What a card needs besides tensors (CUDA's context, scratch memory of cuDNN's convolutions, gaps): so much, and on a
small card this share. From the memory of four networks that nnU-Net publishes (its resenc_presets.md: 7.7, 9.1, 22.7
and 36.6 GB), which is 2.6, 2.5, 3.0 and 1.6 GB above what is traced for a case like KiTS; not measured by ourselves."""
_STATES = {"sgd": 1, "adamw": 2}
"""Numbers that an optimiser keeps for each weight; of one that is not listed, as many as Adam."""
_TRACED_VOXELS = 2**24
"""Of the batch that a line is drawn through; so large that the peak lies where activations are most."""


class StepNeed(NamedTuple):
    """Of one training step."""

    num_bytes: int
    """Peak of all tensors: weights, gradients, optimiser state, average, batch, and what the step itself makes."""
    flops: int
    """Floating-point operations of the convolutions, forward and backward."""
    fixed_bytes: int
    """What of `num_bytes` does not grow with the batch: weights, their copies in half precision, optimiser, average."""


class Line(NamedTuple):
    """Bytes of a step as a function of the voxels in the batch, for a network whose strides and kernels are fixed."""

    fixed_bytes: float
    bytes_a_voxel: float


def usable_bytes(gib: float) -> float:
    """What tensors may take of a card of `gib` GiB."""
    return (gib - min(_RESERVE_GIB, _RESERVE_SHARE * gib)) * GIB


def need_of_plan(plan: Plan, which: str) -> StepNeed | None:
    """`need_of_configuration` of a configuration of `plan`, on the kind of device that it was planned for."""
    settings = plan.configurations[which]  # type: ignore[index]
    kind: Kind = "cpu" if plan.planned_for.startswith("cpu") else "cuda"
    return need_of_configuration(settings, plan.labels, len(plan.channel_names), kind)


def need_of_configuration(
    settings: Configuration, labels: LabelScheme, num_channels: int, kind: Kind
) -> StepNeed | None:
    """What a step of a configuration needs; None where that cannot be traced.

    An installed network or loss may look at the values of tensors, which those of a trace do not have.

    Args:
        settings: network, patch, batch and recipe.
        labels: of the dataset.
        num_channels: of its images; those of a previous stage are added here.
        kind: device whose kernels are counted. On a GPU `auto` precision is half, on a CPU float32 is assumed.
    """
    channels = num_channels + settings.num_previous_channels(labels)
    learned, recipe = settings.learned_labels(labels), settings.recipe.model_dump_json()
    try:
        return trace_need(settings.network, settings.patch_size, settings.batch_size, channels, learned, recipe, kind)
    except AutosegError:
        raise
    except Exception:
        return None


@lru_cache(maxsize=512)
def trace_need(
    spec: NetworkSpec,
    patch_size: tuple[int, ...],
    batch_size: int,
    num_channels: int,
    labels: LabelScheme,
    recipe_json: str,
    kind: Kind = "cuda",
) -> StepNeed:
    """What a step needs, traced; the recipe as JSON, since results are kept by their arguments."""
    import torch

    from autoseg.losses.build import build_loss
    from autoseg.networks.blocks import recompute_activations
    from autoseg.networks.build import build_network
    from autoseg.networks.cost import META, trace_step, weight_bytes

    recipe = Recipe.model_validate_json(recipe_json)
    half = recipe.precision in ("bfloat16", "float16") or (recipe.precision == "auto" and kind == "cuda")
    patch_zyx = (1, *patch_size)[-3:]
    with META:
        network = build_network(spec, num_channels, labels.num_heads, seed=0).train()
        if recipe.recompute_activations:
            recompute_activations(network)
        images = torch.empty((batch_size, num_channels, *patch_zyx))
        target = torch.empty((batch_size, *patch_zyx), dtype=torch.int16)
        cost = trace_step(network, build_loss(recipe, labels, True), images, target, half=half, kind=kind)
    weights = weight_bytes(network)
    standing = weights * (1 + _STATES.get(recipe.optimizer.name, 2) + (recipe.ema_decay is not None))
    peak = standing + images.nbytes + target.nbytes + cost.peak_bytes
    return StepNeed(peak, cost.flops, standing + weights // 2 if half else standing)


@lru_cache(maxsize=512)
def trace_line(
    spec: NetworkSpec, num_channels: int, labels: LabelScheme, recipe_json: str, kind: Kind = "cuda"
) -> Line:
    """Bytes of a step of `spec` against the voxels of the batch, from one large traced step and the weights' size.

    At the peak, early in the backward pass, there are no gradients of weights yet, but their copies in half precision.
    """
    unit = [prod(axis) for axis in zip(*spec.strides, strict=True)]
    patch = tuple(edge * ceil(16 / edge) for edge in unit)
    batch = ceil(_TRACED_VOXELS / prod(patch))
    need = trace_need(spec, patch, batch, num_channels, labels, recipe_json, kind)
    return Line(need.fixed_bytes, (need.num_bytes - need.fixed_bytes) / (batch * prod(patch)))


def describe_need(need: StepNeed | None, card_gib: float | None = None) -> str:
    """For people: memory, as a share of the card where it is known, and arithmetic."""
    if need is None:
        return "memory and GFLOP cannot be predicted for this loss or network"
    gib = need.num_bytes / GIB
    share = "" if card_gib is None else f", {100 * gib / card_gib:.0f} % of the card's {card_gib:g} GiB"
    return f"{gib:.1f} GiB predicted{share}, {need.flops / 1e9:.0f} GFLOP a step"
