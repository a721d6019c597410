import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from autoseg.augmentation import spatial
from autoseg.augmentation.draw import (
    IDENTITY,
    SpatialParameters,
    affine_matrix,
    draw_spatial,
    patch_midpoint,
    patch_start,
    source_box,
)
from autoseg.augmentation.spatial import outside_label, sample_patch, swap_classes
from autoseg.records.recipe import Augmentation, Mirroring, SpatialAugmentation

ALWAYS = Augmentation(spatial=SpatialAugmentation(rotation_probability=1, scaling_probability=1))
IN_PLANE = Augmentation(
    spatial=SpatialAugmentation(
        rotation_probability=1, scaling_probability=1, rotation_degrees=(-180, 180), dummy_2d=True
    )
)
HARDLY_TURNED = affine_matrix((1e-9, 0, 0), 1 + 1e-9, False)
HARDLY_TURNED_IN_PLANE = affine_matrix((1e-9, 0, 0), 1 + 1e-9, True)
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))


def _case(seed, shape, num_classes=4, channels=2):
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.normal(size=(channels, *shape)).astype(np.float32))
    return image, torch.from_numpy(rng.integers(0, num_classes, size=shape).astype(np.int16))


def _padded(array, start, patch, margin=64):
    """The patch that starts at `start`, from an array with zeros all around."""
    padded = np.pad(array, [(0, 0)] * (array.ndim - 3) + [(margin, margin)] * 3)
    return padded[(..., *(slice(s + margin, s + margin + n) for s, n in zip(start, patch, strict=True)))]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 999),
    shape=SHAPES,
    patch=SHAPES,
    centre=st.tuples(*[st.integers(-12, 20)] * 3),
    flips=st.sets(st.integers(0, 2)),
)
def test_identity_is_an_exact_crop_with_zeros_outside(seed, shape, patch, centre, flips):
    image, labels = _case(seed, shape)
    parameters = SpatialParameters(flips=tuple(flips))
    got_image, got_labels = sample_patch(image, labels, (0, 0, 0), centre, patch, parameters, 4)
    start = patch_start(centre, patch)
    axes = tuple(axis - 3 for axis in flips)
    np.testing.assert_array_equal(got_image, np.flip(_padded(image.numpy(), start, patch), axes))
    np.testing.assert_array_equal(got_labels, np.flip(_padded(labels.numpy(), start, patch), axes))
    assert got_labels.dtype == torch.int16


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 999),
    shape=SHAPES,
    patch=SHAPES,
    centre=st.tuples(*[st.integers(-12, 20)] * 3),
    flips=st.sets(st.integers(0, 2)),
    matrix=st.sampled_from([HARDLY_TURNED, HARDLY_TURNED_IN_PLANE]),
)
def test_hardly_any_rotation_is_hardly_different_from_a_crop(seed, shape, patch, centre, flips, matrix):
    image, labels = _case(seed, shape)
    moved, crop = (SpatialParameters(matrix=m, flips=tuple(flips)) for m in (matrix, IDENTITY))
    assert not moved.is_crop
    got = sample_patch(image, labels, (0, 0, 0), centre, patch, moved, 4)
    expected = sample_patch(image, labels, (0, 0, 0), centre, patch, crop, 4)
    np.testing.assert_allclose(got[0], expected[0], atol=1e-4)
    np.testing.assert_array_equal(got[1], expected[1])


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), policy=st.sampled_from([ALWAYS, IN_PLANE]), patch=SHAPES)
def test_flips_of_a_resampled_patch_are_flips(seed, policy, patch):
    image, labels = _case(seed, (9, 12, 11))
    parameters = draw_spatial(policy, Mirroring(), patch, np.random.default_rng(seed))
    plain = parameters.model_copy(update={"flips": ()})
    got = sample_patch(image, labels, (0, 0, 0), (4, 6, 5), patch, parameters, 4)
    expected = sample_patch(image, labels, (0, 0, 0), (4, 6, 5), patch, plain, 4)
    np.testing.assert_allclose(got[0].flip([a + 1 for a in parameters.flips]), expected[0], atol=1e-5)
    assert (got[1].flip(parameters.flips) != expected[1]).float().mean() <= 0.02  # near ties may turn


def _oracle(image, labels, centre, patch, matrix, num_classes):
    """scipy's linear interpolation of the image and of every one-hot map, and the largest of the latter."""
    midpoint = patch_midpoint(centre, patch)
    half = (np.array(patch) - 1) / 2

    def linear(array):
        return ndimage.affine_transform(
            array.astype(np.float64),
            np.array(matrix),
            midpoint - np.array(matrix) @ half,
            output_shape=tuple(patch),
            order=1,
            mode="grid-constant",
        )

    scores = np.stack([linear(labels == k) for k in range(1, num_classes)])
    scores = np.concatenate([1 - scores.sum(0, keepdims=True), scores])
    ordered = np.sort(scores, axis=0)
    return np.stack([linear(c) for c in image]), scores.argmax(0), ordered[-1] - ordered[-2] > 1e-3


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 999),
    policy=st.sampled_from([ALWAYS, IN_PLANE]),
    shape=SHAPES,
    patch=SHAPES,
    centre=st.tuples(*[st.integers(-2, 9)] * 3),
    num_classes=st.sampled_from([2, 5, 200]),
)
def test_resampling_equals_scipy_also_over_the_border(seed, policy, shape, patch, centre, num_classes):
    image, labels = _case(seed, shape, num_classes)
    parameters = draw_spatial(policy, Mirroring(axes=()), patch, np.random.default_rng(seed))
    got_image, got_labels = sample_patch(image, labels, (0, 0, 0), centre, patch, parameters, num_classes)
    expected, argmax, clear = _oracle(image.numpy(), labels.numpy(), centre, patch, parameters.matrix, num_classes)
    np.testing.assert_allclose(got_image, expected, atol=2e-4)
    np.testing.assert_array_equal(got_labels.numpy()[clear], argmax[clear])
    assert set(np.unique(got_labels)) <= set(np.unique(labels)) | {0}


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 999),
    policy=st.sampled_from([ALWAYS, IN_PLANE]),
    patch=SHAPES,
    centre=st.tuples(*[st.integers(-2, 14)] * 3),
)
def test_only_the_source_box_is_needed(seed, policy, patch, centre):
    shape = (10, 12, 11)
    image, labels = _case(seed, shape)
    parameters = draw_spatial(policy, Mirroring(), patch, np.random.default_rng(seed))
    low, high = source_box(parameters, patch, centre)
    first = [min(max(lo, 0), n) for lo, n in zip(low, shape, strict=True)]
    piece = tuple(slice(f, max(f, min(h, n))) for f, h, n in zip(first, high, shape, strict=True))
    whole = sample_patch(image, labels, (0, 0, 0), centre, patch, parameters, 4)
    part = sample_patch(image[(slice(None), *piece)], labels[piece], first, centre, patch, parameters, 4)
    assert torch.equal(whole[0], part[0])
    assert torch.equal(whole[1], part[1])


@pytest.mark.parametrize("policy", [ALWAYS, IN_PLANE])
def test_slabs_and_devices_take_the_same_vote(policy, monkeypatch):
    image, labels = _case(1, (12, 14, 13))
    parameters = draw_spatial(policy, Mirroring(), (9, 10, 8), np.random.default_rng(5))
    arguments = (image, labels, (0, 0, 0), (6, 7, 6), (9, 10, 8), parameters, 4)
    expected = sample_patch(*arguments)
    monkeypatch.setattr(spatial, "SLAB_VOXELS", 1)
    monkeypatch.setattr(
        spatial, "_label_at", lambda labels, _, base, parts, steps: spatial._vote(labels, base, parts, steps)
    )
    got = sample_patch(*arguments)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


def test_vote_by_hand():
    # A point at 0.4, 0.4 of a cell of y and x; its corners weigh 0.36, 0.24, 0.24 and 0.16.
    base = torch.zeros(1, dtype=torch.int32)
    parts = [torch.tensor([0.4]), torch.tensor([0.4])]

    def vote(*corners):
        return int(spatial._vote(torch.tensor(corners, dtype=torch.int8), base, parts, (2, 1))[0])

    assert vote(7, 7, 7, 7) == 7
    assert vote(1, 2, 2, 0) == 2  # 0.48 against 0.36: the nearest corner loses
    assert vote(1, 2, 3, 4) == 1
    assert vote(1, 2, 1, 2) == 1
    parts = [torch.tensor([0.5]), torch.tensor([0.25])]
    assert vote(1, 2, 2, 1) == 1  # 0.5 each and equally near: the lower corner
    assert vote(2, 1, 1, 2) == 2
    parts = [torch.tensor([0.8]), torch.tensor([5 / 9 - 3e-6])]
    assert vote(2, 9, 2, 1) == 1  # 4/9 each up to rounding: the nearest corner, here the last


def test_ignore_label_and_several_maps_travel_alike():
    image, labels = _case(2, (8, 9, 7))
    labels[2:5] = 4
    parameters = draw_spatial(ALWAYS, Mirroring(), (6, 6, 6), np.random.default_rng(1))
    arguments = ((0, 0, 0), (4, 4, 3), (6, 6, 6), parameters, 4)
    _, both = sample_patch(image, torch.stack([labels, 4 - labels]), *arguments)
    assert both.shape == (2, 6, 6, 6)
    for label_map, got in zip((labels, 4 - labels), both, strict=True):
        assert torch.equal(got, sample_patch(image, label_map, *arguments)[1])
    assert (both[0] == 4).any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
@pytest.mark.parametrize("matrix", [IDENTITY, affine_matrix((10, 5, 3), 1.1, False)])
def test_left_and_right_change_places(dtype, matrix):
    image, labels = _case(3, (8, 9, 7), num_classes=5)
    labels = labels.to(dtype)
    plain, swapped = (SpatialParameters(matrix=matrix, flips=(2,), swaps_classes=swaps) for swaps in (False, True))
    arguments = (image, labels, (0, 0, 0), (4, 4, 3), (6, 6, 6))
    before = sample_patch(*arguments, plain, 4, ((1, 3),))[1]
    after = sample_patch(*arguments, swapped, 4, ((1, 3),))[1]
    expected = before.clone()
    expected[before == 1], expected[before == 3] = 3, 1
    assert torch.equal(after, expected)
    assert after.dtype == dtype
    assert torch.equal(swap_classes(after, 4, ((1, 3),)), before)


def test_integer_and_half_images_become_float32():
    image, labels = _case(4, (6, 6, 6))
    for dtype in (torch.float16, torch.int16):
        got, _ = sample_patch(image.to(dtype), labels, (0, 0, 0), (3, 3, 3), (4, 4, 4), SpatialParameters(), 4)
        assert got.dtype == torch.float32


@pytest.mark.parametrize("matrix", [IDENTITY, affine_matrix((17, -8, 25), (0.8, 1.1, 1.3), False)])
@pytest.mark.parametrize("axes", [(0, 2, 1), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("flips", [(), (0, 2)])
def test_other_axes_are_a_permutation_of_the_sampled_patch_and_flips_come_after_it(matrix, axes, flips):
    image, labels = _case(3, (15, 14, 16))
    where = ((0, 0, 0), (7, 7, 8), (6, 6, 6))
    plain = sample_patch(image, labels, *where, SpatialParameters(matrix=matrix), 4)
    turned = sample_patch(image, labels, *where, SpatialParameters(matrix=matrix, axes=axes, flips=flips), 4)
    back = tuple(axis - 3 for axis in flips)
    expected = plain[0].permute(0, *(axis + 1 for axis in axes)).flip(back), plain[1].permute(axes).flip(back)
    np.testing.assert_allclose(turned[0], expected[0], atol=1e-5)
    assert (turned[1] != expected[1]).float().mean() < 0.01  # ties may fall otherwise


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("policy", [ALWAYS, IN_PLANE])
def test_cuda_equals_the_cpu(policy):
    image, labels = _case(5, (20, 24, 22))
    parameters = draw_spatial(policy, Mirroring(), (12, 16, 14), np.random.default_rng(2))
    arguments = ((0, 0, 0), (10, 12, 11), (12, 16, 14), parameters, 4)
    expected = sample_patch(image, labels, *arguments)
    got = sample_patch(image.cuda(), labels.cuda(), *arguments)
    np.testing.assert_allclose(got[0].cpu(), expected[0], atol=1e-4)
    assert (got[1].cpu() != expected[1]).float().mean() < 1e-3


@pytest.mark.parametrize(
    "matrix", [IDENTITY, affine_matrix((10, 5, 3), 1.3, False), affine_matrix((20, 0, 0), 1, True)]
)
@pytest.mark.parametrize("num_classes", [3, 127])
def test_what_lies_beyond_the_volume_has_its_own_label(matrix, num_classes):
    outside = outside_label(num_classes)
    labels = torch.ones((6, 6, 6), dtype=torch.int16)
    drawn = SpatialParameters(matrix=matrix, flips=(2,), swaps_classes=True)
    arguments = (torch.ones((1, 6, 6, 6)), labels, (0, 0, 0), (3, 3, 3), (12, 12, 12), drawn, num_classes, ((1, 2),))
    voted = sample_patch(*arguments, outside)[1]
    assert set(voted.unique().tolist()) == {2, outside}
    assert torch.equal(torch.where(voted == outside, 0, voted), sample_patch(*arguments)[1])
