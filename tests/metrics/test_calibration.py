"""Calibration: hand-computed bins, scikit-learn, ignored voxels, sums over parts."""

import numpy as np
import pytest

from autoseg.metrics.calibration import (
    NUM_BINS,
    add_bins,
    brier_score,
    calibration_bins,
    expected_calibration_error,
)
from autoseg.records.labels import LabelScheme, Target

CLASSES = LabelScheme(class_names=("background", "a", "b"), class_values=(0, 1, 2), ignore_value=9, num_entries=4)
REGIONS = CLASSES.model_copy(
    update={
        "regions": (Target(name="whole", members=(1, 2)), Target(name="core", members=(2,))),
        "region_order": (1, 2),
    }
)


def volume(values) -> np.ndarray:
    array = np.asarray(values)
    return array.reshape(*array.shape[:-1], 1, 1, array.shape[-1])


def test_classes_by_hand() -> None:
    probabilities = volume(np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.3, 0.35, 0.35], [0.95, 0.05, 0.0]]).T)
    bins = calibration_bins(probabilities, volume([0, 2, 1, 3]), CLASSES)["classes"]  # the last is to be ignored
    assert bins.voxels.sum() == 3
    # alone in their bins: 0.9 right, 0.7 wrong, 0.35 (a before b) right
    assert expected_calibration_error(bins) == pytest.approx((0.1 + 0.7 + 0.65) / 3)
    errors = [0.1**2 + 0.1**2, 0.2**2 + 0.7**2 + 0.9**2, 0.3**2 + 0.65**2 + 0.35**2]
    assert brier_score(bins) == pytest.approx(sum(errors) / 3)


def test_regions_by_hand() -> None:
    probabilities = volume([[0.9, 0.92, 0.1], [0.0, 1.0, 0.5]])
    found = calibration_bins(probabilities, volume([1, 2, 0]), REGIONS)
    assert list(found) == ["whole", "core"]
    assert expected_calibration_error(found["whole"]) == pytest.approx((0.1 + 0.08 + 0.1) / 3)
    assert brier_score(found["whole"]) == pytest.approx((0.1**2 + 0.08**2 + 0.1**2) / 3)
    assert expected_calibration_error(found["core"]) == pytest.approx(0.5 / 3)


def test_errors_in_one_bin_cancel_in_the_calibration_error_only() -> None:
    bins = calibration_bins(volume([[0.5, 0.5], [0.5, 0.5]]), volume([2, 0]), REGIONS)["core"]
    assert expected_calibration_error(bins) == 0
    assert brier_score(bins) == 0.25


def test_mask_and_nothing_to_count() -> None:
    probabilities, reference = volume([[0.9, 0.2], [0.9, 0.2]]), volume([2, 0])
    bins = calibration_bins(probabilities, reference, REGIONS, mask=volume([True, False]))["core"]
    assert bins.voxels.sum() == 1
    nothing = calibration_bins(probabilities, reference, REGIONS, mask=volume([False, False]))["core"]
    assert (expected_calibration_error(nothing), brier_score(nothing)) == (None, None)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="expected probabilities"):
        calibration_bins(np.zeros((2, 1, 1, 2)), volume([0, 1]), CLASSES)
    with pytest.raises(ValueError, match="mask"):
        calibration_bins(np.zeros((3, 1, 1, 2)), volume([0, 1]), CLASSES, mask=volume([True]))


def test_agrees_with_scikit_learn() -> None:
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import brier_score_loss

    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2, size=(2, 4, 9, 10))
    probabilities = (1 / (1 + np.exp(-logits))).astype(np.float16)
    probabilities[:, 0, 0, :3] = [0, 1, 0.2]
    reference = rng.integers(0, 3, (4, 9, 10))
    bins = calibration_bins(probabilities, reference, REGIONS)["core"]
    truth, p = (reference == 2).ravel(), probabilities[1].ravel().astype(np.float64)
    share, confidence = calibration_curve(truth, p, n_bins=NUM_BINS, strategy="uniform")
    used = bins.voxels > 0
    np.testing.assert_allclose(bins.true[used] / bins.voxels[used], share)
    np.testing.assert_allclose(bins.confidence[used] / bins.voxels[used], confidence)
    assert brier_score(bins) == pytest.approx(brier_score_loss(truth, p))


def test_parts_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet(np.ones(3), size=(5, 6, 7)).transpose(3, 0, 1, 2)
    reference = rng.integers(0, 4, (5, 6, 7))
    whole = calibration_bins(probabilities, reference, CLASSES)["classes"]
    halves = [calibration_bins(probabilities[:, r], reference[r], CLASSES)["classes"] for r in (slice(2), slice(2, 5))]
    together = add_bins(halves)
    monkeypatch.setattr("autoseg.metrics.calibration._VOXELS_PER_PASS", 16)
    pieces = calibration_bins(probabilities, reference, CLASSES)["classes"]
    for other in (together, pieces):
        np.testing.assert_allclose(other.voxels, whole.voxels)
        assert expected_calibration_error(other) == pytest.approx(expected_calibration_error(whole))
        assert brier_score(other) == pytest.approx(brier_score(whole))
    plain = ((probabilities - np.eye(4)[reference].transpose(3, 0, 1, 2)[:3]) ** 2).sum(0)[reference != 3].mean()
    assert brier_score(whole) == pytest.approx(plain)


def test_believable_probabilities_have_no_error() -> None:
    rng = np.random.default_rng(2)
    p = rng.random((1, 40, 50, 50))
    truth = np.where(rng.random(p.shape[1:]) < p[0], 2, 0)
    bins = calibration_bins(np.concatenate([p, p]), truth, REGIONS)
    assert expected_calibration_error(bins["core"]) < 0.01
    overconfident = np.clip(p * 1.5 - 0.25, 0, 1)
    worse = calibration_bins(np.concatenate([overconfident] * 2), truth, REGIONS)
    assert expected_calibration_error(worse["core"]) > 0.05
