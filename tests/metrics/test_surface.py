"""Surface Dice: hand-computed cases, a brute-force reference from distance maps, and MONAI."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from autoseg.metrics.build import score_case
from autoseg.metrics.surface import nsd as nsd_of
from autoseg.metrics.surface import surface_distances
from autoseg.records.geometry import Geometry
from autoseg.records.labels import LabelScheme
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


def test_agrees_with_monai() -> None:
    torch, monai = pytest.importorskip("torch"), pytest.importorskip("monai.metrics")
    rng = np.random.default_rng(0)
    smooth = [ndimage.gaussian_filter(rng.standard_normal((14, 16, 18)), 1.5) for _ in range(2)]
    prediction, reference = (s > np.quantile(s, 0.7) for s in smooth)
    spacing = (3.0, 0.8, 0.8)
    theirs = monai.compute_surface_dice(
        torch.from_numpy(prediction)[None, None].float(),
        torch.from_numpy(reference)[None, None].float(),
        class_thresholds=[1.7],
        include_background=True,
        spacing=spacing,
    )
    assert nsd(prediction, reference, spacing, 1.7) == pytest.approx(float(theirs), abs=1e-6)


def test_score_case_leaves_out_ignored_voxels() -> None:
    labels = LabelScheme(class_names=("background", "a"), class_values=(0, 1), ignore_value=7, num_entries=3)
    grid = Geometry(shape=(1, 1, 6), spacing_mm=(1, 1, 1), affine=((0, 0, 1, 0), (0, 1, 0, 0), (1, 0, 0, 0)))
    prediction, reference = np.array([[[1, 1, 0, 0, 1, 1]]]), np.array([[[1, 1, 0, 0, 2, 2]]])
    assert (
        score_case(prediction, reference, labels, grid, Scoring(groups=("surface",), default_tolerance_mm=0))["a"].nsd
        == 1
    )
