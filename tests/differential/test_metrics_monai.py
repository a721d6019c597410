"""Our metrics against MONAI's: the same masks and candidates give the same numbers within 1e-5.

Runs in this process where MONAI is importable, else in the interpreter that AUTOSEG_PEER_PYTHON names; otherwise
the tests are skipped.
"""

import json
import os
import subprocess

import numpy as np
import pytest
from scipy import ndimage

from autoseg.metrics.build import score_case
from autoseg.metrics.detection import ScoredCandidate, froc
from autoseg.records.geometry import Geometry
from autoseg.records.labels import LabelScheme
from autoseg.records.results import Score
from autoseg.records.scoring import Scoring
from tests.differential.peer import peer_python

PEER = r"""
import json, sys, warnings
warnings.filterwarnings("ignore")
import numpy as np
import torch
from monai import metrics

folder = sys.argv[1]
given, answer = np.load(folder + "/given.npz"), {}
for name in sorted({key.split("/")[0] for key in given if "/" in key}):
    pair = [given[f"{name}/{side}"] for side in ("prediction", "reference")]
    spacing = given[f"{name}/spacing"].tolist()
    if pair[0].shape[0] == 1:
        pair, spacing = [mask[0] for mask in pair], spacing[1:]
    y_pred, y = (torch.from_numpy(mask)[None, None].float() for mask in pair)
    more = {"include_background": True, "spacing": spacing}
    answer[name] = {
        "dice": metrics.compute_dice(y_pred, y),
        "iou": metrics.compute_iou(y_pred, y),
        "hausdorff_mm": metrics.compute_hausdorff_distance(y_pred, y, **more),
        "hd95_mm": metrics.compute_hausdorff_distance(y_pred, y, percentile=95, **more),
        "assd_mm": metrics.compute_average_surface_distance(y_pred, y, symmetric=True, **more),
        "nsd": metrics.compute_surface_dice(y_pred, y, [float(given["tolerance"])], **more),
    }
    answer[name] = {metric: float(value) for metric, value in answer[name].items()}
rates, sensitivity = metrics.compute_froc_curve_data(
    given["false_scores"], given["true_scores"], int(given["num_lesions"]), int(given["num_cases"]))
answer["froc"] = {"rates": list(map(float, rates)), "sensitivity": list(map(float, sensitivity))}
print(json.dumps(answer))
"""

LABELS = LabelScheme(class_names=("background", "a"), class_values=(0, 1), num_entries=2)
TOLERANCE = 1.7
SPACINGS = {"isotropic": (1.0, 1.0, 1.0), "anisotropic": (3.0, 0.8, 1.3)}
NUM_LESIONS, NUM_CASES = 14, 6


def _blobs(seed: int, shape: tuple[int, int, int], share: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    smooth = [ndimage.gaussian_filter(rng.standard_normal(shape), [min(1.5, n / 8) for n in shape]) for _ in range(2)]
    first, second = (s > np.quantile(s, share) for s in smooth)
    return first, second


def _masks() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    volume = (14, 16, 18)
    touching = _blobs(3, volume)
    for mask in touching:
        mask[0], mask[:, :, -1] = True, True
    voxel = [np.zeros(volume, bool) for _ in range(2)]
    voxel[0][2, 3, 4], voxel[1][9, 3, 11] = True, True
    some, empty = _blobs(4, volume)[0], np.zeros(volume, bool)
    return {
        "blobs": _blobs(1, volume),
        "sparse": _blobs(2, volume, 0.97),
        "border": touching,
        "voxels": (voxel[0], voxel[1]),
        "identical": (some, some),
        "slice": _blobs(5, (1, 30, 34)),
        "prediction empty": (empty, some),
        "reference empty": (some, empty),
        "both empty": (empty, empty),
    }


def _scores() -> tuple[np.ndarray, np.ndarray]:
    """Scores of false candidates and of candidates that each find a lesion of their own; none is equal to another."""
    rng = np.random.default_rng(0)
    values = rng.permutation(30) / 30
    return values[:18], values[18:]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    python = peer_python("monai")
    folder = tmp_path_factory.mktemp("peer")
    false, true = _scores()
    given: dict[str, object] = {
        "tolerance": TOLERANCE,
        "false_scores": false,
        "true_scores": true,
        "num_lesions": NUM_LESIONS,
        "num_cases": NUM_CASES,
    }
    for name, (prediction, reference) in _masks().items():
        for kind, spacing in SPACINGS.items():
            given[f"{name}, {kind}/prediction"] = prediction
            given[f"{name}, {kind}/reference"] = reference
            given[f"{name}, {kind}/spacing"] = np.array(spacing)
    np.savez(folder / "given.npz", **given)
    done = subprocess.run(
        [python, "-c", PEER, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _ours(name: str, spacing: tuple[float, float, float]) -> Score:
    prediction, reference = _masks()[name]
    z, y, x = spacing
    grid = Geometry(shape=prediction.shape, spacing_mm=spacing, affine=((0, 0, x, 0), (0, y, 0, 0), (z, 0, 0, 0)))
    scoring = Scoring(groups=("surface",), default_tolerance_mm=TOLERANCE)
    return score_case(prediction.astype(np.int16), reference.astype(np.int16), LABELS, grid, scoring)["a"]


METRICS = ("dice", "iou", "hausdorff_mm", "hd95_mm", "assd_mm", "nsd")


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(SPACINGS))
@pytest.mark.parametrize("name", ["blobs", "sparse", "border", "voxels", "identical", "slice"])
def test_the_same_masks_give_the_same_scores(theirs: dict[str, dict], name: str, kind: str) -> None:
    ours = _ours(name, SPACINGS[kind])
    for metric in METRICS:
        # relative too: MONAI ranks and interpolates in float32
        assert getattr(ours, metric) == pytest.approx(theirs[f"{name}, {kind}"][metric], abs=1e-5, rel=1e-5), metric


@pytest.mark.slow
def test_empty_masks_differ_as_documented(theirs: dict[str, dict]) -> None:
    """Where MONAI gives NaN or infinity ours is None; a missed or invented target has Dice and surface Dice 0."""
    for name in ("prediction empty", "reference empty", "both empty"):
        ours, peer = _ours(name, SPACINGS["isotropic"]), theirs[f"{name}, isotropic"]
        assert (ours.hausdorff_mm, ours.hd95_mm, ours.assd_mm) == (None,) * 3
        assert not np.isfinite([peer["hausdorff_mm"], peer["hd95_mm"], peer["assd_mm"]]).any()
        assert (ours.dice, ours.nsd) == ((None, None) if name == "both empty" else (0, 0))
    assert np.isnan(theirs["both empty, isotropic"]["nsd"])


@pytest.mark.slow
def test_the_same_candidates_give_the_same_froc_curve(theirs: dict[str, dict]) -> None:
    false, true = _scores()
    candidates = [ScoredCandidate("c", float(s), (), True) for s in false]
    candidates += [ScoredCandidate("c", float(s), (number,), False) for number, s in enumerate(true)]
    curve = froc(candidates, NUM_LESIONS, NUM_CASES)
    peer = theirs["froc"]
    assert curve.sensitivity is not None
    ours = set(zip(np.round(curve.false_positives_per_case, 9), np.round(curve.sensitivity, 9), strict=True))
    points = set(zip(np.round(peer["rates"], 9), np.round(peer["sensitivity"], 9), strict=True))
    assert points - {(0.0, 0.0)} <= ours
    assert len(points) > 10
