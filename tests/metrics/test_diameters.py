"""Diameters: boxes and lesions whose lengths are worked out by hand, and every pair of corners tried one by one."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.metrics.diameters import axial_axis, measure_diameters
from autoseg.records.geometry import Geometry, affine_rows
from autoseg.spatial.components import components
from tests.pipeline.fakes import oblique_grid

SPACING = (3.0, 2.0, 1.0)


def voxels(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask)


def box(z: int, y: int, x: int) -> np.ndarray:
    mask = np.zeros((z + 2, y + 3, x + 4), bool)
    mask[1 : 1 + z, 2 : 2 + y, 3 : 3 + x] = True
    return voxels(mask)


def test_one_voxel() -> None:
    """A box of 3 x 2 x 1 mm; a rectangle a b extends 2 a b / sqrt(a^2 + b^2) across its diagonal."""
    found = measure_diameters(box(1, 1, 1), SPACING, 0, False)
    assert found.longest_mm == pytest.approx(np.sqrt(9 + 4 + 1))
    assert found.longest_axial_mm == pytest.approx(np.sqrt(4 + 1))
    assert found.perpendicular_mm == pytest.approx(2 * 2 * 1 / np.sqrt(5))
    assert found.axial_slice == 1


@pytest.mark.parametrize("axial", [0, 1, 2])
def test_a_box_along_any_axis(axial: int) -> None:
    """2 x 3 x 4 voxels, that is 6 x 6 x 4 mm."""
    found = measure_diameters(box(2, 3, 4), SPACING, axial, False)
    a, b = {0: (6, 4), 1: (6, 4), 2: (6, 6)}[axial]
    assert found.longest_mm == pytest.approx(np.sqrt(36 + 36 + 16))
    assert found.longest_axial_mm == pytest.approx(np.hypot(a, b))
    assert found.perpendicular_mm == pytest.approx(2 * a * b / np.hypot(a, b))
    assert found.axial_slice == {0: 1, 1: 2, 2: 3}[axial]


def test_a_cross() -> None:
    """Arms of 9 and 5 voxels of 1 mm: the long diagonal runs along (9, 1) / sqrt(82), across is (-1, 9) / sqrt(82)."""
    mask = np.zeros((1, 11, 11), bool)
    mask[0, 5, 1:10] = True
    mask[0, 3:8, 5] = True
    found = measure_diameters(voxels(mask), (1.0, 1.0, 1.0), 0, False)
    assert found.longest_axial_mm == pytest.approx(np.sqrt(82))
    # The short arm is a rectangle of 1 x 5 mm: it extends 1 * 1 + 5 * 9 of that.
    assert found.perpendicular_mm == pytest.approx((1 * 1 + 5 * 9) / np.sqrt(82))


def test_the_widest_slice_is_found_and_not_the_sum_of_slices() -> None:
    """A stack of single voxels drifting to one side is long in space and short in every slice."""
    mask = np.zeros((6, 3, 8), bool)
    for z in range(6):
        mask[z, 1, z : z + 1 + (z == 3)] = True
    found = measure_diameters(voxels(mask), (1.0, 1.0, 1.0), 0, False)
    assert found.axial_slice == 3
    assert found.longest_axial_mm == pytest.approx(np.sqrt(4 + 1))
    assert found.longest_mm == pytest.approx(np.sqrt(36 + 36 + 1))


def test_a_picture_has_no_length_in_space() -> None:
    found = measure_diameters(box(1, 3, 4), (999.0, 1.0, 1.0), 0, True)
    assert found.longest_mm is None
    assert found.longest_axial_mm == 5


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 8), st.integers(1, 9), st.integers(0, 2))
def test_no_pair_of_corners_is_further_apart(seed: int, z: int, y: int, x: int, axial: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((z, y, x)) < 0.6
    mask[z // 2, y // 2, x // 2] = True
    numbers, _ = components(mask)
    own = voxels(numbers == numbers[z // 2, y // 2, x // 2])
    spacing = tuple(float(value) for value in rng.uniform(0.5, 3, 3))
    found = measure_diameters(rng.permutation(own), spacing, axial, False)
    corners = np.concatenate([own + np.array(step) for step in product((0, 1), repeat=3)]) * spacing
    assert found.longest_mm == pytest.approx(np.linalg.norm(corners[:, None] - corners[None], axis=-1).max())
    others = [axis for axis in range(3) if axis != axial]
    slices = {}
    for number in np.unique(own[:, axial]):
        flat = own[own[:, axial] == number][:, others]
        flat = np.concatenate([flat + np.array(step) for step in product((0, 1), repeat=2)]) * np.array(spacing)[others]
        slices[int(number)] = flat, np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    longest = max(distances.max() for _, distances in slices.values())
    assert found.longest_axial_mm == pytest.approx(longest)
    flat, distances = slices[found.axial_slice]
    assert distances.max() == pytest.approx(longest)
    widths = []
    for one, other in np.argwhere(distances >= longest * (1 - 1e-9)):
        along = (flat[other] - flat[one]) / longest
        widths.append(np.ptp(flat @ [-along[1], along[0]]))
    assert found.perpendicular_mm == pytest.approx(max(widths))


def test_the_axial_axis_is_the_one_along_the_body() -> None:
    assert axial_axis(oblique_grid((4, 5, 6))) == 0
    sagittal = Geometry(
        shape=(4, 5, 6),
        spacing_mm=(3, 1, 1),
        affine=affine_rows(np.array([[3, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0.0]])),
    )
    assert axial_axis(sagittal) == 1
