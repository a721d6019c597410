"""Stored probabilities against a reference: turned and cropped grids, regions, ignored voxels, a folder's curve."""

from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import UsageError
from autoseg.images.writing import write_label
from autoseg.metrics.calibration import brier_score, expected_calibration_error
from autoseg.pipeline.evaluate import evaluate
from autoseg.records.detection import LesionRule
from autoseg.records.geometry import Geometry
from autoseg.records.labels import LabelScheme, Target
from autoseg.records.results import PreprocessedCase
from autoseg.records.scoring import Scoring
from autoseg.selection.probabilities import has_probabilities, measure_probabilities
from autoseg.spatial.orientation import Turn, turn, turned
from tests.inference.whole import write_probabilities

LABELS = LabelScheme(class_names=("background", "a", "b"), class_values=(0, 1, 2), ignore_value=9, num_entries=4)
REGIONS = LABELS.model_copy(
    update={
        "regions": (Target(name="whole", members=(1, 2)), Target(name="core", members=(2,))),
        "region_order": (1, 2),
    }
)
SHAPE = (5, 6, 8)
GRID = Geometry(shape=SHAPE, spacing_mm=(2, 1, 1), affine=((0, 0, 1, 0), (0, 1, 0, 0), (2, 0, 0, 0)))
HOW = Turn((2, 0, 1), (True, False, True))
CROP = ((1, 8), (0, 5), (1, 6))


def store(folder: Path, case: str, probabilities: np.ndarray) -> None:
    """Keep `H Z Y X` on the image's grid as validation does: turned, cropped, float16."""
    z, y, x = (slice(*span) for span in CROP)
    shape = tuple(stop - start for start, stop in CROP)
    meta = PreprocessedCase(
        id=case,
        geometry=GRID,
        axes=HOW.axes,
        flips=HOW.flips,
        crop=CROP,
        shape_before_crop=turned(SHAPE, HOW.axes),
        spacing_before_mm=turned((2.0, 1.0, 1.0), HOW.axes),
        shape=shape,
        spacing_mm=turned((2.0, 1.0, 1.0), HOW.axes),
    )
    write_probabilities(folder, meta, np.ascontiguousarray(turn(probabilities, HOW)[:, z, y, x]).astype(np.float16))


def inside() -> np.ndarray:
    """Voxels of the image's grid that the crop holds."""
    turned_mask = np.zeros(turned(SHAPE, HOW.axes), bool)
    turned_mask[tuple(slice(*span) for span in CROP)] = True
    numbers = turn(np.arange(np.prod(SHAPE)).reshape(SHAPE), HOW)
    mask = np.zeros(SHAPE, bool)
    mask.reshape(-1)[numbers[turned_mask]] = True
    return mask


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Softmax probabilities, their segmentation (background outside the crop), and a reference with ignored voxels."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(3, 0.4), size=SHAPE).transpose(3, 0, 1, 2).astype(np.float16).astype(float)
    prediction = np.where(inside(), probabilities.argmax(0), 0).astype(np.int16)
    return probabilities, prediction, rng.integers(0, 4, SHAPE).astype(np.int16)


def test_classes_on_a_turned_and_cropped_grid(tmp_path: Path) -> None:
    probabilities, prediction, reference = drawn(0)
    store(tmp_path, "case", probabilities)
    assert has_probabilities(tmp_path, "case")
    assert not has_probabilities(tmp_path, "other")
    believed = measure_probabilities(tmp_path, "case", prediction, reference, LABELS, LesionRule())
    counted = inside() & (reference != 3)
    for number, name in ((1, "a"), (2, "b")):
        p, truth = probabilities[number][counted], reference[counted] == number
        assert brier_score(believed.bins[name]) == pytest.approx(((p - truth) ** 2).mean())
        assert believed.bins[name].voxels.sum() == counted.sum()
        error = expected_calibration_error(believed.bins[name])
        assert error is not None
        assert 0 < error < 1
    from scipy import ndimage

    numbers, count = ndimage.label((prediction == 1) & (reference != 3), np.ones((3, 3, 3)))
    means = ndimage.mean(probabilities[1], numbers, range(1, count + 1))
    found = [candidate.score for candidate in believed.candidates["a"]]
    np.testing.assert_allclose(sorted(found), sorted(means))


def test_regions_have_heads_of_their_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    probabilities = rng.random((2, *SHAPE)).astype(np.float16).astype(float)
    reference = rng.integers(0, 3, SHAPE).astype(np.int16)
    store(tmp_path, "case", probabilities)
    believed = measure_probabilities(tmp_path, "case", reference, reference, REGIONS, None)
    assert believed.candidates == {}
    where = inside()
    for head, (name, members) in enumerate((("whole", (1, 2)), ("core", (2,)))):
        p, truth = probabilities[head][where], np.isin(reference[where], members)
        assert brier_score(believed.bins[name]) == pytest.approx(((p - truth) ** 2).mean())


def test_a_folder_gets_curves_and_scores(tmp_path: Path) -> None:
    scoring = Scoring(groups=("lesions", "probabilities"))
    for seed, case in enumerate("xyz"):
        probabilities, prediction, reference = drawn(seed)
        store(tmp_path / "found", case, probabilities)
        write_label(tmp_path / "found" / f"{case}.nii.gz", prediction.astype(np.uint8), GRID)
        values = np.array([0, 1, 2, 9], np.uint8)[reference]
        # the reference's voxels run in another order than the image's
        other = Geometry(shape=SHAPE, spacing_mm=(2, 1, 1), affine=((0, 0, -1, 7), (0, 1, 0, 0), (2, 0, 0, 0)))
        write_label(tmp_path / "wanted" / f"{case}.nii.gz", np.ascontiguousarray(values[:, :, ::-1]), other)
    evaluation = evaluate(tmp_path / "found", tmp_path / "wanted", LABELS, scoring=scoring)
    assert evaluation.failed == {}
    probabilities, _, reference = drawn(0)
    counted = inside() & (reference != 3)
    expected = ((probabilities[1][counted] - (reference[counted] == 1)) ** 2).mean()
    assert evaluation.cases["x"]["a"].brier == pytest.approx(expected)
    assert evaluation.targets["a"]["ece"].num_cases == 3
    curve, pooled = evaluation.froc["a"], evaluation.pooled["a"]
    assert curve.num_cases == 3
    assert curve.sensitivity is not None
    assert curve.sensitivity[-1] == pytest.approx(pooled["lesion_sensitivity"].mean)
    false = sum(
        case["a"].lesion_counts.false_candidates for case in evaluation.cases.values() if case["a"].lesion_counts
    )
    assert curve.false_positives_per_case[-1] == pytest.approx(false / 3)


def test_without_probabilities_or_labels(tmp_path: Path) -> None:
    write_label(tmp_path / "case.nii.gz", np.ones(SHAPE, np.uint8), GRID)
    scoring = Scoring(groups=("probabilities",))
    with pytest.raises(UsageError, match="holds no probabilities of case"):
        evaluate(tmp_path, tmp_path, LABELS, scoring=scoring)
    with pytest.raises(UsageError, match="--dataset-json"):
        evaluate(tmp_path, tmp_path, scoring=scoring)
