"""Phantoms with made-up held-out predictions: smooth, hesitant, and wrong in the ways in which models are."""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from scipy import ndimage

from autoseg.auditing.corrections import measure_corrections
from autoseg.auditing.disagreement import confidence_sums, confidence_thresholds, find_parts
from autoseg.auditing.evidence import Evidence, gather
from autoseg.auditing.labels_alone import label_facts
from autoseg.auditing.ranking import Prediction, rank_cases
from autoseg.datasets.phantom_shapes import CLASSES, LESION
from autoseg.datasets.phantoms import make_phantom
from autoseg.planning.symmetry import left_right_pairs
from autoseg.records.audit import AuditedCase
from autoseg.records.geometry import Geometry
from autoseg.records.labels import LabelScheme
from autoseg.spatial.orientation import turn, turn_for

LABELS = LabelScheme(class_names=CLASSES, class_values=tuple(range(len(CLASSES))), num_entries=len(CLASSES))
NAMES = [target.name for target in LABELS.targets]
PAIRS = left_right_pairs(NAMES)
TOLERANCE_MM = 2.0


@lru_cache(maxsize=64)
def truth(number: int) -> tuple[np.ndarray, Geometry]:
    _, classes, geometry = make_phantom(5, number)
    return classes.astype(np.int16), geometry


def predict(classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Probabilities `H Z Y X` of a plausible model.

    Every organ is displaced by up to a voxel and a little too large or small, borders are soft. In every fourth case
    a lesion is not seen, in every third one is invented where none is, both with confidence.
    """
    one_hot = (np.arange(len(CLASSES))[:, None, None, None] == classes).astype(np.float32)
    if rng.random() < 0.25:
        one_hot[1] += one_hot[LESION]
        one_hot[LESION] = 0
    if rng.random() < 0.33:
        centre = [int(rng.integers(size // 4, 3 * size // 4)) for size in classes.shape]
        blob = np.zeros(classes.shape, dtype=bool)
        blob[tuple(centre)] = True
        blob = ndimage.binary_dilation(blob, iterations=int(rng.integers(2, 5)))
        one_hot[:, blob] = 0
        one_hot[LESION, blob] = 1
    scores = []
    for number, mask in enumerate(one_hot):
        moved = ndimage.shift(mask, rng.normal(0, 0.35, 3) if number else (0, 0, 0), order=1)
        bias = rng.normal(0, 0.6) if number else 0.0
        scores.append(10 * (ndimage.gaussian_filter(moved, 0.7) - 0.5) + bias + rng.normal(0, 0.5, mask.shape))
    exponentials = np.exp(np.stack(scores))
    return (exponentials / exponentials.sum(axis=0)).astype(np.float16)


def evidence_of(case: str, reference: np.ndarray, probabilities: np.ndarray, geometry: Geometry) -> Evidence:
    """The evidence on the canonical grid; probabilities are given on the file's grid."""
    how = turn_for(geometry.matrix, "canonical")
    turned = turn(probabilities, how)
    box = tuple((0, size) for size in turned.shape[1:])
    return gather(case, reference, turned, LABELS, geometry, how, box)  # type: ignore[arg-type]


def audit_made(
    references: Mapping[str, tuple[np.ndarray, Geometry]], probabilities: Mapping[str, np.ndarray]
) -> tuple[AuditedCase, ...]:
    """Rank made-up cases as the stage does; `probabilities` of any of them."""
    facts = {case: label_facts(classes, geometry, LABELS) for case, (classes, geometry) in references.items()}
    evidence = {
        case: evidence_of(case, references[case][0], p, references[case][1]) for case, p in probabilities.items()
    }
    thresholds = confidence_thresholds([confidence_sums(e) for e in evidence.values()])
    predictions = {
        case: Prediction(
            tuple(measure_corrections(e, PAIRS)),
            tuple((part, e.file_voxel(part.centre)) for part in find_parts(e, thresholds, TOLERANCE_MM)),
            tuple(float((t.probability >= 0.5).sum()) * e.voxel_mm3 for t in e.targets),
            tuple(t.dice() if t.voxels else None for t in e.targets),
        )
        for case, e in evidence.items()
    }
    return rank_cases(facts, predictions, NAMES, PAIRS)
