import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.interpolate import BSpline

from autoseg.augmentation.draw import IDENTITY, SpatialParameters, affine_matrix, draw_spatial, source_box
from autoseg.augmentation.elastic import Elastic, displacements
from autoseg.augmentation.spatial import sample_patch
from autoseg.records.recipe import Augmentation, Mirroring, SpatialAugmentation

CPU = torch.device("cpu")
TURNED = affine_matrix((20, -10, 15), 1.2, False)
TURNED_IN_PLANE = affine_matrix((70, 0, 0), 0.8, True)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 999),
    patch=st.tuples(*[st.integers(1, 20)] * 3),
    spacing=st.floats(2, 30),
    share=st.floats(0, 0.4),
    in_plane=st.booleans(),
)
def test_displacements_are_bounded_and_never_fold(seed, patch, spacing, share, in_plane):
    elastic = Elastic(seed=seed, spacing=spacing, largest=share * spacing, in_plane=in_plane)
    field = displacements(elastic, patch, CPU)
    assert field.shape == (3, 1 if in_plane else patch[0], *patch[1:])
    assert field.abs().max() <= share * spacing + 1e-4
    if in_plane:
        assert (field[0] == 0).all()
    for axis in range(3):  # neighbours stay in their order along each axis
        if field.shape[axis + 1] > 1:
            assert (1 + field[axis].diff(dim=axis)).min() > 0


def test_displacements_equal_scipys_splines():
    elastic = Elastic(seed=4, spacing=3.7, largest=1.1)
    patch = (9, 12, 7)
    field = displacements(elastic, patch, CPU)
    counts = [int((size - 1) / 3.7) + 4 for size in patch]
    points = np.random.default_rng(4).uniform(-1.1, 1.1, size=(3, *counts))
    for axis, size in enumerate(patch):
        knots = np.arange(-3.0, counts[axis] + 1)
        points = BSpline(knots, np.moveaxis(points, axis + 1, 0), 3)(np.arange(size) / 3.7)
        points = np.moveaxis(points, 0, axis + 1)
    np.testing.assert_allclose(field, points, atol=1e-6)


@pytest.mark.parametrize(
    ("matrix", "in_plane"), [(IDENTITY, False), (IDENTITY, True), (TURNED, False), (TURNED_IN_PLANE, True)]
)
def test_a_deformed_patch_equals_scipys_and_needs_its_source_box_only(matrix, in_plane):
    rng = np.random.default_rng(0)
    shape, patch, centre = (40, 44, 42), (11, 12, 10), (20, 22, 21)
    image = rng.normal(size=shape).astype(np.float32)
    labels = np.argmax([ndimage.gaussian_filter(rng.normal(size=shape), 2) for _ in range(3)], 0).astype(np.int16)
    elastic = Elastic(seed=3, spacing=6.0, largest=2.2, in_plane=in_plane)
    parameters = SpatialParameters(matrix=matrix, elastic=elastic, flips=(2,))
    assert not parameters.is_crop
    assert parameters.is_in_plane is in_plane
    grid = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in patch], indexing="ij"))
    turned = np.tensordot(np.array(matrix) * [1, 1, -1], grid, axes=1)
    middle = np.array([c - n // 2 + (n - 1) / 2 for c, n in zip(centre, patch, strict=True)])
    where = turned + middle[:, None, None, None] + displacements(elastic, patch, CPU).numpy()
    low, high = source_box(parameters, patch, centre)
    assert (where.min((1, 2, 3)) >= low).all()
    assert (where.max((1, 2, 3)) <= np.array(high) - 1).all()
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    got, voted = sample_patch(
        torch.from_numpy(image[box])[None], torch.from_numpy(labels[box]), low, centre, patch, parameters, 3
    )
    np.testing.assert_allclose(got[0], ndimage.map_coordinates(image, where, order=1), atol=1e-4)
    scores = [ndimage.map_coordinates((labels == k).astype(float), where, order=1) for k in range(3)]
    assert (voted.numpy() != np.argmax(scores, axis=0)).mean() < 0.01  # ties


def test_odds_and_magnitudes_are_the_policys():
    spatial = SpatialAugmentation(
        rotation_probability=0,
        scaling_probability=0,
        elastic_probability=0.3,
        elastic_spacing=20,
        elastic_magnitude=(0.1, 0.2),
    )
    rng = np.random.default_rng(0)
    drawn = [draw_spatial(Augmentation(spatial=spatial), Mirroring(), (8, 8, 8), rng) for _ in range(1000)]
    largest = [one.elastic.largest for one in drawn if one.elastic is not None]
    assert len(largest) / 1000 == pytest.approx(0.3, abs=0.05)
    assert 2 <= min(largest) < max(largest) <= 4
    flat = draw_spatial(
        Augmentation(spatial=spatial.model_copy(update={"elastic_probability": 1.0})), Mirroring(), (1, 8, 8), rng
    )
    assert flat.elastic is not None
    assert flat.elastic.in_plane
    with pytest.raises(ValueError, match="elastic_magnitude"):
        SpatialAugmentation(elastic_magnitude=(0.1, 0.5))
