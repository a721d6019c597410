"""A resolution and a test of memory in, the patch size (with its network topology) that passes the test out.

`shrink_patch` starts from the patch with the shape of a cube in millimetres, no larger than the median case, and
shortens axis by axis until it fits. `grow_patch` then lengthens single axes where that leaves less memory idle.
"""

from collections.abc import Callable, Sequence

import numpy as np

from autoseg.errors import UsageError
from autoseg.planning.presets import NetworkRule
from autoseg.planning.spacing import FloatArray
from autoseg.planning.topology import Topology, fixed_topology, plan_topology

_FIRST_EDGE = {2: 2048, 3: 256}
"""nnU-Net: edge of the square or cube from whose volume the search starts; larger than any card can hold."""


def shrink_patch(
    rule: NetworkRule,
    spacing_mm: FloatArray,
    median_shape: FloatArray,
    too_large: Callable[[Topology], bool],
) -> Topology:
    """The largest patch considered, shortened axis by axis until it fits.

    In each round the axis that is longest relative to the median case is shortened (ties: the last). By how many
    voxels is nnU-Net's rule: shorten it by its divisor (2 to the number of poolings), and take the divisor that the
    shorter axis would have. So 256 becomes 224, which one pooling less allows, and not 192.

    Args:
        rule: of the network; one of fixed depth keeps axes that are a single divisor long.
        spacing_mm: z y x, or y x for a 2-D network.
        median_shape: voxels of the median case at that spacing, as long as `spacing_mm`.
        too_large: whether a patch needs more memory than there is.

    Raises:
        UsageError: not even the smallest patch fits.
    """
    spacing, topology = spacing_mm.tolist(), _first_topology(rule, spacing_mm, median_shape)
    while too_large(topology):
        patch = list(topology.patch_size)
        shares = [p / float(m) for p, m in zip(patch, median_shape, strict=True)]
        if rule.num_stages is not None and any(p > d for p, d in zip(patch, topology.divisor, strict=True)):
            shares = [s if p > d else 0.0 for s, p, d in zip(shares, patch, topology.divisor, strict=True)]
        axis = _last_of_largest(shares)
        shorter = list(patch)
        shorter[axis] -= topology.divisor[axis]
        patch[axis] -= _topology(rule, spacing, shorter).divisor[axis]
        if patch[axis] < 1:
            raise UsageError(
                f"No patch fits the memory planned for, not even one of {topology.patch_size} voxels: "
                "plan for more GPU memory or take another preset."
            )
        topology = _topology(rule, spacing, patch)
    return topology


def grow_patch(
    rule: NetworkRule,
    spacing_mm: FloatArray,
    median_shape: FloatArray,
    topology: Topology,
    fits: Callable[[Topology], bool],
) -> Topology:
    """A patch that fits, lengthened by an axis's divisor at a time while the longer one still fits.

    The axis that covers least of the median case is tried first; an axis that covers all of it stays as it is.

    Args:
        rule: of the network.
        spacing_mm: z y x, or y x for a 2-D network.
        median_shape: voxels of the median case at that spacing, as long as `spacing_mm`.
        topology: patch to begin with.
        fits: whether memory holds a patch.
    """
    spacing = spacing_mm.tolist()
    while True:
        patch = topology.patch_size
        shares = [p / float(m) for p, m in zip(patch, median_shape, strict=True)]
        for axis in sorted((axis for axis, share in enumerate(shares) if share < 1), key=lambda axis: shares[axis]):
            longer = [p + topology.divisor[axis] * (n == axis) for n, p in enumerate(patch)]
            grown = _topology(rule, spacing, longer)
            if fits(grown):
                break
        else:
            return topology
        topology = grown


def _first_topology(rule: NetworkRule, spacing_mm: FloatArray, median_shape: FloatArray) -> Topology:
    """The largest patch considered: isotropic in mm, no axis longer than the median case, padded for pooling."""
    dims = len(spacing_mm)
    inverse = 1 / np.asarray(spacing_mm)
    edges = inverse * (_FIRST_EDGE[dims] ** dims / np.prod(inverse)) ** (1 / dims)
    patch = [min(float(round(edge)), float(size)) for edge, size in zip(edges, median_shape, strict=True)]
    return _topology(rule, spacing_mm.tolist(), patch)


def _topology(rule: NetworkRule, spacing_mm: Sequence[float], patch_size: Sequence[float]) -> Topology:
    """nnU-Net's, or the one of a network of fixed depth."""
    if rule.num_stages is None:
        return plan_topology(spacing_mm, patch_size)
    return fixed_topology(spacing_mm, patch_size, rule.num_stages, rule.kernel)


def _last_of_largest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda position: (values[position], position))
