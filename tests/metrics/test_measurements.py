"""Measurements of a case: two components of one class and a region, every number worked out by hand."""

import numpy as np
import pytest

from autoseg.metrics.measurements import measure_case
from autoseg.records.geometry import Geometry, affine_rows
from autoseg.records.labels import LabelScheme, Target

LABELS = LabelScheme(class_names=("background", "a", "b", "c"), class_values=(0, 1, 2, 3), num_entries=4)
GRID = Geometry(
    shape=(4, 6, 8),
    spacing_mm=(3, 2, 1),
    affine=affine_rows(np.array([[0, 0, -1, 10], [0, -2, 0, 20], [3, 0, 0, 30.0]])),
)


def test_by_hand() -> None:
    classes = np.zeros(GRID.shape, np.int16)
    classes[0, 0, 0] = 1  # touches nothing
    classes[2, 2:4, 4:7] = 1
    classes[3, 4, 7] = 2  # touches the block's corner, another class
    image = np.arange(2 * classes.size, dtype=np.float32).reshape(2, *GRID.shape)
    rows = measure_case(classes, image, LABELS, GRID)
    assert [(row.target, row.component, row.num_components) for row in rows] == [
        ("a", None, 2), ("a", 1, 2), ("a", 2, 2), ("b", None, 1), ("b", 1, 1), ("c", None, 0)
    ]  # fmt: skip
    whole, block, single, _, b, c = rows
    assert (whole.num_voxels, whole.volume_mm3, whole.diameters) == (7, 42.0, None)
    assert (block.num_voxels, block.volume_mm3) == (6, 36.0)
    # The block's centre has indices z 2, y 2.5, x 5: world x = 10 - 5, y = 20 - 5, z = 30 + 6.
    assert block.centroid_mm == pytest.approx((5, 15, 36))
    assert single.centroid_mm == pytest.approx((10, 20, 30))
    # 1 x 2 x 3 voxels are 3 x 4 x 3 mm.
    assert block.diameters.longest_mm == pytest.approx(np.sqrt(9 + 16 + 9))
    assert block.diameters.longest_axial_mm == pytest.approx(5)
    assert block.diameters.perpendicular_mm == pytest.approx(24 / 5)
    assert block.diameters.axial_slice == 2
    # Values at z 2: 96 + 8 y + x, so 116 117 118 124 125 126; the second channel 192 more.
    first, second = block.intensities
    assert (first.mean, first.minimum, first.median, first.maximum) == (121, 116, 121, 126)
    assert first.std == pytest.approx(np.sqrt((25 + 16 + 9) * 2 / 6))
    assert (second.mean, second.std) == (313, pytest.approx(first.std))
    assert whole.intensities[0].mean == pytest.approx(6 * 121 / 7)
    assert (b.num_voxels, b.intensities[0].median) == (1, 3 * 48 + 4 * 8 + 7)
    assert (c.num_voxels, c.volume_mm3, c.centroid_mm, c.diameters) == (0, 0.0, None, None)
    assert c.intensities[0].mean is None


def test_regions_are_measured_as_unions_and_bad_values_are_not_hidden() -> None:
    regions = (Target(name="both", members=(1, 2)), Target(name="b", members=(2,)))
    labels = LABELS.model_copy(update={"regions": regions, "region_order": (1, 2)})
    classes = np.zeros(GRID.shape, np.int16)
    classes[1, 1, 1:3] = 1, 2
    image = np.ones((1, *GRID.shape), np.float32)
    image[0, 1, 1, 1] = np.inf
    both, _, b, _ = measure_case(classes, image, labels, GRID)
    assert (both.num_voxels, both.num_components, b.num_voxels) == (2, 1, 1)
    assert both.intensities[0].mean is None
    assert b.intensities[0].mean == 1


def test_many_components_are_those_of_the_plain_way() -> None:
    rng = np.random.default_rng(0)
    classes = (rng.random(GRID.shape) < 0.12).astype(np.int16)
    image = rng.normal(size=(1, *GRID.shape))
    rows = measure_case(classes, image, LABELS, GRID)
    own = [row for row in rows if row.target == "a" and row.component is not None]
    assert len(own) > 3
    assert [row.component for row in own] == list(range(1, len(own) + 1))
    sizes = [row.num_voxels for row in own]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == classes.sum()
    means = sum(row.num_voxels * row.intensities[0].mean for row in own)
    assert means == pytest.approx(image[0][classes == 1].sum())
