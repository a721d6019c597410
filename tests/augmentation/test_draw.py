import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.augmentation.draw import (
    IDENTITY,
    SpatialParameters,
    affine_matrix,
    draw_spatial,
    patch_midpoint,
    source_box,
)
from autoseg.augmentation.policies import nnunet_augmentation, no_augmentation
from autoseg.records.recipe import Augmentation, Mirroring, SpatialAugmentation

ALWAYS = Augmentation(spatial=SpatialAugmentation(rotation_probability=1, scaling_probability=1))


def _draws(policy, mirroring, patch, count=2000):
    rng = np.random.default_rng(0)
    return [draw_spatial(policy, mirroring, patch, rng) for _ in range(count)]


def test_the_same_generator_draws_the_same():
    drawn = [draw_spatial(ALWAYS, Mirroring(), (8, 8, 8), np.random.default_rng([7, 1, 2])) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != draw_spatial(ALWAYS, Mirroring(), (8, 8, 8), np.random.default_rng([7, 1, 3]))


def test_odds_are_nnunets():
    drawn = _draws(nnunet_augmentation(False, (64, 64, 64)), Mirroring(), (64, 64, 64))
    assert np.isclose(np.mean([p.is_crop for p in drawn]), 0.64, atol=0.04)
    matrices = np.array([p.matrix for p in drawn])
    scaled = ~np.isclose(np.linalg.det(matrices), 1)
    turned = np.abs(matrices * (1 - np.eye(3))).max((1, 2)) > 1e-9
    assert np.isclose(scaled.mean(), 0.2, atol=0.03)
    assert np.isclose(turned.mean(), 0.2, atol=0.03)
    assert np.isclose((scaled & turned).mean(), 0.04, atol=0.015)
    for axis in range(3):
        assert np.isclose(np.mean([axis in p.flips for p in drawn]), 0.5, atol=0.04)


def test_scale_is_uniform_and_shared_and_angles_are_in_range():
    drawn = _draws(ALWAYS, Mirroring(axes=()), (8, 8, 8))
    matrices = np.array([p.matrix for p in drawn])
    scales = np.linalg.norm(matrices, axis=1)
    np.testing.assert_allclose(scales, scales[:, :1].repeat(3, 1))
    assert scales.min() >= 0.7
    assert scales.max() <= 1.4
    assert np.isclose(scales.mean(), 1.05, atol=0.02)
    # R_x R_y R_z in array axes: the rows end in sin(y), -cos(y) sin(z), cos(y) cos(z), apart from the scale.
    rotations = matrices / scales[:, :1, None]
    about_y = np.rad2deg(np.arcsin(-rotations[:, 2, 0]))
    about_z = np.rad2deg(np.arctan2(rotations[:, 2, 1], rotations[:, 2, 2]))
    about_x = np.rad2deg(np.arctan2(rotations[:, 1, 0], rotations[:, 0, 0]))
    for angles in (about_x, about_y, about_z):
        assert np.abs(angles).max() <= 30 + 1e-9
        assert np.isclose(angles.std(), 60 / np.sqrt(12), atol=1)
    assert abs(np.corrcoef(about_z, about_x)[0, 1]) < 0.1


def test_quarter_turns_by_hand():
    np.testing.assert_allclose(affine_matrix((90, 0, 0), 1, False), [[1, 0, 0], [0, 0, -1], [0, 1, 0]], atol=1e-12)
    np.testing.assert_allclose(affine_matrix((0, 90, 0), 1, False), [[0, 0, 1], [0, 1, 0], [-1, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(affine_matrix((0, 0, 90), 1, False), [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12)
    np.testing.assert_allclose(affine_matrix((0, 0, 0), 1.3, True), np.diag([1, 1.3, 1.3]), atol=1e-12)


@pytest.mark.parametrize("patch", [(1, 32, 32), (5, 32, 32)])
def test_flat_patches_turn_in_the_plane(patch):
    policy = nnunet_augmentation(patch[0] == 1, patch)
    drawn = _draws(policy, Mirroring(), patch, 300)
    assert all(p.is_in_plane for p in drawn)
    assert any(not p.is_crop for p in drawn)
    assert any(0 in p.flips for p in drawn) == (patch[0] > 1)


def test_a_slice_turns_in_the_plane_under_any_policy():
    assert all(p.is_in_plane for p in _draws(ALWAYS, Mirroring(), (1, 16, 16), 50))


def test_classes_change_places_with_their_axis_only():
    mirroring = Mirroring(axes=(1, 2), swap_axis=2, swap_pairs=((1, 2),))
    drawn = _draws(no_augmentation(False, (8, 8, 8)), mirroring, (8, 8, 8), 200)
    assert all(p.swaps_classes == (2 in p.flips) for p in drawn)
    assert {p.flips for p in drawn} == {(), (1,), (2,), (1, 2)}
    assert all(
        p.is_crop and not p.swaps_classes
        for p in _draws(no_augmentation(False, (8, 8, 8)), Mirroring(axes=()), (8, 8, 8), 20)
    )


def test_flips_name_axes():
    with pytest.raises(ValueError, match="flips"):
        SpatialParameters(flips=(3,))


@pytest.mark.parametrize(("patch", "start"), [((4, 5, 6), (8, 8, 7)), ((1, 1, 1), (10, 10, 10))])
def test_a_crop_reads_the_patch_around_its_centre(patch, start):
    low, high = source_box(SpatialParameters(), patch, (10, 10, 10))
    assert low == start
    assert high == tuple(s + n for s, n in zip(start, patch, strict=True))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    patch=st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20)),
    centre=st.tuples(st.integers(-5, 40), st.integers(-5, 40), st.integers(-5, 40)),
)
def test_the_source_box_holds_every_corner(seed, patch, centre):
    parameters = draw_spatial(ALWAYS, Mirroring(), patch, np.random.default_rng(seed))
    low, high = source_box(parameters, patch, centre)
    corners = np.array(np.meshgrid(*[[-(n - 1) / 2, (n - 1) / 2] for n in patch])).reshape(3, -1)
    positions = np.array(parameters.matrix) @ corners + patch_midpoint(centre, patch)[:, None]
    assert (np.floor(positions) >= np.array(low)[:, None]).all()
    last_needed = np.floor(positions + 1e-9) + 1
    if parameters.is_in_plane:
        last_needed[0] -= 1
    assert (last_needed < np.array(high)[:, None]).all()
    assert all(h - lo <= 3 + 1.4 * np.sqrt(3) * max(patch) for lo, h in zip(low, high, strict=True))


def test_identity_is_a_crop():
    assert SpatialParameters(matrix=IDENTITY).is_crop
    assert not SpatialParameters(matrix=affine_matrix((1, 0, 0), 1, False)).is_crop


TURNS = Augmentation(spatial=SpatialAugmentation(quarter_turn_probability=1, transpose_probability=1))


def test_quarter_turns_and_transpositions_equal_torchs_over_all_draws():
    volume = torch.arange(27).reshape(3, 3, 3)
    only_turns = TURNS.model_copy(update={"spatial": TURNS.spatial.model_copy(update={"transpose_probability": 0})})
    expected = {
        tuple(torch.rot90(volume, k, pair).flatten().tolist()) for k in range(4) for pair in ((0, 1), (0, 2), (1, 2))
    }
    drawn = _draws(only_turns, Mirroring(axes=()), (3, 3, 3), 400)
    shown = [tuple(volume.permute(p.axes).flip(p.flips).flatten().tolist()) for p in drawn]
    assert set(shown) == expected
    assert len(expected) == 10
    assert shown.count(tuple(range(27))) / 400 == pytest.approx(1 / 4, abs=0.08)
    both = {
        tuple(volume.permute(p.axes).flip(p.flips).flatten().tolist())
        for p in _draws(TURNS, Mirroring(axes=()), (3, 3, 3), 1500)
    }
    every = {
        tuple(torch.rot90(volume, k, pair).permute(order).flatten().tolist())
        for k in range(4)
        for pair in ((0, 1), (0, 2), (1, 2))
        for order in itertools.permutations(range(3))
    }
    assert both == every


@pytest.mark.parametrize(
    ("patch", "dummy_2d", "swap_axis", "free"),
    [
        ((8, 8, 8), False, None, (0, 1, 2)),
        ((8, 8, 8), False, 2, (0, 1)),
        ((8, 8, 8), True, None, (1, 2)),
        ((8, 8, 6), False, None, (0, 1)),
        ((8, 9, 10), False, None, ()),
        ((1, 8, 8), False, None, (1, 2)),
        ((8, 8, 6), False, 0, ()),
    ],
)
def test_only_equally_long_axes_without_sides_change_places(patch, dummy_2d, swap_axis, free):
    policy = Augmentation(spatial=TURNS.spatial.model_copy(update={"dummy_2d": dummy_2d}))
    axes = () if swap_axis is None else (swap_axis,)
    drawn = _draws(policy, Mirroring(axes=axes, swap_axis=swap_axis), patch, 200)
    fixed = set(range(3)) - set(free)
    assert all(p.axes[axis] == axis for p in drawn for axis in fixed)
    assert all(p.swaps_classes == (swap_axis in p.flips) for p in drawn)
    assert len({p.axes for p in drawn}) == {0: 1, 2: 2, 3: 6}[len(free)]


def test_each_axis_has_its_own_angle_and_scale():
    policy = Augmentation(
        spatial=SpatialAugmentation(
            rotation_probability=1, rotation_axis_probability=0.5, scaling_probability=1, scaling_per_axis=True
        )
    )
    drawn = _draws(policy, Mirroring(axes=()), (8, 8, 8))
    scales = np.linalg.norm([p.matrix for p in drawn], axis=1)
    assert np.abs(np.corrcoef(scales.T) - np.eye(3)).max() < 0.1
    assert scales.min() >= 0.7
    assert scales.max() <= 1.4
    unturned = np.mean([np.allclose(np.array(p.matrix), np.diag(np.diag(p.matrix))) for p in drawn])
    assert unturned == pytest.approx(1 / 8, abs=0.03)
