"""A policy, a patch and a sample's own random generator in, what happens to that sample in space out.

Everything is drawn on the host before anything is read or computed: the voxels to read follow from the drawn
parameters (`source_box`), no device is ever waited for, and a sample depends on its generator alone, not on
workers or on the other samples of its batch.

Conventions. The patch around the integer voxel `centre` starts at `centre - patch // 2` (nnU-Net's rule); its
midpoint, which need not be a voxel, is the centre of rotation. A voxel of the patch at offset `o` from the midpoint
shows the source at offset `matrix @ o`, so that a scale above 1 shrinks what is seen. Angles turn about z, y and x
(the array's axes 0, 1, 2): matrix = R_x(third) R_y(second) R_z(first) * scale with the axes in array order, as in
batchgeneratorsv2 0.3.6, whose scale is uniform over its range (half below and half above 1 is the rule of its
brightness, contrast and gamma only).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from autoseg.augmentation.elastic import Elastic
from autoseg.records.base import Record
from autoseg.records.geometry import IntTriple, Triple
from autoseg.records.recipe import Augmentation, Mirroring, SpatialAugmentation

Matrix = tuple[Triple, Triple, Triple]
IDENTITY: Matrix = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))

# Slack in voxels for the float32 rounding of coordinates, so that no corner lies outside the source box.
ROUNDING_SLACK = 1e-3


class SpatialParameters(Record):
    """What happens to one sample in space."""

    matrix: Matrix = IDENTITY
    """Offset in the patch -> offset in the source, both from the patch's midpoint, z y x in voxels; without flips."""
    axes: IntTriple = (0, 1, 2)
    """For each axis of the patch the one of the (rotated and scaled) source that lies along it."""
    flips: tuple[int, ...] = ()
    """Axes of the patch (0 z, 1 y, 2 x) that are mirrored."""
    elastic: Elastic | None = None
    """Deformation, whose displacements are added in the source; None: none."""
    swaps_classes: bool = False
    """Whether the axis across which left and right lie is mirrored, so that paired classes change places."""

    @model_validator(mode="after")
    def _consistent(self) -> "SpatialParameters":
        if any(axis not in (0, 1, 2) for axis in self.flips) or len(set(self.flips)) != len(self.flips):
            raise ValueError(f"flips must be different axes out of 0, 1 and 2, got {self.flips}")
        if sorted(self.axes) != [0, 1, 2]:
            raise ValueError(f"axes must be 0, 1 and 2 in some order, got {self.axes}")
        return self

    @property
    def is_crop(self) -> bool:
        """Whether no rotation, scaling or deformation was drawn: the patch is a piece of the source, perhaps mirrored
        and with other axes."""
        return self.matrix == IDENTITY and self.elastic is None

    @property
    def is_in_plane(self) -> bool:
        """Whether slices stay slices: z is neither mixed with y and x nor scaled nor deformed."""
        rows = self.matrix
        if self.elastic is not None and not self.elastic.in_plane:
            return False
        return rows[0] == IDENTITY[0] and rows[1][0] == 0 and rows[2][0] == 0


def draw_spatial(
    policy: Augmentation, mirroring: Mirroring, patch_zyx: Sequence[int], rng: np.random.Generator
) -> SpatialParameters:
    """Draw rotation, scaling and mirroring of one sample.

    Patches of one slice and policies with `dummy_2d` turn and scale in the plane of y and x. A flip of the only
    slice of a patch changes nothing and is not drawn. Quarter turns and transpositions follow upon rotation and
    scaling, mirroring upon them.
    """
    flips = tuple(axis for axis in mirroring.axes if patch_zyx[axis] > 1 and rng.random() < 0.5)
    matrix = IDENTITY
    spatial = policy.spatial
    if spatial is not None:
        rotates = rng.random() < spatial.rotation_probability
        scales = rng.random() < spatial.scaling_probability
        in_plane = spatial.dummy_2d or patch_zyx[0] == 1
        angles = _draw_angles(spatial, in_plane, rng) if rotates else (0.0, 0.0, 0.0)
        scale = _draw_scale(spatial, in_plane, rng) if scales else 1.0
        if rotates or scales:
            matrix = affine_matrix(angles, scale, in_plane)
    swaps = mirroring.swap_axis in flips
    axes: IntTriple = (0, 1, 2)
    if spatial is not None and (spatial.quarter_turn_probability > 0 or spatial.transpose_probability > 0):
        axes, turned = _draw_axes(spatial, _equal_axes(patch_zyx, spatial.dummy_2d, mirroring.swap_axis), rng)
        flips = tuple(axis for axis in range(3) if (axis in flips) != (axis in turned))
    elastic = None if spatial is None else _draw_elastic(spatial, patch_zyx[0] == 1, rng)
    return SpatialParameters(matrix=matrix, axes=axes, flips=flips, elastic=elastic, swaps_classes=swaps)


def _draw_elastic(spatial: SpatialAugmentation, is_slice: bool, rng: np.random.Generator) -> Elastic | None:
    """A deformation, by its odds; nothing is drawn where these are 0."""
    if spatial.elastic_probability == 0 or rng.random() >= spatial.elastic_probability:
        return None
    return Elastic(
        seed=int(rng.integers(2**63)),
        spacing=spatial.elastic_spacing,
        largest=float(rng.uniform(*spatial.elastic_magnitude)) * spatial.elastic_spacing,
        in_plane=spatial.dummy_2d or is_slice,
    )


def _draw_angles(spatial: SpatialAugmentation, in_plane: bool, rng: np.random.Generator) -> Triple:
    """Angles about z, y and x in degrees; in the plane only z is turned about."""
    angles = [float(rng.uniform(*spatial.rotation_degrees)) for _ in range(1 if in_plane else 3)]
    if (odds := spatial.rotation_axis_probability) < 1:
        angles = [angle if rng.random() < odds else 0.0 for angle in angles]
    z, y, x = (*angles, 0.0, 0.0)[:3]
    return (z, y, x)


def _draw_scale(spatial: SpatialAugmentation, in_plane: bool, rng: np.random.Generator) -> float | Triple:
    """One factor, or one for z, y and x; in the plane that of z is not used."""
    if not spatial.scaling_per_axis:
        return float(rng.uniform(*spatial.scaling))
    z, y, x = (1.0 if in_plane and axis == 0 else float(rng.uniform(*spatial.scaling)) for axis in range(3))
    return (z, y, x)


def _equal_axes(patch_zyx: Sequence[int], in_plane: bool, swap_axis: int | None) -> tuple[int, ...]:
    """The most axes along which a patch is equally long and that may change places; empty where there are no two."""
    free = [axis for axis in range(3) if axis != swap_axis and patch_zyx[axis] > 1 and not (in_plane and axis == 0)]
    groups = [tuple(other for other in free if patch_zyx[other] == patch_zyx[axis]) for axis in free]
    largest = max(groups, key=len, default=())
    return largest if len(largest) > 1 else ()


def _draw_axes(
    spatial: SpatialAugmentation, free: Sequence[int], rng: np.random.Generator
) -> tuple[IntTriple, tuple[int, ...]]:
    """Order of axes and flips after it, for a quarter turn and then a transposition of the `free` axes."""
    order, flips = [0, 1, 2], set[int]()
    if free and rng.random() < spatial.quarter_turn_probability:
        a, b = sorted(int(axis) for axis in rng.choice(free, size=2, replace=False))
        turns = int(rng.integers(4))
        if turns % 2:  # a turn by 90 degrees is an exchange of both axes and a flip of the first
            order[a], order[b] = b, a
        flips = {1: {a}, 2: {a, b}, 3: {b}}.get(turns, set())
    if free and rng.random() < spatial.transpose_probability:
        places = [0, 1, 2]
        for axis, other in zip(free, rng.permutation(free), strict=True):
            places[axis] = int(other)
        order, flips = [order[place] for place in places], {axis for axis in range(3) if places[axis] in flips}
    z, y, x = order
    return (z, y, x), tuple(sorted(flips))


def affine_matrix(angles_degrees: Triple, scale: float | Triple, in_plane: bool) -> Matrix:
    """Rotation about z, y and x (in that order, then scaled) as z y x rows; `in_plane` leaves z unscaled."""
    of_z, of_y, of_x = (scale, scale, scale) if isinstance(scale, float | int) else scale
    (cz, cy, cx), (sz, sy, sx) = np.cos(np.deg2rad(angles_degrees)), np.sin(np.deg2rad(angles_degrees))
    about_z = np.array([[1, 0, 0], [0, cz, -sz], [0, sz, cz]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[cx, -sx, 0], [sx, cx, 0], [0, 0, 1]])
    matrix = about_x @ about_y @ about_z @ np.diag([1.0 if in_plane else of_z, of_y, of_x])
    a, b, c = ((float(row[0]), float(row[1]), float(row[2])) for row in matrix)
    return (a, b, c)


def patch_start(centre: Sequence[int], patch_zyx: Sequence[int]) -> IntTriple:
    """First voxel z, y, x of the patch around the voxel `centre`; may be negative."""
    z, y, x = (int(c) - int(n) // 2 for c, n in zip(centre, patch_zyx, strict=True))
    return (z, y, x)


def patch_midpoint(centre: Sequence[int], patch_zyx: Sequence[int]) -> npt.NDArray[np.float64]:
    """Midpoint of the patch around the voxel `centre`, in voxels; between two voxels where the patch is even."""
    return np.array(patch_start(centre, patch_zyx)) + (np.array(patch_zyx) - 1) / 2


def source_box(
    parameters: SpatialParameters, patch_zyx: Sequence[int], centre: Sequence[int]
) -> tuple[IntTriple, IntTriple]:
    """All voxels that the patch depends on, as (start, stop) z y x; they may lie outside the volume.

    A crop needs the patch itself; otherwise the box holds every corner of linear interpolation.
    """
    start = patch_start(centre, patch_zyx)
    if parameters.is_crop:
        z, y, x = (s + int(n) for s, n in zip(start, patch_zyx, strict=True))
        return start, (z, y, x)
    reach = np.abs(np.array(parameters.matrix)) @ ((np.array(patch_zyx) - 1) / 2) + ROUNDING_SLACK
    reach = reach + (0 if parameters.elastic is None else parameters.elastic.largest)
    midpoint = patch_midpoint(centre, patch_zyx)
    low, high = np.floor(midpoint - reach).astype(int), np.floor(midpoint + reach).astype(int) + 2
    if parameters.is_in_plane:  # slices are taken as they are, without neighbours
        low[0], high[0] = start[0], start[0] + int(patch_zyx[0])
    return _triple(low), _triple(high)


def _triple(values: npt.NDArray[np.int_]) -> IntTriple:
    z, y, x = (int(value) for value in values)
    return (z, y, x)
