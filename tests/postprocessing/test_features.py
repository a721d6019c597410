"""Features: computed by hand, the same under turns of the axes and on other grids, and defined or said not to be."""

from itertools import permutations

import numpy as np
import pytest

from autoseg.inference import export
from autoseg.inference.probability_reader import ProbabilityReader
from autoseg.postprocessing.features import (
    FEATURES,
    CaseGrid,
    feature_names,
    feature_of,
    feature_shift,
    measure,
)
from autoseg.postprocessing.find import find_components
from autoseg.postprocessing.group_statistics import quantiles, spread
from autoseg.postprocessing.intensity_features import intensity_scales, thinned
from autoseg.postprocessing.probability_features import probability_features
from autoseg.postprocessing.target_classes import head_of
from autoseg.records.fingerprint import IntensityStatistics
from autoseg.records.labels import LabelScheme
from autoseg.records.postprocessing import ComponentSettings
from tests.inference.whole import in_memory
from tests.postprocessing.test_find import ONE, REGIONS, TWO, two_heads

SETTINGS = ComponentSettings()
ALONG_AXES = ("body_z", "body_y", "body_x")


def measured(
    classes: np.ndarray,
    probabilities: np.ndarray | None = None,
    image: np.ndarray | None = None,
    disagreement: np.ndarray | None = None,
    labels: LabelScheme = ONE,
    spacing_mm=(1.0, 1.0, 1.0),
    planar: bool = False,
    ring_mm: float = SETTINGS.ring_mm,
) -> dict[str, np.ndarray]:
    if probabilities is None:
        probabilities = np.eye(labels.num_classes, dtype=np.float16)[classes].transpose(3, 0, 1, 2).copy()
    if image is None:
        image = classes.astype(np.float32)
    grid = CaseGrid(image[None], ((0.0, 1.0),), spacing_mm, planar)
    found = find_components(classes, in_memory(probabilities), labels, SETTINGS, planar)
    matrix = measure(found, classes, [(in_memory(probabilities), disagreement)], labels, grid, ring_mm)
    return dict(zip(feature_names(1), matrix.T, strict=True))


def box(shape, *where: slice) -> np.ndarray:
    classes = np.zeros(shape, np.int16)
    classes[where] = 1
    return classes


def test_a_box_measured_by_hand() -> None:
    """2 x 3 x 4 voxels of 3 x 2 x 1 mm: 6 x 6 x 4 mm."""
    found = measured(box((10, 10, 10), slice(3, 5), slice(3, 6), slice(3, 7)), spacing_mm=(3.0, 2.0, 1.0))
    assert found["volume_mm3"] == [144]
    assert found["surface_mm2"] == [2 * (6 * 6 + 6 * 4 + 6 * 4)]
    assert [found[f"box_{n}_mm"][0] for n in ("longest", "middle", "shortest")] == [6, 6, 4]
    # 4 sqrt(side^2 / 12): a box of voxels has exactly the moments of a box.
    assert found["axis_longest_mm"][0] == pytest.approx(4 * 6 / np.sqrt(12))
    assert found["axis_shortest_mm"][0] == pytest.approx(4 * 4 / np.sqrt(12))
    assert found["elongation"][0] == pytest.approx(1)
    assert found["flatness"][0] == pytest.approx(4 / 6)
    assert found["sphericity"][0] == pytest.approx(np.pi ** (1 / 3) * (6 * 144) ** (2 / 3) * 1.5 / 168)
    assert (found["volume_rank"][0], found["volume_share"][0], found["num_components"][0]) == (1, 1, 1)


def test_a_ball_is_a_ball_on_any_grid() -> None:
    for spacing in ((1.0, 1.0, 1.0), (2.0, 1.0, 1.5), (0.5, 1.0, 1.0)):
        at = [np.arange(n) * s for n, s in zip((60 / np.array(spacing)).astype(int), spacing, strict=True)]
        z, y, x = np.meshgrid(*at, indexing="ij")
        classes = (((z - 30) ** 2 + (y - 30) ** 2 + (x - 30) ** 2) <= 12**2).astype(np.int16)
        found = measured(classes, spacing_mm=spacing)
        assert found["volume_mm3"][0] == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.03)
        assert found["sphericity"][0] == pytest.approx(1, abs=0.03)
        # The ball with these moments: 4 sqrt(r^2 / 5).
        assert found["axis_longest_mm"][0] == pytest.approx(4 * 12 / np.sqrt(5), rel=0.02)
        assert found["elongation"][0] == pytest.approx(1, abs=0.02)


def test_one_voxel_has_a_size() -> None:
    found = measured(box((5, 5, 5), slice(2, 3), slice(2, 3), slice(2, 3)), spacing_mm=(2.0, 2.0, 2.0))
    assert found["axis_longest_mm"][0] == pytest.approx(4 * 2 / np.sqrt(12))
    assert found["elongation"][0] == found["flatness"][0] == pytest.approx(1)


def test_a_plane_measured_by_hand() -> None:
    """2-D: areas and perimeters, no third axis; the spacing across the plane does not count."""
    found = measured(box((1, 9, 9), slice(0, 1), slice(2, 4), slice(2, 6)), spacing_mm=(999.0, 1.0, 0.5), planar=True)
    assert found["volume_mm3"] == [4]
    assert found["surface_mm2"] == [8]
    assert [found["box_longest_mm"][0], found["box_middle_mm"][0]] == [2, 2]
    assert np.isnan([found["box_shortest_mm"][0], found["axis_shortest_mm"][0], found["flatness"][0]]).all()
    assert found["sphericity"][0] == pytest.approx(2 * np.sqrt(np.pi * 4) * 4 / np.pi / 8)
    assert np.isnan(found["body_z"][0])
    assert found["body_depth_mm"][0] == pytest.approx(1)  # the body is the square itself


def test_rank_and_share_among_components() -> None:
    classes = np.zeros((1, 1, 20), np.int16)
    classes[..., 0:4], classes[..., 6:7], classes[..., 9:13] = 1, 1, 1
    own = np.where(classes > 0, 0.9, 0.0)
    own[..., 16:19] = 0.4
    found = measured(classes, two_heads(own[0, 0].reshape(1, 1, -1)))
    assert found["is_decided"].tolist() == [1, 1, 1, 0]
    assert found["volume_rank"].tolist() == [1, 3, 1, 3]  # equals share a rank; a candidate comes after larger ones
    assert found["num_components"].tolist() == [3, 3, 3, 3]
    np.testing.assert_allclose(found["volume_share"], [4 / 9, 1 / 9, 4 / 9, 3 / 12])


def test_confidence_by_hand() -> None:
    own = np.zeros((1, 1, 7))
    own[0, 0, 1:4] = 0.6, 0.8, 1.0
    disagreement = np.zeros((1, 1, 7), np.uint8)
    disagreement[0, 0, 1:4] = 51, 102, 0
    found = measured((own > 0.5).astype(np.int16), two_heads(own), disagreement=disagreement)
    p = np.array([0.6, 0.8, 1.0]).astype(np.float16).astype(float)
    q = np.array([0.4, 0.2, 0.0]).astype(np.float16).astype(float)
    assert found["probability_mean"][0] == pytest.approx(p.mean())
    assert found["probability_max"][0] == 1
    assert found["probability_p50"][0] == p[1]
    assert found["probability_p10"][0] == pytest.approx(np.quantile(p, 0.1))
    assert found["probability_std"][0] == pytest.approx(p.std())
    assert found["margin_mean"][0] == pytest.approx((p - q).mean())
    bits = [-(a * np.log2(a) + (b * np.log2(b) if b else 0)) for a, b in zip(p, q, strict=True)]
    assert found["entropy_mean"][0] == pytest.approx(np.mean(bits), abs=1e-6)
    assert found["border_probability"][0] == pytest.approx(p.mean())  # a line is all border
    assert found["mirror_mean"][0] == pytest.approx(0.2)
    assert found["mirror_max"][0] == pytest.approx(0.4)
    assert np.isnan(measured((own > 0.5).astype(np.int16), two_heads(own))["mirror_mean"]).all()


def test_border_and_inside_are_told_apart() -> None:
    classes = box((5, 5, 5), slice(1, 4), slice(1, 4), slice(1, 4))
    own = np.where(classes > 0, 0.6, 0.0)
    own[2, 2, 2] = 1.0
    found = measured(classes, two_heads(own))
    assert found["border_probability"][0] == pytest.approx(0.6, abs=1e-3)
    assert found["probability_mean"][0] == pytest.approx((26 * 0.6 + 1) / 27, abs=1e-3)


def test_regions_have_binary_confidence() -> None:
    classes = np.array([1, 2, 0, 0], np.int16).reshape(1, 1, 4)
    probabilities = np.zeros((3, 1, 1, 4), np.float16)
    probabilities[0, 0, 0, :2], probabilities[1, 0, 0, 1] = (1.0, 0.75), 0.75
    found = measured(classes, probabilities, labels=REGIONS)
    assert found["probability_mean"].tolist() == [0.875, 0.75]
    np.testing.assert_allclose(found["margin_mean"], [0.75, 0.5])
    np.testing.assert_allclose(found["entropy_mean"], [0.8112781 / 2, 0.8112781], atol=1e-6)


def test_ring_and_edge_by_hand() -> None:
    """A bright cube in a background that falls along x: the ring 2 mm outside, the neighbour 1 mm outside."""
    classes = box((11, 11, 11), slice(4, 7), slice(4, 7), slice(4, 7))
    image = np.where(classes > 0, 100.0, 10.0).astype(np.float32)
    found = measured(classes, image=image, ring_mm=2.0)
    assert found["intensity0_mean"] == [100]
    assert found["intensity0_std"] == [0]
    assert found["intensity0_contrast"] == [90]
    assert found["intensity0_edge_per_mm"] == [90]
    thick = measured(classes, image=image, ring_mm=2.0, spacing_mm=(1.0, 1.0, 2.0))
    # Faces across x have 1 mm2, the others 2 mm2; along x the fall is spread over 2 mm.
    assert thick["intensity0_edge_per_mm"][0] == pytest.approx((18 * 45 + 2 * 36 * 90) / (18 + 72))
    halo = image.copy()
    halo[:, :, 7] = 50  # one voxel wide on one side: 2 mm outside lies between the 2nd and 3rd voxel and misses it
    beside = measured(classes, image=halo, ring_mm=2.0)
    assert beside["intensity0_contrast"] == [90]
    assert beside["intensity0_edge_per_mm"][0] == pytest.approx((45 * 90 + 9 * 50) / 54)


def test_surrounding_is_not_defined_where_there_is_none() -> None:
    found = measured(np.ones((2, 2, 2), np.int16))
    assert np.isnan(found["intensity0_contrast"]).all()
    assert np.isnan(found["intensity0_edge_per_mm"]).all()


def test_distances_by_hand() -> None:
    classes = np.zeros((3, 3, 40), np.int16)
    classes[1, 1, 2:8], classes[1, 1, 10:12], classes[1, 1, 20:30] = 1, 1, 2
    found = measured(classes, labels=TWO, spacing_mm=(1.0, 1.0, 2.0))
    assert found["largest_distance_mm"].tolist() == [0, 6, 0]  # voxel 7 to voxel 10
    assert found["largest_centre_mm"].tolist() == [0, 12, 0]
    assert found["other_distance_mm"].tolist() == [26, 18, 26]
    assert found["touches_others"].tolist() == [0, 0, 0]
    alone = measured((classes == 1).astype(np.int16))
    assert np.isnan(alone["other_distance_mm"]).all()


def test_touching_another_class() -> None:
    classes = np.array([0, 1, 2, 0], np.int16).reshape(1, 1, 4)
    assert measured(classes, labels=TWO)["touches_others"].tolist() == [1 / 6, 1 / 6]


def test_place_in_the_body() -> None:
    image = np.zeros((10, 20, 30), np.float32)
    image[2:8, 4:16, 5:25] = 100
    image[0, 0, 0] = 1000  # noise does not widen the body
    classes = box(image.shape, slice(2, 4), slice(9, 11), slice(20, 22))
    found = measured(classes, image=image, spacing_mm=(2.0, 1.0, 1.0))
    assert found["body_z"][0] == pytest.approx(1 / 6)
    assert found["body_y"][0] == pytest.approx(0.5)
    assert found["body_x"][0] == pytest.approx(16 / 20)
    assert found["body_depth_mm"][0] == pytest.approx(2)


def random_case(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    own = np.zeros((14, 18, 16))
    for _ in range(9):
        z, y, x = (rng.integers(1, n - 6) for n in own.shape)
        d, h, w = rng.integers(2, 6, 3)
        own[z : z + d, y : y + h, x : x + w] = rng.uniform(0.15, 1)
    own = np.clip(own + rng.uniform(-0.02, 0.02, own.shape) * (own > 0), 0, 1)
    return (own > 0.5).astype(np.int16), two_heads(own), rng.standard_normal(own.shape).astype(np.float32) + own * 3


def by_volume(found: dict[str, np.ndarray]) -> np.ndarray:
    """Rows in an order that does not depend on the axes; places along axes are left out."""
    names = [name for name in found if name not in ALONG_AXES]
    matrix = np.stack([found[name] for name in names], axis=1)
    return matrix[np.lexsort((matrix[:, names.index("probability_mean")], matrix[:, names.index("volume_mm3")]))]


def test_turning_the_axes_changes_nothing() -> None:
    classes, probabilities, image = random_case()
    spacing = np.array([3.0, 1.0, 1.5])
    expected = by_volume(measured(classes, probabilities, image, spacing_mm=tuple(spacing)))
    assert len(expected) > 4
    for axes in permutations(range(3)):
        turned = [np.ascontiguousarray(np.flip(a.transpose(axes), axis=1)) for a in (classes, image)]
        heads = np.ascontiguousarray(np.flip(probabilities.transpose(0, *(a + 1 for a in axes)), axis=2))
        found = measured(turned[0], heads, turned[1], spacing_mm=tuple(spacing[list(axes)]))
        np.testing.assert_allclose(by_volume(found), expected, rtol=1e-9, atol=1e-9)


def test_a_finer_grid_changes_nothing_that_is_meant_in_mm() -> None:
    """Each voxel cut into eight: sizes, shape, confidence and distances stay, up to the voxels' own size."""
    classes, probabilities, image = random_case(1)
    fine = [np.kron(a, np.ones((2, 2, 2), a.dtype)) for a in (classes, image)]
    heads = np.stack([np.kron(p, np.ones((2, 2, 2), p.dtype)) for p in probabilities])
    coarse = measured(classes, probabilities, image, spacing_mm=(2.0, 2.0, 2.0))
    refined = measured(fine[0], heads, fine[1], spacing_mm=(1.0, 1.0, 1.0))
    exact = ("volume_mm3", "volume_rank", "volume_share", "surface_mm2", "sphericity", "box_longest_mm", "elongation",
             "axis_longest_mm", "probability_mean", "probability_p50", "entropy_mean", "intensity0_mean",
             "largest_centre_mm", "body_z", "body_depth_mm")  # fmt: skip
    for name in exact:
        np.testing.assert_allclose(np.sort(refined[name]), np.sort(coarse[name]), rtol=1e-6, err_msg=name)
    assert np.abs(np.sort(refined["largest_distance_mm"]) - np.sort(coarse["largest_distance_mm"])).max() <= 1.8


def test_fold_models_are_averaged() -> None:
    """The components are the ensemble's, the confidence that of each model: the largest of a mean is not its part."""
    classes = np.array([0, 1, 1, 0], np.int16).reshape(1, 1, 4)
    first, second = (in_memory(two_heads(np.array(p).reshape(1, 1, 4))) for p in ([0, 1.0, 0.5, 0], [0, 0.25, 0.75, 0]))
    grid = CaseGrid(np.zeros((1, 1, 1, 4), np.float32), ((0.0, 1.0),), (1.0, 1.0, 1.0), False)
    found = find_components(classes, None, ONE, SETTINGS)
    names = feature_names(1)
    together = measure(found, classes, [(first, None), (second, None)], ONE, grid, 2.5)[0]
    alone = [measure(found, classes, [(p, None)], ONE, grid, 2.5)[0] for p in (first, second)]
    np.testing.assert_allclose(together, np.mean(alone, axis=0))
    assert together[names.index("probability_max")] == (1.0 + 0.75) / 2
    shift = feature_shift([np.array([[0.0], [2.0]])], np.array([[3.0], [3.0]]), ["probability_max"])
    assert shift == ({"probability_max": 2.0}, {"probability_max": 0.0})
    constant = feature_shift([np.array([[1.0], [1.0]])], np.array([[3.0]]), ["volume_mm3"])
    assert constant == ({"volume_mm3": None}, {"volume_mm3": None})


def test_every_column_is_explained() -> None:
    names = feature_names(2)
    assert len(set(names)) == len(names) == len(FEATURES) + 6
    assert all(feature_of(name).meaning for name in names)
    with pytest.raises(KeyError):
        feature_of("nonsense")


def test_no_components_no_rows() -> None:
    assert measured(np.zeros((3, 3, 3), np.int16))["volume_mm3"].shape == (0,)


def test_intensity_scales_are_the_plans() -> None:
    image = np.arange(1, 9, dtype=np.float32).reshape(1, 2, 2, 2)
    known = IntensityStatistics(mean=40.0, std=20.0, median=0, min=0, max=0, percentile_00_5=0, percentile_99_5=0)
    assert intensity_scales(image, ["ct"], [known]) == ((40.0, 20.0),)
    ((mean, deviation),) = intensity_scales(image, ["zscore"], [None])
    assert (mean, deviation) == pytest.approx((4.5, image.std()))


def test_samples_are_even() -> None:
    offsets = np.array([0, 3, 13])
    positions, new = spread(offsets, 4)
    assert new.tolist() == [0, 3, 7]
    assert positions[:3].tolist() == [0, 1, 2]  # all of a small group
    assert (np.diff(positions[3:]) > 0).all()
    assert [int((p - 3) // 2.5) for p in positions[3:]] == [0, 1, 2, 3]  # one of each quarter
    assert thinned(np.zeros((8, 100, 100)), 10_000).size <= 10_000
    values = np.array([5.0, 1, 3, *range(10)])
    np.testing.assert_allclose(quantiles(values, offsets, (0.5, 0.25)), [[3, 2], [4.5, 2.25]])


@pytest.mark.parametrize("labels", [TWO, REGIONS])
def test_confidence_read_in_slabs_is_that_of_the_whole_volume(labels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written plainly, from all heads of all voxels of each component; and only slabs with components are read."""
    rng = np.random.default_rng(8)
    values = rng.exponential(size=(3, 8, 6, 7)) ** 3
    values = (values / values.sum(0)).astype(np.float16)
    classes = np.zeros(values.shape[1:], np.int16)
    classes[0:3, 1:4, 1:5], classes[6:8, 2:5, 2:6], classes[2, 4, 6] = 1, 2, 2
    found = find_components(classes, None, labels, SETTINGS)
    monkeypatch.setattr(export, "_VALUES_PER_SLAB", 1)
    read: list[int] = []

    def reader(rows: slice) -> np.ndarray:
        read.append(rows.start)
        return values[:, rows]

    columns = probability_features(found, ProbabilityReader(values.shape, reader), None, labels)
    assert read == [0, 1, 2, 6, 7]
    p = values.reshape(3, -1).astype(np.float64)
    for row, target in enumerate(found.targets):
        inside = p[:, found.voxels_of(row)]
        own, others = inside[head_of(labels, target)], np.delete(inside, head_of(labels, target), axis=0)
        if labels.has_regions:
            entropy = np.array([binary_entropy(one) for one in own])
            margin = own - (1 - own)
        else:
            entropy = -(inside * np.log2(np.maximum(inside, 1e-7))).sum(0) / np.log2(3)
            margin = own - others.max(0)
        assert columns["probability_mean"][row] == pytest.approx(own.mean())
        assert columns["probability_max"][row] == own.max()
        assert columns["entropy_mean"][row] == pytest.approx(entropy.mean())
        assert columns["margin_mean"][row] == pytest.approx(margin.mean())


def binary_entropy(p: float) -> float:
    return float(sum(-q * np.log2(max(q, 1e-7)) for q in (p, 1 - p)))
