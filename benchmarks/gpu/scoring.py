"""Segmentations of held-out cases in, Dice and surface Dice of whole volumes out, and their pairing by case.

Both sides are scored by this code on the grid of the files. No image library but nibabel is needed.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from common import DATASET

from autoseg.inference.probability_reader import in_file, labels_from_probabilities
from autoseg.inference.store import probabilities_path, read_meta
from autoseg.metrics.build import score_case, summarize
from autoseg.metrics.statistics import compare_paired
from autoseg.records.dataset import Dataset
from autoseg.records.labels import LabelScheme
from autoseg.records.results import Evaluation, PreprocessedCase
from autoseg.records.scoring import Scoring
from autoseg.selection.comparison import MEAN, compare_with_reference, parse_reference
from autoseg.selection.held_out import reference_of

METHOD = "nnunetv2_default"
SCORING = Scoring(groups=("overlap", "surface"))
CaseMeans = dict[str, dict[str, float]]
"""Case -> measure (`dice`, `nsd`) -> mean over the targets that have one."""


def score_cases(
    cases: Iterable[PreprocessedCase],
    segmentation_of: Callable[[PreprocessedCase], np.ndarray],
    dataset: Dataset,
    labels: LabelScheme,
) -> Evaluation:
    """Scores of held-out cases from their internal classes `Z Y X` on the grid of the file."""
    scores = {}
    for meta in cases:
        truth = reference_of(dataset, meta.id, meta.geometry)
        scores[meta.id] = score_case(segmentation_of(meta), truth, labels, meta.geometry, SCORING)
    return summarize("held out", scores, scoring=SCORING)


def score_fold(folder: Path, cases: Iterable[str], dataset: Dataset, labels: LabelScheme) -> Evaluation:
    """Scores of the cases that a fold of ours has predicted into `folder`."""

    def segmentation(meta: PreprocessedCase) -> np.ndarray:
        return labels_from_probabilities([in_file(probabilities_path(folder, meta.id))], meta, labels)

    return score_cases([read_meta(folder, case) for case in cases], segmentation, dataset, labels)


def case_means(evaluation: Evaluation) -> CaseMeans:
    """Each case's mean over its targets, of both measures."""
    means: CaseMeans = {}
    for case, scores in evaluation.cases.items():
        found = {name: [getattr(score, name) for score in scores.values()] for name in ("dice", "nsd")}
        defined = {name: [v for v in values if v is not None] for name, values in found.items()}
        means[case] = {name: sum(values) / len(values) for name, values in defined.items() if values}
    return means


def paired(ours: CaseMeans, theirs: CaseMeans, measure: str) -> dict[str, Any]:
    """Both means over the cases in common, their difference (ours - theirs) and its 95 % interval over cases."""
    common = [case for case in ours if measure in ours[case] and measure in theirs.get(case, {})]
    if not common:
        return {}
    both = [[side[case][measure] for case in common] for side in (ours, theirs)]
    difference = compare_paired(*both).difference
    means = [round(sum(values) / len(values), 5) for values in both]
    return {"ours": means[0], "peer": means[1], **interval(difference.mean, difference.low, difference.high, common)}


def against_published(evaluation: Evaluation, bundle: Path) -> dict[str, Any]:
    """As `paired`, Dice beside nnU-Net's published values of the same cases."""
    content = json.loads((bundle / "reference.json").read_text())
    reference = parse_reference(content, list(evaluation.targets), "reference.json")[METHOD]
    rows = compare_with_reference(evaluation, reference, DATASET, "3d_fullres", METHOD)
    row = next(row for row in rows if row.target == MEAN)
    low, high = row.difference.low, row.difference.high
    return {
        "ours": round(row.ours, 5),
        "peer": round(row.theirs, 5),
        "ratio": round(row.ours / row.theirs, 5),
        **interval(row.difference.mean, low, high, range(row.difference.num_cases)),
    }


def interval(mean: float | None, low: float | None, high: float | None, cases: Any) -> dict[str, Any]:
    """The difference as the lines tell it."""
    return {"difference": mean, "low": low, "high": high, "cases": len(cases)}


def write_means(out: Path, dataset: str, means: Mapping[str, Mapping[str, float]]) -> None:
    """Keep our case means for the parts that pair the peer with them."""
    (out / f"ours_{dataset}.json").write_text(json.dumps(means))


def read_means(out: Path, dataset: str) -> CaseMeans:
    """Our case means; empty where our part has not run."""
    path = out / f"ours_{dataset}.json"
    return json.loads(path.read_text()) if path.is_file() else {}
