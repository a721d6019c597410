"""Lesion-wise scores and FROC: hand-computed cases and properties."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.metrics.detection import (
    LesionCounts,
    ScoredCandidate,
    froc,
    lesion_counts,
    lesion_f1,
    lesion_matches,
    lesion_precision,
    lesion_sensitivity,
    scored_candidates,
)
from autoseg.records.detection import LesionRule


def row(text: str) -> np.ndarray:
    """A volume of one row: `#` is in the mask."""
    return np.array([[[c == "#" for c in text]]])


def pool_lesions(counts: Iterable[LesionCounts]) -> LesionCounts:
    """Sums over cases, so that a case weighs by its lesions."""
    counts = list(counts)
    return LesionCounts(
        lesions=sum(c.lesions for c in counts),
        found=sum(c.found for c in counts),
        candidates=sum(c.candidates for c in counts),
        false_candidates=sum(c.false_candidates for c in counts),
    )


def score(prediction: str, reference: str, **rule):
    return lesion_counts(lesion_matches(row(prediction), row(reference), LesionRule(**rule)))


def test_hand_computed() -> None:
    found = score(
        prediction="##..#####.....#..",
        reference="####......###....",
        minimum=0.5,
    )
    assert (found.lesions, found.found, found.candidates, found.false_candidates) == (2, 1, 3, 2)
    assert (lesion_sensitivity(found), lesion_precision(found)) == (0.5, pytest.approx(1 / 3))
    assert lesion_f1(found) == pytest.approx(2 / (2 + 2 + 1))


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("....", "....", (None, None, None)),
        ("#...", "....", (None, 0.0, 0.0)),
        ("....", "#...", (0.0, None, 0.0)),
        ("#.........", "##########", (1.0, 1.0, 1.0)),  # a tenth exactly counts
        (".#..........", "############", (0.0, None, 0.0)),  # inside, but too small to find: neither
    ],
)
def test_empty_and_bounds(prediction: str, reference: str, expected: tuple) -> None:
    found = score(prediction, reference)
    assert (lesion_sensitivity(found), lesion_precision(found), lesion_f1(found)) == expected


def test_several_candidates_on_one_lesion_count_once() -> None:
    found = score("##.##.##", "########")
    assert (found.found, found.candidates, found.false_candidates) == (1, 3, 0)
    assert (lesion_sensitivity(found), lesion_precision(found)) == (1, 1)


def test_one_candidate_may_find_several_lesions() -> None:
    matches = lesion_matches(row("########"), row("##.##.##"))
    assert matches.hits == ((0, 1, 2),)
    assert lesion_precision(lesion_counts(matches)) == 1


def test_iou_is_stricter_than_coverage() -> None:
    prediction, reference = "##########", "##........"
    assert score(prediction, reference, minimum=0.5).found == 1
    strict = score(prediction, reference, measure="iou", minimum=0.5)
    assert (strict.found, strict.false_candidates) == (0, 1)
    assert score(prediction, reference, measure="iou", minimum=0.2).found == 1


def test_corners_connect() -> None:
    corner = np.zeros((2, 2, 2), bool)
    corner[0, 0, 0] = corner[1, 1, 1] = True
    assert lesion_counts(lesion_matches(corner, corner)).lesions == 1


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="one shape"):
        lesion_matches(np.ones((1, 1, 1)), np.ones((1, 1, 2)))


def test_pooled_from_counts() -> None:
    pooled = pool_lesions([score("#.#.", "#.#."), score("#..#", "...."), score("....", "#...")])
    assert (pooled.lesions, pooled.found, pooled.false_candidates) == (3, 2, 2)
    assert (lesion_sensitivity(pooled), lesion_precision(pooled), lesion_f1(pooled)) == (
        pytest.approx(2 / 3),
        0.5,
        pytest.approx(4 / 7),
    )
    assert lesion_f1(pool_lesions([])) is None


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["coverage", "iou"]), st.sampled_from([0.05, 0.3, 0.7]))
def test_matches_agree_with_pairwise_masks(seed: int, measure: str, minimum: float) -> None:
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    smooth = [ndimage.gaussian_filter(rng.standard_normal((6, 9, 9)), 0.8) for _ in range(2)]
    prediction, reference = (s > np.quantile(s, 0.8) for s in smooth)
    matches = lesion_matches(prediction, reference, LesionRule(measure=measure, minimum=minimum))
    cubes, sizes = np.ones((3, 3, 3)), sorted(matches.lesion_sizes)
    candidates, num = ndimage.label(prediction, cubes)
    lesions, num_lesions = ndimage.label(reference, cubes)
    assert sizes == sorted(np.bincount(lesions.ravel())[1:])
    found, false = set(), 0
    for i in range(1, num + 1):
        mine = candidates == i
        hits = []
        for j in range(1, num_lesions + 1):
            shared, lesion = (mine & (lesions == j)).sum(), (lesions == j).sum()
            whole = lesion if measure == "coverage" else lesion + mine.sum() - shared
            if shared and shared / whole >= minimum:
                hits.append(j)
        found.update(hits)
        false += not hits and (measure == "iou" or (mine & reference).sum() / mine.sum() < minimum)
    assert (int(matches.found.sum()), int(matches.false.sum())) == (len(found), false)


def candidate(case: str, score: float, *hits: int, false: bool | None = None) -> ScoredCandidate:
    return ScoredCandidate(case, score, hits, not hits if false is None else false)


def test_froc_by_hand() -> None:
    """Two cases, four lesions, one of which nothing touches."""
    curve = froc(
        [
            candidate("a", 0.9, 0),
            candidate("a", 0.8),
            candidate("a", 0.7, 0),  # again: neither a second true positive nor a false one
            candidate("b", 0.6, 0, 1),
            candidate("b", 0.5),
            candidate("b", 0.4, false=False),  # a fragment of a missed lesion
            candidate("b", 0.3),
        ],
        num_lesions=4,
        num_cases=2,
    )
    assert curve.thresholds == (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
    assert curve.false_positives_per_case == (0, 0.5, 0.5, 0.5, 1, 1, 1.5)
    assert curve.sensitivity == (0.25, 0.25, 0.25, 0.75, 0.75, 0.75, 0.75)
    assert curve.sensitivity_at == (0.25, 0.25, 0.75, 0.75, 0.75, 0.75, 0.75)
    assert curve.cpm == pytest.approx((2 * 0.25 + 5 * 0.75) / 7)


def test_equal_scores_enter_together() -> None:
    curve = froc([candidate("a", 0.5, 0), candidate("a", 0.5)], num_lesions=1, num_cases=1)
    assert curve.false_positives_per_case == (1.0,)
    assert curve.sensitivity_at == (0, 0, 0, 1, 1, 1, 1)


def test_froc_without_candidates_or_lesions() -> None:
    nothing = froc([], num_lesions=3, num_cases=2)
    assert (nothing.sensitivity, nothing.sensitivity_at, nothing.cpm) == ((), (0,) * 7, 0)
    healthy = froc([candidate("a", 1.0)], num_lesions=0, num_cases=2)
    assert (healthy.false_positives_per_case, healthy.sensitivity, healthy.cpm) == ((0.5,), None, None)


def test_the_same_lesion_number_in_two_cases_is_two_lesions() -> None:
    assert froc([candidate("a", 2, 0), candidate("b", 1, 0)], 2, 2).cpm == 1


def test_froc_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="at least one case"):
        froc([], 0, 0)
    with pytest.raises(ValueError, match="finite"):
        froc([candidate("a", float("nan"))], 1, 1)
    with pytest.raises(ValueError, match="only 1"):
        froc([candidate("a", 1.0, 0, 1)], 1, 1)


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_last_point_is_the_segmentation_itself(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cases = {name: (rng.random((3, 7, 7)) > 0.85, rng.random((3, 7, 7)) > 0.85) for name in "abc"}
    matches = {name: lesion_matches(*masks) for name, masks in cases.items()}
    candidates = [
        c for name, m in matches.items() for c in scored_candidates(name, m, rng.random(len(m.candidate_sizes)))
    ]
    pooled = pool_lesions(lesion_counts(m) for m in matches.values())
    curve = froc(candidates, pooled.lesions, len(cases))
    assert curve.sensitivity is not None
    assert curve.sensitivity[-1] == pytest.approx(lesion_sensitivity(pooled))
    assert curve.false_positives_per_case[-1] == pytest.approx(pooled.false_candidates / 3)
    assert list(curve.sensitivity) == sorted(curve.sensitivity)
    rescaled = [ScoredCandidate(c.case, 5 * c.score - 2, c.hits, c.false) for c in candidates]
    assert froc(rescaled, pooled.lesions, 3).sensitivity_at == curve.sensitivity_at
