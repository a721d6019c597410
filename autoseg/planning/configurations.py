"""A resolution and a preset in; patch, batch and network out, and with them a coarser resolution where one is due.

`fit` dispatches on the preset's budget: nnU-Net's by activations, ours by traced bytes or by voxels. How a patch is
found that fits it stands in `patch_search`.
"""

import math
from typing import NamedTuple

import numpy as np

from autoseg.planning.memory import count_activations
from autoseg.planning.patch_search import grow_patch, shrink_patch
from autoseg.planning.presets import ActivationBudget, MemoryBudget, NetworkRule, Preset, VoxelBudget
from autoseg.planning.spacing import FloatArray, coarsen
from autoseg.planning.step_cost import trace_line, trace_need, usable_bytes
from autoseg.planning.topology import Topology
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import NetworkSpec

_REFERENCE_BATCH = {2: 12, 3: 2}
"""nnU-Net: the batch for which the budgets' activations are stated."""

_SMALLEST_BATCH = 2

_MAX_SEARCHES = 12
"""Times the memory search is repeated with less, at most. Two are nearly always enough; five were needed by a patch
that exceeds the card by less than the line errs."""

_WEIGHTED_LOSS = 1.005
"""What loss weights against class imbalance, which are planned later, may add to the bytes of a step."""

_LOWRES_BELOW = 0.25
"""nnU-Net: a low resolution is planned when the patch covers less than this share of the median case."""

_LOWRES_GAIN = 2.0
"""nnU-Net: a low resolution with less than this many times fewer voxels is not worth a network."""


class Demand(NamedTuple):
    """What a planned network has to serve, whatever the resolution."""

    labels: LabelScheme
    """Of the dataset. nnU-Net's memory rule counts all its entries as outputs, background and ignore too."""
    num_cases: int
    """Training cases."""
    gpu_memory_gib: float | None
    """Memory to plan for; None: that of the preset's budget."""
    num_channels: int = 1
    """Of the network's input."""


class Resolution(NamedTuple):
    """A spacing at which a network may work."""

    spacing_mm: FloatArray
    """z y x, or y x for a 2-D network."""
    median_shape: FloatArray
    """Voxels of the median case at that spacing, as long as `spacing_mm`."""
    voxels_a_case: float
    """Voxels of the median case in all three dimensions; bounds the batch of nnU-Net's and ours by memory, which may
    hold at most a share of the dataset's voxels."""


class Fitted(NamedTuple):
    """Patch, batch and network of a configuration (2 axes in 2-D)."""

    patch_size: tuple[int, ...]
    batch_size: int
    network: NetworkSpec
    batch_limit: str = ""
    """What kept the batch smaller than memory allows, for people; empty: nothing."""
    recomputes: bool = False
    """Whether the patch fits only if activations are computed again in the backward pass."""


class Stage(NamedTuple):
    """A resolution with what was fitted to it."""

    spacing_mm: FloatArray
    median_shape: FloatArray
    fitted: Fitted


def fit(preset: Preset, demand: Demand, resolution: Resolution) -> Fitted:
    """Find patch size, batch size and network for one resolution.

    Args:
        preset: its budget bounds patch and batch, its network rule gives depth and width.
        demand: labels, number of cases, channels, and the GPU memory to plan for.
        resolution: spacing, and the median case's size there.

    Raises:
        UsageError: not even the smallest patch fits.
    """
    if isinstance(preset.budget, VoxelBudget):
        return _fit_to_voxels(preset.network, preset.budget, resolution)
    if isinstance(preset.budget, MemoryBudget):
        return _fit_to_memory(preset, preset.budget, demand, resolution)
    return _fit_to_activations(preset, preset.budget, demand, resolution)


def build_network_spec(rule: NetworkRule, topology: Topology) -> NetworkSpec:
    """The specification of a network with the strides and kernels of `topology` and the widths and blocks of `rule`.

    Features double from stage to stage up to the rule's maximum; the length of each tuple is the number of stages.
    """
    num_stages = len(topology.strides)
    is_2d = len(topology.patch_size) == 2
    first, most = (
        (rule.base_features_2d, rule.max_features_2d) if is_2d else (rule.base_features_3d, rule.max_features_3d)
    )
    blocks = rule.first_blocks + rule.first_blocks[-1:] * num_stages
    # nnU-Net's ResEnc has 1, 3, 4 and then 6 blocks in all deeper stages.
    return NetworkSpec(
        architecture=rule.architecture,
        features_per_stage=tuple(min(most, first * 2**stage) for stage in range(num_stages)),
        strides=topology.strides,
        kernel_sizes=topology.kernel_sizes,
        blocks_per_stage=blocks[:num_stages],
        decoder_blocks_per_stage=rule.decoder_blocks_of(num_stages),
        expansion_per_stage=rule.expansions,
    )


def plan_lowres(preset: Preset, demand: Demand, fullres: Stage) -> Stage | None:
    """Plan the low resolution of nnU-Net's cascade.

    The spacing is coarsened step by step until the patch covers a quarter of the median case. The median shape is that
    of the full resolution divided by the ratio of the spacings, rounded.

    Args:
        preset: as for `fit`.
        demand: as for `fit`.
        fullres: what was planned at the target spacing (three axes).

    Returns:
        The low resolution. None where the patch at full resolution covers a quarter already, where the low one would
        have more than half as many voxels (both nnU-Net's rules), or where no spacing makes the patch cover a quarter.

    Raises:
        UsageError: as `fit`.
    """
    spacing, shape, fitted = fullres
    voxels = float(np.prod(fullres.median_shape))
    while np.prod(fitted.patch_size, dtype=np.float64) / voxels < _LOWRES_BELOW:
        spacing = coarsen(spacing)
        exact = fullres.spacing_mm / spacing * fullres.median_shape
        voxels, shape = float(np.prod(exact)), np.rint(exact)
        if shape.min() < 1:
            return None  # a volume of a few huge slices; nnU-Net ends in a division by zero here
        fitted = fit(preset, demand, Resolution(spacing, shape, voxels))
    if np.prod(fullres.median_shape) / voxels < _LOWRES_GAIN:
        return None
    return Stage(spacing, shape, fitted)


def _fit_to_activations(preset: Preset, budget: ActivationBudget, demand: Demand, resolution: Resolution) -> Fitted:
    spacing_mm, median_shape, voxels_a_case = resolution
    dims = len(spacing_mm)
    at_reference = budget.elements_2d if dims == 2 else budget.elements_3d
    gib = budget.gib if demand.gpu_memory_gib is None else demand.gpu_memory_gib
    available = at_reference * (gib / budget.gib)
    shares_budget = dims == 2 and budget.batches_of_two_2d

    def activations(topology: Topology) -> int:
        spec = build_network_spec(preset.network, topology)
        return count_activations(spec, topology.patch_size, demand.labels.num_entries)

    def too_large(topology: Topology) -> bool:
        needed = activations(topology)
        return (needed / _REFERENCE_BATCH[2] * 2 if shares_budget else needed) > available

    topology = shrink_patch(preset.network, spacing_mm, median_shape, too_large)
    batch = round(available / activations(topology) * _REFERENCE_BATCH[dims])
    bound = round(_samples_in(budget.share_of_dataset * voxels_a_case * demand.num_cases, topology))
    batch = max(min(batch, bound), _SMALLEST_BATCH)
    return Fitted(topology.patch_size, batch, build_network_spec(preset.network, topology))


def _fit_to_memory(preset: Preset, budget: MemoryBudget, demand: Demand, resolution: Resolution) -> Fitted:
    """The largest patch of which two samples fit, then as many samples as fit and the preset's bounds allow.

    Where no bound but memory holds, axes grow one step at a time as far as the batch stays the same: shortening an axis
    by a step may free far more than it had to, and nnU-Net's first patch, of 256^3 voxels, is small for a large card.

    On a card smaller than the preset's own, activations are recomputed where that gives a larger patch, up to its. The
    line that is searched along is a few percent off for small patches; what is found is traced, and where that needs
    more than there is, the search is repeated with so much less.
    """
    gib = budget.gib if demand.gpu_memory_gib is None else demand.gpu_memory_gib
    share = 1.0
    for _ in range(_MAX_SEARCHES):
        found = _fit_along_line(preset, budget, demand, resolution, gib, share)
        recipe = preset.recipe.model_copy(update={"recompute_activations": found.recomputes}).model_dump_json()
        need = (
            trace_need(
                found.network, found.patch_size, found.batch_size, demand.num_channels, demand.labels, recipe
            ).num_bytes
            * _WEIGHTED_LOSS
        )
        if need <= usable_bytes(gib):
            break
        share *= min(usable_bytes(gib) / need, 0.98)  # at least a little less, or the same is found again
    return found


def _fit_along_line(
    preset: Preset,
    budget: MemoryBudget,
    demand: Demand,
    resolution: Resolution,
    gib: float,
    share: float,
) -> Fitted:
    """As `_fit_to_memory`, with the bytes of `trace_line` and a share of the card's usable memory."""
    spacing_mm, median_shape, voxels_a_case = resolution
    recipes = {again: preset.recipe.model_copy(update={"recompute_activations": again}) for again in (False, True)}

    def held_by(gib: float, again: bool, topology: Topology) -> int:
        spec = build_network_spec(preset.network, topology)
        line = trace_line(spec, demand.num_channels, demand.labels, recipes[again].model_dump_json())
        free = share * usable_bytes(gib) - line.fixed_bytes
        return int(free / (line.bytes_a_voxel * math.prod(topology.patch_size)))

    def largest(gib: float, again: bool, most_voxels: float = math.inf) -> Topology:
        def too_large(found: Topology) -> bool:
            return math.prod(found.patch_size) > most_voxels or held_by(gib, again, found) < _SMALLEST_BATCH

        return shrink_patch(preset.network, spacing_mm, median_shape, too_large)

    topology, again, most_voxels = largest(gib, False), False, math.inf
    if gib < budget.gib:
        of_its_own = math.prod(largest(budget.gib, False).patch_size)
        recomputing = largest(gib, True, of_its_own)
        if math.prod(recomputing.patch_size) > math.prod(topology.patch_size):
            topology, again, most_voxels = recomputing, True, of_its_own
    held, (bound, why) = held_by(gib, again, topology), _batch_bound(budget, demand, voxels_a_case, topology)
    batch = max(min(held, bound), _SMALLEST_BATCH)

    def has_room(grown: Topology) -> bool:
        still_bound = max(_batch_bound(budget, demand, voxels_a_case, grown)[0], _SMALLEST_BATCH)
        is_small = math.prod(grown.patch_size) <= most_voxels
        return is_small and still_bound >= batch and held_by(gib, again, grown) >= batch

    if held == batch:
        topology = grow_patch(preset.network, spacing_mm, median_shape, topology, has_room)
    limit = f"the memory would hold {held} samples, but {why}" if batch < held else ""
    return Fitted(topology.patch_size, batch, build_network_spec(preset.network, topology), limit, again)


def _batch_bound(budget: MemoryBudget, demand: Demand, voxels_a_case: float, topology: Topology) -> tuple[int, str]:
    """Most samples in a batch whatever the memory, and why."""
    bounds = {
        f"a batch holds at most {100 * budget.share_of_dataset:g} % of the dataset's voxels": math.floor(
            _samples_in(budget.share_of_dataset * voxels_a_case * demand.num_cases, topology)
        ),
        "with a fixed number of steps a larger batch makes each step dearer and little else": (
            budget.max_batch_2d if len(topology.patch_size) == 2 else budget.max_batch_3d
        ),
    }
    why, bound = min(bounds.items(), key=lambda item: item[1])
    return bound, why


def _samples_in(num_voxels: float, topology: Topology) -> float:
    return num_voxels / float(np.prod(topology.patch_size, dtype=np.float64))


def _fit_to_voxels(rule: NetworkRule, budget: VoxelBudget, resolution: Resolution) -> Fitted:
    spacing_mm, median_shape, _ = resolution
    dims = len(spacing_mm)
    most = budget.voxels_2d if dims == 2 else budget.voxels_3d
    topology = shrink_patch(
        rule,
        spacing_mm,
        median_shape,
        lambda found: bool(np.prod(found.patch_size, dtype=np.float64) > most),
    )
    batch = budget.batch_2d if dims == 2 else budget.batch_3d
    return Fitted(topology.patch_size, batch, build_network_spec(rule, topology))
