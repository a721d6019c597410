"""Parameters of an elastic deformation in, the displacement of each voxel of a patch out.

Displacements are drawn at control points and joined by uniform cubic B-splines, whose weights are positive and sum to
1: none exceeds the largest of its control points, so the voxels to read are known before anything is computed. Where
that is below 0.403 of the distance of control points, the deformation folds nowhere (Choi and Lee 2000, "Injectivity
conditions of 2D and 3D uniform cubic B-spline functions"). It is added to the coordinates of rotation and scaling:
there is one resampling still.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from autoseg.records.base import Record


class Elastic(Record):
    """An elastic deformation of one sample."""

    seed: int
    """Of the displacements."""
    spacing: float
    """Distance of control points in voxels, along every axis."""
    largest: float
    """Largest displacement along an axis in voxels."""
    in_plane: bool = False
    """Whether all slices are moved alike, along y and x only."""


def displacements(elastic: Elastic, patch_zyx: Sequence[int], device: torch.device) -> Tensor:
    """Displacement of each voxel along z, y and x, `3 Z Y X` float32 in voxels; one slice in the plane.

    The control points come from the host, a few hundred numbers, so that all devices deform alike.
    """
    sizes = (1, *patch_zyx[1:]) if elastic.in_plane else tuple(patch_zyx)
    bases = [_basis(size, elastic.spacing) for size in sizes]
    rng = np.random.default_rng(elastic.seed)
    points = rng.uniform(-elastic.largest, elastic.largest, size=(3, *(basis.shape[1] for basis in bases)))
    if elastic.in_plane:
        points[0] = 0
    z, y, x = (torch.from_numpy(basis).float().to(device, non_blocking=True) for basis in bases)
    field = torch.from_numpy(points).float().to(device, non_blocking=True) @ x.T
    field = (field.transpose(-1, -2) @ y.T).transpose(-1, -2)
    shape = (3, field.shape[1], -1)
    return (z @ field.reshape(shape)).view(3, *sizes)


def _basis(size: int, spacing: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Weight of each control point (columns) at each voxel of an axis (rows); control points begin one before it."""
    positions = np.arange(size) / spacing
    cells = positions.astype(int)
    t = positions - cells
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    basis = np.zeros((size, math.floor((size - 1) / spacing) + 4))
    for step, weight in enumerate(weights):
        basis[np.arange(size), cells + step] = weight
    return basis
