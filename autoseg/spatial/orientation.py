"""A grid's matrix in, the turn (axes and flips) that brings its arrays to the network's axes out, and back.

Canonical arrays run S, A, R along z, y, x (RAS+ in the order of files): whatever the order and signs of a
file's axes, the same anatomy gives the same array, so the network's answer does not depend on them. An
oblique grid is turned by whole axes only, never interpolated. Among the 48 ways to do that, the one closest
to the anatomical axes is taken: the largest trace of the direction matrix, which is the smallest rotation
left over. nibabel chooses axis by axis instead; both agree wherever each axis is within 45 degrees of
its own anatomical one. Comparing all 48 and breaking ties by the matrix itself keeps the choice
independent of the file's axes even for a grid rotated by exactly 45 degrees.

Turning gives views, no copies; `turn_back` is its exact inverse.
"""

from collections.abc import Sequence
from itertools import permutations, product
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

Axes = tuple[int, int, int]
Flips = tuple[bool, bool, bool]
Item = TypeVar("Item")

_IDENTITY: Axes = (0, 1, 2)
_CODES = (("L", "R"), ("P", "A"), ("I", "S"))
# Array axes z, y, x of a canonical array run along world axes 2 (superior), 1 (anterior), 0 (right).
_WORLD_OF_AXIS = (2, 1, 0)
_TIE_DECIMALS = 5


class Turn(NamedTuple):
    """A permutation of the three array axes followed by flips."""

    axes: Axes
    """Array axis of the file that becomes axis 0, 1, 2."""
    flips: Flips
    """Whether axis 0, 1, 2 of the result runs against the file's axis."""


def turn_for(
    matrix: npt.NDArray[np.float64],
    orientation: Literal["canonical", "stored"],
    transpose: Axes = _IDENTITY,
    planar: bool = False,
) -> Turn:
    """The turn from stored arrays to the network's arrays.

    Args:
        matrix: 4 x 4 from (z, y, x, 1) array indices to world (x, y, z, 1) in mm, RAS+ (`Geometry.matrix`).
        orientation: `canonical` turns to S, A, R first; `stored` keeps the file's axes.
        transpose: permutation of the (oriented) axes that comes last; entry i is the axis that becomes axis i.
        planar: the file is a 2-D image: its one slice stays on axis 0, however it lies in the patient, since a 2-D
            network would otherwise see lines of one voxel. Its other two axes come as close as they can.

    Returns:
        Both steps in one.
    """
    a, b, c = transpose
    if planar and orientation == "canonical":
        return _canonical_turn(matrix, (_WORLD_OF_AXIS[a], _WORLD_OF_AXIS[b], _WORLD_OF_AXIS[c]), keeps_first=True)
    if planar:
        b, c = (axis for axis in transpose if axis != 0)
        a = 0
    first = _canonical_turn(matrix) if orientation == "canonical" else Turn(_IDENTITY, (False, False, False))
    return Turn(
        (first.axes[a], first.axes[b], first.axes[c]),
        (first.flips[a], first.flips[b], first.flips[c]),
    )


def turn(array: npt.NDArray[Any], how: Turn) -> npt.NDArray[Any]:
    """View of `array` (... Z Y X) with its last three axes turned; leading axes stay."""
    leading = array.ndim - 3
    moved = array.transpose(*range(leading), *(leading + axis for axis in how.axes))
    return np.flip(moved, _flipped_axes(how, leading))


def turn_back(array: npt.NDArray[Any], how: Turn) -> npt.NDArray[Any]:
    """View of `array` (... on the turned grid) with its last three axes as stored: the inverse of `turn`."""
    leading = array.ndim - 3
    flipped = np.flip(array, _flipped_axes(how, leading))
    inverse = (how.axes.index(0), how.axes.index(1), how.axes.index(2))
    return flipped.transpose(*range(leading), *(leading + axis for axis in inverse))


def turned(values: Sequence[Item], axes: Axes) -> tuple[Item, Item, Item]:
    """A shape or spacing (z, y, x as stored) in the order of the turned axes."""
    return values[axes[0]], values[axes[1]], values[axes[2]]


def canonical_axes(orientation: str) -> Axes:
    """Stored array axis (z, y, x) of each canonical axis S, A, R, for the shapes and spacings of a fingerprint.

    Args:
        orientation: anatomical direction of the file's x, y and z axes, for example `LPS`.
    """
    stored = [next(i for i, pair in enumerate(_CODES) if letter in pair) for letter in reversed(orientation)]
    return stored.index(2), stored.index(1), stored.index(0)


def orientation_code(matrix: npt.NDArray[np.float64]) -> str:
    """Closest anatomical direction of the file's x, y and z axes, for example `LPS` (`matrix` as in `turn_for`)."""
    axes, flips = _canonical_turn(matrix)
    letters = {axes[i]: _CODES[_WORLD_OF_AXIS[i]][0 if flips[i] else 1] for i in range(3)}
    return letters[2] + letters[1] + letters[0]


def _flipped_axes(how: Turn, leading: int) -> tuple[int, ...]:
    return tuple(leading + i for i in range(3) if how.flips[i])


def _canonical_turn(
    matrix: npt.NDArray[np.float64], world_of_axis: Axes = _WORLD_OF_AXIS, keeps_first: bool = False
) -> Turn:
    """The turn to arrays along the given world axes, closest among all or among those that keep axis 0 first."""
    directions = _closest_orthogonal(matrix)[list(world_of_axis)]  # rows e.g. S, A, R; columns z, y, x as stored
    candidates = []
    for axes in permutations(_IDENTITY):
        if keeps_first and axes[0] != 0:
            continue
        for signs in product((1.0, -1.0), repeat=3):
            candidate = np.round(directions[:, axes] * signs, _TIE_DECIMALS) + 0.0  # + 0.0 makes -0.0 equal 0.0
            rank = (round(float(np.trace(candidate)), _TIE_DECIMALS - 1), candidate.ravel().tolist())
            candidates.append((rank, axes, signs))
    _, (a, b, c), signs = max(candidates)
    return Turn((a, b, c), (signs[0] < 0, signs[1] < 0, signs[2] < 0))


def _closest_orthogonal(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Direction part of the matrix without spacing and shear (polar decomposition): rows world x y z, columns z y x."""
    part = matrix[:3, :3]
    left, _, right = np.linalg.svd(part / np.linalg.norm(part, axis=0))
    closest: npt.NDArray[np.float64] = left @ right
    return closest
