"""A mask in, its connected components out (26-connected: voxels that share a face, an edge or a corner)."""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]
Connectivity = Literal[6, 18, 26]

_TINY = 64
"""Voxels up to which a volume is padded along every axis: a copy of nothing."""


def components(mask: npt.NDArray[Any], connectivity: Connectivity = 26) -> tuple[npt.NDArray[np.integer], int]:
    """Number the components of `mask` (Z Y X; anything nonzero is in it).

    Args:
        mask: volume; slices are volumes with Z = 1.
        connectivity: 6, 18 or 26 neighbours.

    Returns:
        Component numbers from 1 (0 outside the mask), Z Y X, and how many there are.
    """
    return value_components(mask != 0, connectivity)


def value_components(values: npt.NDArray[Any], connectivity: Connectivity = 26) -> tuple[npt.NDArray[np.integer], int]:
    """Number the components of each value (Z Y X; 0 is in none): neighbours of different values are not joined.

    Args:
        values: truth values or class numbers; slices are volumes with Z = 1.
        connectivity: 6, 18 or 26 neighbours.

    Returns:
        Component numbers from 1 (0 where the value is 0), Z Y X, and how many there are.
    """
    import cc3d

    whole = np.ascontiguousarray(values)
    z, y, x = values.shape
    # The table of cc3d 4.1 is too short, and it raises, where every other voxel of a slice or of 3x3x3 voxels is alone.
    if min(values.shape) == 1 or values.size <= _TINY:
        whole = np.pad(whole, [(0, int(size == 1 or values.size <= _TINY)) for size in values.shape])
    numbers, count = cc3d.connected_components(whole, connectivity=connectivity, return_N=True)
    return numbers[:z, :y, :x], int(count)


def keep_largest(mask: npt.NDArray[Any], connectivity: Connectivity = 26) -> BoolArray:
    """The largest component of `mask` (Z Y X) alone; equally large ones all stay, so axis order decides nothing."""
    numbers, count = components(mask, connectivity)
    if count <= 1:
        single: BoolArray = numbers != 0
        return single
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)
    sizes[0] = 0
    kept: BoolArray = (sizes == sizes.max())[numbers]
    return kept
