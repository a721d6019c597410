"""Two masks in, lesion-wise scores out; scored candidates in, the FROC curve out.

A lesion is a component of the reference, a candidate one of the prediction, both 26-connected. `LesionRule` says
when a candidate finds a lesion: when it covers a given share of it, or when their IoU reaches a given value. The rule
is asked of each pair; two candidates that each cover too little do not find a lesion together, so that the
sensitivity of a segmentation is that of the last point of its FROC curve.

Every lesion that some candidate finds is one true positive, however many candidates find it: the second is neither a
false positive nor another true positive. One candidate may find several lesions. A candidate is a false positive when
it finds none and does not lie inside one either (`coverage`: less than the rule's share of its own voxels is
reference; `iou`: always, so that a fragment of a lesion counts against the prediction). With `coverage` a candidate
that is far too large finds what it covers; `iou` is the stricter rule.

| lesions | candidates               | sensitivity | precision | f1   |
|---------|--------------------------|-------------|-----------|------|
| none    | none                     | None        | None      | None |
| none    | some                     | None        | 0         | 0    |
| some    | none                     | 0           | None      | 0    |
| some    | all inside, none finding | 0           | None      | 0    |

A case without lesions has no sensitivity, but its false candidates count in every pooled score and in the FROC curve.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg.metrics.overlap import Terms, ratio
from autoseg.records.detection import FrocCurve, LesionCounts, LesionRule
from autoseg.spatial.components import components
from autoseg.spatial.cropping import crop, mask_box

IntArray = npt.NDArray[np.int64]
Numbered = npt.NDArray[np.integer]

FROC_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives a case at which CPM reads the curve (Niemeijer et al. 2011, doi 10.1109/TMI.2010.2072789)."""
DEFAULT_RULE = LesionRule()


@dataclass(frozen=True)
class LesionMatches:
    """Which candidates find which lesions in one case; both are counted from 0 (component number minus 1)."""

    candidate_sizes: IntArray
    """Voxels of each candidate."""
    lesion_sizes: IntArray
    """Voxels of each lesion."""
    overlap: IntArray
    """Voxels of each candidate that lie in any lesion."""
    hits: tuple[tuple[int, ...], ...]
    """Of each candidate: the lesions it finds."""
    false: npt.NDArray[np.bool_]
    """Of each candidate: whether it is a false positive. Neither finding nor false: a part of a missed lesion."""

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        """Of each lesion: whether a candidate finds it."""
        found = np.zeros(len(self.lesion_sizes), dtype=bool)
        found[[lesion for hits in self.hits for lesion in hits]] = True
        return found


@dataclass(frozen=True)
class ScoredCandidate:
    """One candidate of one case, as FROC needs it."""

    case: str
    score: float
    """The higher, the surer; any scale."""
    hits: tuple[int, ...]
    """Lesions of its case that it finds, by number within the case."""
    false: bool
    """Whether it is a false positive."""


def lesion_matches(
    prediction: npt.NDArray[Any], reference: npt.NDArray[Any], rule: LesionRule = DEFAULT_RULE
) -> LesionMatches:
    """Match the components of two masks.

    Args:
        prediction: `Z Y X`, nonzero in the mask.
        reference: likewise.
        rule: when a candidate finds a lesion.

    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"masks must have one shape, got {prediction.shape} and {reference.shape}")
    union = (prediction != 0) | (reference != 0)
    box = mask_box(union) if union.any() else ((0, 1),) * 3
    candidates, num_candidates = components(crop(prediction, box))
    lesions, num_lesions = components(crop(reference, box))
    return match_components(candidates, num_candidates, lesions, num_lesions, rule)


def match_components(
    candidates: Numbered, num_candidates: int, lesions: Numbered, num_lesions: int, rule: LesionRule = DEFAULT_RULE
) -> LesionMatches:
    """Match components that are numbered already (from 1, 0 outside), on one grid."""
    sizes = np.bincount(candidates.ravel(), minlength=num_candidates + 1)[1:]
    lesion_sizes = np.bincount(lesions.ravel(), minlength=num_lesions + 1)[1:]
    both = (candidates > 0) & (lesions > 0)
    codes = (candidates[both].astype(np.int64) - 1) * max(num_lesions, 1) + lesions[both].astype(np.int64) - 1
    pairs, shared = np.unique(codes, return_counts=True)
    rows, columns = pairs // max(num_lesions, 1), pairs % max(num_lesions, 1)
    overlap = np.zeros(num_candidates, dtype=np.int64)
    np.add.at(overlap, rows, shared)
    whole = lesion_sizes[columns]
    if rule.measure == "iou":
        whole = whole + sizes[rows] - shared
    hits: list[list[int]] = [[] for _ in range(num_candidates)]
    for row, column in zip(*(part[shared >= rule.minimum * whole] for part in (rows, columns)), strict=True):
        hits[int(row)].append(int(column))
    false = np.array([not found for found in hits], dtype=bool)
    if rule.measure == "coverage":
        false &= overlap < rule.minimum * sizes
    return LesionMatches(
        candidate_sizes=sizes.astype(np.int64),
        lesion_sizes=lesion_sizes.astype(np.int64),
        overlap=overlap,
        hits=tuple(tuple(found) for found in hits),
        false=false,
    )


def lesion_counts(matches: LesionMatches) -> LesionCounts:
    """Lesions and candidates of one case."""
    return LesionCounts(
        lesions=len(matches.lesion_sizes),
        found=int(matches.found.sum()),
        candidates=len(matches.candidate_sizes),
        false_candidates=int(matches.false.sum()),
    )


def lesion_sensitivity(counts: LesionCounts) -> float | None:
    """Found over all lesions; None without any lesion."""
    return ratio(sensitivity_terms(counts))


def lesion_precision(counts: LesionCounts) -> float | None:
    """Found lesions over found lesions and false candidates; None when there is neither."""
    return ratio(precision_terms(counts))


def lesion_f1(counts: LesionCounts) -> float | None:
    """2 found / (2 found + false candidates + missed lesions); None when there is none of them."""
    return ratio(f1_terms(counts))


def scored_candidates(case: str, matches: LesionMatches, scores: Sequence[float]) -> list[ScoredCandidate]:
    """The candidates of a case with their scores, in the order of their numbers; see `froc`."""
    rows = zip(scores, matches.hits, matches.false, strict=True)
    return [ScoredCandidate(case, float(score), hits, bool(false)) for score, hits, false in rows]


def froc(
    candidates: Sequence[ScoredCandidate],
    num_lesions: int,
    num_cases: int,
    rates: Sequence[float] = FROC_RATES,
) -> FrocCurve:
    """Sensitivity against false positives a case, over all thresholds of the score.

    The curve is read without interpolation: a rate gets the highest sensitivity that some threshold reaches with
    at most that many false positives a case. (LUNA16 and MONAI draw straight lines between points, which promises
    sensitivities that no threshold has.) Candidates of equal score enter together, since no threshold parts them.

    Args:
        candidates: of all cases, in any order; cases without any need no entry.
        num_lesions: of all cases, those no candidate touches included.
        num_cases: all, those without lesions and without candidates included.
        rates: false positives a case at which to read the curve.

    Raises:
        ValueError: no case, a score that is not finite, or more lesions found than there are.
    """
    if num_cases < 1:
        raise ValueError("a FROC curve needs at least one case")
    ordered = sorted(candidates, key=lambda c: -c.score)
    scores = np.array([c.score for c in ordered], dtype=np.float64)
    if not np.isfinite(scores).all():
        raise ValueError("scores of candidates must be finite")
    seen: set[tuple[str, int]] = set()
    false, found = np.zeros(len(ordered), dtype=np.int64), np.zeros(len(ordered), dtype=np.int64)
    for position, candidate in enumerate(ordered):
        seen.update((candidate.case, lesion) for lesion in candidate.hits)
        found[position], false[position] = len(seen), candidate.false
    if len(seen) > num_lesions:
        raise ValueError(f"candidates find {len(seen)} lesions, but there are only {num_lesions}")
    last = np.flatnonzero(np.diff(scores, append=-np.inf) < 0)  # of the candidates that share a score
    per_case = np.cumsum(false)[last] / num_cases
    sensitivity = found[last] / num_lesions if num_lesions else None
    read = None
    if sensitivity is not None:
        at = np.searchsorted(per_case, np.asarray(rates) * (1 + 1e-12), side="right")
        read = np.concatenate([[0.0], sensitivity])[at]
    return FrocCurve(
        num_cases=num_cases,
        num_lesions=num_lesions,
        thresholds=tuple(scores[last].tolist()),
        false_positives_per_case=tuple(per_case.tolist()),
        sensitivity=None if sensitivity is None else tuple(sensitivity.tolist()),
        rates=tuple(float(rate) for rate in rates),
        sensitivity_at=None if read is None else tuple(read.tolist()),
        cpm=None if read is None else float(read.mean()),
    )


def sensitivity_terms(counts: LesionCounts) -> Terms:
    """Numerator and denominator of the lesion-wise sensitivity."""
    return counts.found, counts.lesions


def precision_terms(counts: LesionCounts) -> Terms:
    """Numerator and denominator of the lesion-wise precision."""
    return counts.found, counts.found + counts.false_candidates


def f1_terms(counts: LesionCounts) -> Terms:
    """Numerator and denominator of the lesion-wise F1."""
    return 2 * counts.found, counts.found + counts.false_candidates + counts.lesions
