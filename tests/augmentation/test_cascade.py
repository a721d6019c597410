from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from autoseg.augmentation import cascade
from autoseg.augmentation.cascade import OPERATIONS, change_shape, corrupt_previous
from autoseg.records.recipe import CascadeAugmentation

SCIPY = {
    "dilation": ndimage.binary_dilation,
    "erosion": lambda mask, ball: ndimage.binary_erosion(mask, ball, border_value=1),
    "opening": lambda mask, ball: ndimage.binary_dilation(ndimage.binary_erosion(mask, ball, border_value=1), ball),
    "closing": lambda mask, ball: ndimage.binary_erosion(ndimage.binary_dilation(mask, ball), ball, border_value=1),
}
NEVER = CascadeAugmentation(morphology_probability=0, drop_probability=0)
ALWAYS_MORPH = CascadeAugmentation(morphology_probability=1, morphology_label_probability=1, drop_probability=0)
ALWAYS_DROP = CascadeAugmentation(morphology_probability=0, drop_probability=1, drop_label_probability=1)


def _ball(radius):
    z, y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1, -radius : radius + 1]
    return z * z + y * y + x * x <= radius * radius


def _onehot(seed, num_labels=3, shape=(9, 12, 11)):
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.normal(size=shape), 1.5) for _ in range(num_labels + 1)]
    labels = np.argmax(fields, axis=0)
    return torch.from_numpy(np.stack([labels == k for k in range(1, num_labels + 1)]))


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 999),
    name=st.sampled_from(sorted(OPERATIONS)),
    radius=st.integers(1, 8),
    density=st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]),
    shape=st.sampled_from([(9, 12, 11), (1, 12, 11), (1, 1, 1)]),
)
def test_operations_equal_scipy(seed, name, radius, density, shape):
    mask = np.random.default_rng(seed).random(shape) < density
    got = OPERATIONS[name](torch.from_numpy(mask), radius)
    np.testing.assert_array_equal(got, SCIPY[name](mask, _ball(radius)))


def test_a_ball_grows_out_of_one_voxel():
    mask = torch.zeros(9, 9, 9, dtype=torch.bool)
    mask[4, 4, 4] = True
    np.testing.assert_array_equal(OPERATIONS["dilation"](mask, 4), _ball(4))


def test_what_a_label_gains_the_others_lose_and_what_it_loses_is_background():
    onehot = torch.zeros(2, 1, 1, 6)
    onehot[0, ..., 0:2] = 1
    onehot[1, ..., 2:4] = 1
    grown, shrunk = onehot.clone(), onehot.clone()
    change_shape(grown, 0, "dilation", 1)
    assert grown.flatten(1).tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0]]
    change_shape(shrunk, 1, "erosion", 1)
    assert shrunk.flatten(1).tolist() == [[1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 9999), dtype=st.sampled_from([torch.bool, torch.float32, torch.uint8]))
def test_labels_stay_apart_and_the_input_stays_as_it_is(seed, dtype):
    onehot = _onehot(seed % 10).to(dtype)
    before = onehot.clone()
    policy = CascadeAugmentation(morphology_probability=0.7, drop_probability=0.7)
    result = corrupt_previous(onehot, policy, np.random.default_rng(seed))
    assert torch.equal(onehot, before)
    assert result.dtype == dtype
    assert int(result.to(torch.int32).sum(0).max()) <= 1
    assert torch.equal(result, corrupt_previous(onehot, policy, np.random.default_rng(seed)))


def test_nothing_happens_where_nothing_is_drawn():
    onehot = _onehot(0)
    assert torch.equal(corrupt_previous(onehot, NEVER, np.random.default_rng(0)), onehot)


def test_odds_of_morphology():
    onehot = _onehot(1, shape=(5, 6, 5))
    rng = np.random.default_rng(0)
    policy = CascadeAugmentation(morphology_radius=(2, 2), drop_probability=0)
    changed = [not torch.equal(corrupt_previous(onehot, policy, rng), onehot) for _ in range(300)]
    assert 0.2 < np.mean(changed) < 0.42  # 0.4 * (1 - 0.5 ** 3) = 0.35, less the openings that change nothing


def test_odds_of_labels_operations_radii_and_drops_are_the_policys(monkeypatch):
    shaped, dropped, count = [], [], 3000
    monkeypatch.setattr(cascade, "change_shape", lambda _, label, name, radius: shaped.append((label, name, radius)))
    monkeypatch.setattr(cascade, "_drop_component", lambda channel, fraction, rng: dropped.append(fraction))
    rng = np.random.default_rng(0)
    for _ in range(count):
        corrupt_previous(torch.zeros(3, 1, 1, 1), CascadeAugmentation(), rng)
    assert len(shaped) / (3 * count) == pytest.approx(0.4 * 0.5, abs=0.02)
    assert len(dropped) / (3 * count) == pytest.approx(0.2 * 0.5, abs=0.015)
    assert set(dropped) == {0.15}
    for position, values in enumerate([range(3), OPERATIONS, range(1, 9)]):
        counts = Counter(found[position] for found in shaped)
        assert set(counts) == set(values)
        assert min(counts.values()) > 0.75 * len(shaped) / len(counts)


def test_every_label_takes_its_turn():
    rng = np.random.default_rng(0)
    onehot = _onehot(2)
    touched = np.zeros(3, dtype=int)
    for _ in range(40):
        result = corrupt_previous(onehot, ALWAYS_MORPH, rng)
        touched += np.array([not torch.equal(a, b) for a, b in zip(result, onehot, strict=True)])
    assert (touched > 10).all()


def test_only_small_components_are_dropped_and_one_a_label():
    onehot = torch.zeros(1, 4, 10, 10)
    onehot[0, :3, :2] = 1  # 60 of 400 voxels, exactly 15 %: too large
    onehot[0, 0, 6, 0] = 1
    onehot[0, 1, 7, 1] = 1  # touches the one before by a corner: the same component
    onehot[0, 3, 9, 9] = 1
    rng = np.random.default_rng(0)
    remaining = {int(corrupt_previous(onehot, ALWAYS_DROP, rng).sum()) for _ in range(30)}
    assert remaining == {61, 62}
    onehot[0, 0, 0, 0] = 0  # one fewer is small enough
    remaining = {int(corrupt_previous(onehot, ALWAYS_DROP, rng).sum()) for _ in range(40)}
    assert remaining == {3, 60, 61}


@pytest.mark.parametrize("fill", [0, 1])
def test_empty_and_full_labels_survive(fill):
    onehot = torch.full((2, 3, 4, 5), fill, dtype=torch.uint8)
    onehot[1] = 0
    for policy in (ALWAYS_MORPH, ALWAYS_DROP):
        assert torch.equal(corrupt_previous(onehot, policy, np.random.default_rng(0)), onehot)
