"""Surface scores: hand-computed cases, plain definitions from distance maps, scipy, SimpleITK, and properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import directed_hausdorff

from autoseg.metrics.build import score_case
from autoseg.metrics.detection import lesion_counts, lesion_matches
from autoseg.metrics.surface import assd, boundary_dice, hausdorff, hd95, surface_distances
from autoseg.metrics.surface import nsd as nsd_of
from autoseg.records.geometry import Geometry
from autoseg.records.labels import LabelScheme, Target
from autoseg.records.scoring import Scoring


def box(shape, *spans) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*span) for span in spans)] = True
    return mask


def nsd(prediction, reference, spacing, tolerance) -> float | None:
    return nsd_of(surface_distances(prediction, reference, spacing), tolerance)


def by_distance_maps(prediction, reference, spacing, tolerance) -> float:
    """The definition, written down plainly: outlines, distance maps, shares."""
    padded = [np.pad(m, 1) for m in (prediction, reference)]
    outlines = [m & ~ndimage.binary_erosion(m) for m in padded]
    distances = [ndimage.distance_transform_edt(~o, sampling=spacing) for o in outlines]
    near = (distances[1][outlines[0]] <= tolerance + 1e-6).sum() + (distances[0][outlines[1]] <= tolerance + 1e-6).sum()
    return near / (outlines[0].sum() + outlines[1].sum())


def test_empty_masks() -> None:
    empty, some = np.zeros((3, 3, 3), bool), box((3, 3, 3), (1, 2), (1, 2), (1, 2))
    assert nsd(empty, empty, (1, 1, 1), 1) is None
    assert nsd(empty, some, (1, 1, 1), 1) == 0
    assert nsd(some, empty, (1, 1, 1), 1) == 0


def test_one_voxel_and_anisotropic_spacing() -> None:
    first, second = box((5, 5, 5), (1, 2), (1, 2), (1, 2)), box((5, 5, 5), (2, 3), (1, 2), (1, 2))
    assert nsd(first, second, (3.0, 1.0, 1.0), 2.9) == 0
    assert nsd(first, second, (3.0, 1.0, 1.0), 3.0) == 1
    assert nsd(first, first, (3.0, 1.0, 1.0), 0.0) == 1


def test_exact_distance_counts_in_spite_of_rounding() -> None:
    first, second = box((1, 1, 9), (0, 1), (0, 1), (1, 2)), box((1, 1, 9), (0, 1), (0, 1), (3, 4))
    assert nsd(first, second, (1.0, 1.0, 0.7), 1.4) == 1


def test_a_slice_has_an_outline() -> None:
    """In a 2-D image the inside of a square is no surface: 8 of 9 voxels of each 3 x 3 square are."""
    first, second = box((1, 9, 9), (0, 1), (1, 4), (1, 4)), box((1, 9, 9), (0, 1), (1, 4), (2, 5))
    assert nsd(first, second, (999.0, 1.0, 1.0), 0.0) == pytest.approx(2 * 4 / 16)


def test_touching_the_border_is_surface() -> None:
    full = np.ones((3, 3, 3), bool)
    assert nsd(full, box((3, 3, 3), (1, 2), (1, 2), (1, 2)), (1, 1, 1), 0.0) == 0


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="one shape"):
        nsd(np.ones((1, 1, 1), bool), np.ones((1, 1, 2), bool), (1, 1, 1), 1)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.9, 1.5, 3.0]))
def test_agrees_with_distance_maps(seed: int, tolerance: float) -> None:
    rng = np.random.default_rng(seed)
    smooth = [ndimage.gaussian_filter(rng.standard_normal((7, 8, 9)), 1.0) for _ in range(2)]
    prediction, reference = (s > np.quantile(s, 0.6) for s in smooth)
    spacing = (2.5, 0.8, 1.1)
    assert nsd(prediction, reference, spacing, tolerance) == pytest.approx(
        by_distance_maps(prediction, reference, spacing, tolerance)
    )


def test_score_case_leaves_out_ignored_voxels() -> None:
    labels = LabelScheme(class_names=("background", "a"), class_values=(0, 1), ignore_value=7, num_entries=3)
    grid = Geometry(shape=(1, 1, 6), spacing_mm=(1, 1, 1), affine=((0, 0, 1, 0), (0, 1, 0, 0), (1, 0, 0, 0)))
    prediction, reference = np.array([[[1, 1, 0, 0, 1, 1]]]), np.array([[[1, 1, 0, 0, 2, 2]]])
    assert (
        score_case(prediction, reference, labels, grid, Scoring(groups=("surface",), default_tolerance_mm=0))["a"].nsd
        == 1
    )


def blobs(seed: int, shape=(14, 16, 18), share: float = 0.7) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    smooth = [ndimage.gaussian_filter(rng.standard_normal(shape), [min(1.5, n / 8) for n in shape]) for _ in range(2)]
    return [s > np.quantile(s, share) for s in smooth]


def outline(mask: np.ndarray) -> np.ndarray:
    """Surface by its definition; an axis of one voxel has no neighbours."""
    flat = mask.squeeze()
    padded = np.pad(flat, 1)
    return (padded & ~ndimage.binary_erosion(padded))[(slice(1, -1),) * flat.ndim].reshape(mask.shape)


def expected_distances(prediction, reference, spacing) -> list[np.ndarray]:
    """Both directed sets from distance maps over the whole image."""
    outlines = [outline(m) for m in (prediction, reference)]
    maps = [ndimage.distance_transform_edt(~o, sampling=spacing) for o in outlines]
    return [maps[1][outlines[0]], maps[0][outlines[1]]]


def test_hand_computed_distances() -> None:
    """A square of 3 x 3 against the same moved by one column: columns 1 to 3 and 2 to 4, spacing 2 along x."""
    first, second = box((1, 5, 6), (0, 1), (1, 4), (1, 4)), box((1, 5, 6), (0, 1), (1, 4), (2, 5))
    found = surface_distances(first, second, (999.0, 1.0, 2.0))
    # Of 8 voxels of the first outline, 3 (column 1) stand 2 mm off; (2, 2)... columns 2 and 3 of rows 1 and 3 are
    # shared, and the middle of column 3 lies 1 mm from rows 1 and 3.
    assert sorted(found.from_prediction) == [0, 0, 0, 0, 1, 2, 2, 2]
    assert sorted(found.from_reference) == [0, 0, 0, 0, 1, 2, 2, 2]
    assert hausdorff(found) == 2
    assert hd95(found) == 2
    assert assd(found) == pytest.approx(7 / 8)
    assert nsd_of(found, 1.0) == pytest.approx(5 / 8)


def test_percentiles_are_taken_a_direction_then_the_larger() -> None:
    """A row of 100 voxels against itself with 10 far ones more: 9 % of one direction, but under 5 % of both pooled."""
    line = box((1, 1, 300), (0, 1), (0, 1), (0, 100))
    far = line | box((1, 1, 300), (0, 1), (0, 1), (290, 300))
    outward = surface_distances(far, line, (1.0, 1.0, 1.0), axes=(0, 1, 2))
    expected = np.percentile([*[0.0] * 100, *range(191, 201)], 95)
    assert hd95(outward) == pytest.approx(expected)
    assert np.percentile(np.concatenate([outward.from_prediction, outward.from_reference]), 95) < expected


def test_distances_to_an_empty_mask() -> None:
    empty, some = np.zeros((3, 3, 3), bool), box((3, 3, 3), (1, 2), (1, 2), (1, 2))
    for pair in ((empty, some), (some, empty)):
        found = surface_distances(*pair, (1, 1, 1))
        assert (hausdorff(found), hd95(found), assd(found), nsd_of(found, 9.0)) == (None, None, None, 0)
        assert boundary_dice(*pair, (1, 1, 1), 1.0) == 0
    nothing = surface_distances(empty, empty, (1, 1, 1))
    assert (hausdorff(nothing), hd95(nothing), assd(nothing), nsd_of(nothing, 1.0)) == (None,) * 4
    assert boundary_dice(empty, empty, (1, 1, 1), 1.0) is None


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 3), (1, 3, 1), (3, 1, 1)])
def test_images_of_one_voxel_and_one_row(shape: tuple[int, int, int]) -> None:
    full = np.ones(shape, bool)
    found = surface_distances(full, full, (1, 1, 1))
    assert (hausdorff(found), nsd_of(found, 0.0)) == (0, 1)
    alone = surface_distances(full, np.zeros(shape, bool), (1, 1, 1))
    assert nsd_of(alone, 5.0) == 0


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from([(9, 10, 11), (1, 14, 12), (2, 9, 9)]), st.floats(0.4, 0.95))
def test_distances_agree_with_distance_maps(seed: int, shape: tuple[int, int, int], share: float) -> None:
    prediction, reference = blobs(seed, shape, share)
    spacing = (2.5, 0.8, 1.1)
    found = surface_distances(prediction, reference, spacing)
    for mine, theirs in zip(
        (found.from_prediction, found.from_reference), expected_distances(prediction, reference, spacing), strict=True
    ):
        np.testing.assert_allclose(np.sort(mine), np.sort(theirs), atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.1, 7.0))
def test_properties(seed: int, factor: float) -> None:
    prediction, reference = blobs(seed, (8, 9, 10))
    spacing = np.array([2.0, 0.7, 1.0])
    found, swapped = (
        surface_distances(*pair, tuple(spacing)) for pair in ((prediction, reference), (reference, prediction))
    )
    scaled = surface_distances(prediction, reference, tuple(spacing * factor))
    turned = surface_distances(prediction.transpose(2, 0, 1), reference.transpose(2, 0, 1), tuple(spacing[[2, 0, 1]]))
    moved = surface_distances(*(np.pad(m, ((1, 3), (0, 2), (5, 0))) for m in (prediction, reference)), tuple(spacing))
    for score in (hausdorff, hd95, assd):
        value = score(found)
        assert value is not None
        assert score(swapped) == pytest.approx(value)
        assert score(turned) == pytest.approx(value)
        assert score(moved) == pytest.approx(value)
        assert score(scaled) == pytest.approx(factor * value)
    assert nsd_of(scaled, factor) == nsd_of(found, 1.0)
    assert assd(found) <= hausdorff(found)
    assert hd95(found) <= hausdorff(found)
    identity = surface_distances(reference, reference, tuple(spacing))
    assert (hausdorff(identity), assd(identity), nsd_of(identity, 0.0)) == (0, 0, 1)
    assert boundary_dice(reference, reference, tuple(spacing), 1.0) == 1
    assert boundary_dice(prediction, reference, tuple(spacing), 1.0) == boundary_dice(
        reference, prediction, tuple(spacing), 1.0
    )


def test_rims_by_hand() -> None:
    """5 x 5 squares one column apart: rims of one voxel are outlines; rims of 1 mm leave only the middle voxel out."""
    first, second = box((1, 9, 9), (0, 1), (2, 7), (1, 6)), box((1, 9, 9), (0, 1), (2, 7), (2, 7))
    shared_outline = 2 * 4  # rows 2 and 6, columns 2 to 5; the upright sides stand in different columns
    assert boundary_dice(first, second, (999.0, 1.0, 1.0), 0.0) == pytest.approx(2 * shared_outline / (16 + 16))
    shared_rim = 5 * 4 - 2  # the common 5 x 4 without the two middle voxels
    assert boundary_dice(first, second, (999.0, 1.0, 1.0), 1.0) == pytest.approx(2 * shared_rim / (24 + 24))
    everything = 2 * 20 / 50
    assert boundary_dice(first, second, (999.0, 1.0, 1.0), 9.0) == pytest.approx(everything)


def test_a_crop_may_shorten_an_axis() -> None:
    """A structure of one slice in a volume: every voxel of it is surface, as its neighbours above and below are not."""
    volume = box((5, 7, 7), (2, 3), (1, 6), (1, 6))
    whole = surface_distances(volume, volume, (1, 1, 1))
    cropped = surface_distances(volume[2:3], volume[2:3], (1, 1, 1), axes=(0, 1, 2))
    assert len(whole.from_prediction) == len(cropped.from_prediction) == 25
    assert len(surface_distances(volume[2:3], volume[2:3], (1, 1, 1)).from_prediction) == 16


@pytest.mark.parametrize("shape", [(12, 14, 15), (1, 20, 22)])
def test_agrees_with_simple_itk(shape: tuple[int, int, int]) -> None:
    """Contours and distance maps of SimpleITK, and its Hausdorff filter on those contours."""
    sitk = pytest.importorskip("SimpleITK")
    spacing = (3.0, 0.8, 1.3)
    prediction, reference = blobs(5, shape)
    prediction[:, 0, :4] = True  # touching the border
    flat = [m.squeeze() for m in (prediction, reference)]
    images = []
    for mask in flat:
        # ITK takes what lies outside the image for more of the same: a margin makes it background.
        image = sitk.GetImageFromArray(np.pad(mask, 1).astype(np.uint8))
        image.SetSpacing([float(s) for s in spacing[::-1]][: mask.ndim])
        images.append(sitk.LabelContour(image, fullyConnected=False))
    maps = [
        np.abs(sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(i, squaredDistance=False, useImageSpacing=True)))
        for i in images
    ]
    contours = [sitk.GetArrayFromImage(i) > 0 for i in images]
    theirs = [maps[1][contours[0]], maps[0][contours[1]]]
    found = surface_distances(prediction, reference, spacing)
    whole = sitk.HausdorffDistanceImageFilter()
    whole.Execute(*images)
    assert hausdorff(found) == pytest.approx(whole.GetHausdorffDistance(), abs=1e-5)
    assert hausdorff(found) == pytest.approx(max(t.max() for t in theirs), abs=1e-5)
    assert hd95(found) == pytest.approx(max(np.percentile(t, 95) for t in theirs), abs=1e-5)
    assert assd(found) == pytest.approx(np.concatenate(theirs).mean(), abs=1e-5)
    assert nsd_of(found, 1.7) == pytest.approx((np.concatenate(theirs) <= 1.7 + 1e-6).mean(), abs=1e-5)


def test_hausdorff_agrees_with_scipy() -> None:
    prediction, reference = blobs(8)
    spacing = np.array([3.0, 0.8, 1.3])
    points = [np.argwhere(outline(m)) * spacing for m in (prediction, reference)]
    theirs = max(directed_hausdorff(*points)[0], directed_hausdorff(*points[::-1])[0])
    assert hausdorff(surface_distances(prediction, reference, tuple(spacing))) == pytest.approx(theirs, abs=1e-9)


def test_score_case_gives_every_target_its_own_tolerance_and_region() -> None:
    labels = LabelScheme(
        class_names=("background", "a", "b"),
        class_values=(0, 1, 2),
        num_entries=3,
        regions=(Target(name="whole", members=(1, 2)), Target(name="core", members=(2,))),
        region_order=(1, 2),
    )
    grid = Geometry(shape=(8, 9, 10), spacing_mm=(2, 1, 1), affine=((0, 0, 1, 0), (0, 1, 0, 0), (2, 0, 0, 0)))
    rng = np.random.default_rng(4)
    prediction, reference = (rng.integers(0, 3, grid.shape) * (rng.random(grid.shape) > 0.6) for _ in range(2))
    scoring = Scoring(groups=("surface", "boundary", "lesions"), tolerances_mm={"core": 1.0}, default_tolerance_mm=0.0)
    alone = score_case(prediction, reference, labels, grid, scoring)
    assert score_case(prediction, reference, labels, grid, scoring, num_workers=2) == alone
    for name, members, tolerance in (("whole", (1, 2), 0.0), ("core", (2,), 1.0)):
        masks = [np.isin(array, members) for array in (prediction, reference)]
        found = surface_distances(*masks, (2.0, 1.0, 1.0))
        assert alone[name].nsd == nsd_of(found, tolerance)
        assert (alone[name].hausdorff_mm, alone[name].hd95_mm) == (hausdorff(found), hd95(found))
        assert alone[name].assd_mm == pytest.approx(assd(found))
        assert alone[name].boundary_dice == boundary_dice(*masks, (2.0, 1.0, 1.0), tolerance)
        assert alone[name].lesion_counts == lesion_counts(lesion_matches(*masks))


def test_a_target_that_is_nowhere() -> None:
    labels = LabelScheme(class_names=("background", "a"), class_values=(0, 1), num_entries=2)
    grid = Geometry(shape=(1, 1, 3), spacing_mm=(1, 1, 1), affine=((0, 0, 1, 0), (0, 1, 0, 0), (1, 0, 0, 0)))
    nothing = np.zeros(grid.shape, np.int16)
    groups = ("surface", "boundary", "lesions")
    score = score_case(nothing, nothing, labels, grid, Scoring(groups=groups))["a"]
    assert (score.nsd, score.hd95_mm, score.boundary_dice, score.lesion_f1) == (None,) * 4
