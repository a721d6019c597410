from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.spatial.orientation import (
    Turn,
    canonical_axes,
    orientation_code,
    turn,
    turn_back,
    turn_for,
    turned,
)

AXES = list(permutations(range(3)))
TURNS = [Turn(axes, flips) for axes in AXES for flips in product((False, True), repeat=3)]


def rotation(axis: np.ndarray, degrees: float) -> np.ndarray:
    x, y, z = axis / np.linalg.norm(axis)
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * skew @ skew


def canonical_matrix(tilt: np.ndarray, spacing=(3.0, 0.7, 0.9)) -> np.ndarray:
    """Array z, y, x -> world of a canonical grid (S, A, R), tilted."""
    matrix = np.eye(4)
    matrix[:3, :3] = tilt @ np.eye(3)[:, ::-1] @ np.diag(spacing)
    matrix[:3, 3] = (-11.0, 5.0, 40.0)
    return matrix


def stored_as(matrix: np.ndarray, shape, how: Turn) -> np.ndarray:
    """The matrix of the same grid whose arrays were turned by `how`."""
    index = np.zeros((4, 4))  # turned indices -> original indices
    index[3, 3] = 1
    for axis, (source, flip) in enumerate(zip(how.axes, how.flips, strict=True)):
        index[source, axis] = -1 if flip else 1
        index[source, 3] = shape[source] - 1 if flip else 0
    return matrix @ index


def as_nibabel(matrix: np.ndarray) -> np.ndarray:
    affine = matrix.copy()
    affine[:, :3] = matrix[:, 2::-1]  # columns x, y, z
    return affine


@pytest.mark.parametrize("how", TURNS, ids=str)
def test_every_turn_is_undone(how):
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    there = turn(array, how)
    assert there.shape[1:] == turned((3, 4, 5), how.axes)
    np.testing.assert_array_equal(turn_back(there, how), array)
    np.testing.assert_array_equal(turn_back(turn(array[0], how), how), array[0])


@pytest.mark.parametrize("degrees", [0.0, 20.0, 45.0])
@pytest.mark.parametrize("stored", TURNS, ids=str)
def test_all_48_axis_orders_give_one_canonical_array(stored, degrees):
    array = np.arange(3 * 4 * 5).reshape(3, 4, 5)
    matrix = canonical_matrix(rotation(np.array([1.0, 0, 0]), degrees))
    file_array, file_matrix = turn(array, stored), stored_as(matrix, array.shape, stored)
    expected = turn(array, turn_for(matrix, "canonical"))
    found = turn_for(file_matrix, "canonical")
    np.testing.assert_array_equal(turn(file_array, found), expected)
    if degrees < 45:
        np.testing.assert_array_equal(expected, array)
        assert canonical_axes(orientation_code(file_matrix)) == found.axes


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 0.1),
    st.floats(0, 44),
    st.sampled_from(TURNS),
)
def test_codes_agree_with_nibabel_within_45_degrees(axis, degrees, stored):
    nibabel = pytest.importorskip("nibabel")
    matrix = stored_as(canonical_matrix(rotation(np.array(axis), degrees)), (3, 4, 5), stored)
    assert orientation_code(matrix) == "".join(nibabel.aff2axcodes(as_nibabel(matrix)))


def test_sheared_matrix_agrees_with_nibabel():
    nibabel = pytest.importorskip("nibabel")
    matrix = canonical_matrix(np.eye(3))
    matrix[0, 0] = 1.4  # gantry tilt: z moves 1.4 mm to the right a slice
    assert orientation_code(matrix) == "".join(nibabel.aff2axcodes(as_nibabel(matrix))) == "RAS"


def test_canonical_axes_by_hand():
    assert canonical_axes("RAS") == (0, 1, 2) == canonical_axes("LPI")
    # file x runs along S, y along R, z along A: array axes are z = A, y = R, x = S
    assert canonical_axes("SRA") == (2, 0, 1)


def test_lps_file_is_flipped_in_plane():
    matrix = canonical_matrix(np.eye(3))
    matrix[:, 1:3] *= -1
    assert turn_for(matrix, "canonical") == Turn((0, 1, 2), (False, True, True))
    assert turn_for(matrix, "stored") == Turn((0, 1, 2), (False, False, False))


def test_transpose_comes_after_the_turn():
    matrix = canonical_matrix(np.eye(3))
    matrix[:, 1:3] *= -1
    assert turn_for(matrix, "canonical", (2, 0, 1)) == Turn((2, 0, 1), (True, False, True))
    array = np.arange(24).reshape(2, 3, 4)
    both = turn(turn(array, turn_for(matrix, "canonical")), Turn((2, 0, 1), (False, False, False)))
    np.testing.assert_array_equal(turn(array, turn_for(matrix, "canonical", (2, 0, 1))), both)


@pytest.mark.parametrize("axes", AXES, ids=str)
@pytest.mark.parametrize("transpose", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_a_planar_image_keeps_its_slice_first_however_it_is_stored(axes, transpose):
    """Axial, coronal and sagittal slices, each in all eight orders of its own two axes."""
    canonical = np.arange(3 * 4 * 5).reshape(3, 4, 5)
    lying = Turn(axes, (False, False, False))
    slice_, matrix = turn(canonical, lying)[:1], stored_as(canonical_matrix(np.eye(3)), canonical.shape, lying)
    expected = turn(slice_, turn_for(matrix, "canonical", transpose, planar=True))
    assert expected.shape[0] == 1
    for how in TURNS:
        if how.axes[0] == 0:
            found = turn_for(stored_as(matrix, slice_.shape, how), "canonical", transpose, planar=True)
            np.testing.assert_array_equal(turn(turn(slice_, how), found), expected)


def test_planar_turns_by_hand():
    axial = canonical_matrix(np.eye(3))
    coronal = axial[:, [1, 0, 2, 3]]  # z, y, x as stored run along A, S, R
    sagittal = axial[:, [2, 0, 1, 3]]  # R, S, A
    unturned = (False, False, False)
    assert turn_for(axial, "canonical", planar=True) == turn_for(axial, "canonical")
    assert turn_for(coronal, "canonical", planar=True) == Turn((0, 1, 2), unturned)
    assert turn_for(coronal, "canonical", (1, 0, 2), planar=True) == turn_for(coronal, "canonical", (1, 0, 2))
    assert turn_for(sagittal, "canonical", planar=True) == Turn((0, 2, 1), unturned)  # R, A, S: A where it belongs
    assert turn_for(coronal, "stored", (1, 0, 2), planar=True) == Turn((0, 1, 2), unturned)
