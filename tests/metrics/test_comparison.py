"""Paired comparison of two evaluations: hand-computed rows, correction over all rows, what is left out."""

import pytest
from scipy import stats

from autoseg.metrics.build import score_counts, summarize
from autoseg.metrics.comparison import MEAN, compare_evaluations
from autoseg.metrics.overlap import Counts
from autoseg.records.results import Evaluation, Score
from autoseg.records.scoring import Scoring


def score(dice: float | None, **more: float | None) -> Score:
    return score_counts(Counts(0, 0, 0), 1.0).model_copy(update={"dice": dice, **more})


def evaluation(a: list[float | None], b: list[float | None], hd95: list[float | None] | None = None) -> Evaluation:
    hd95 = hd95 or [None] * len(a)
    cases = {
        f"c{n}": {"a": score(x, hd95_mm=h), "b": score(y)} for n, (x, y, h) in enumerate(zip(a, b, hd95, strict=True))
    }
    return summarize("", cases)


def test_rows_by_hand() -> None:
    first = evaluation(
        [0.9, 0.8, 0.9, 0.7, 0.95, 0.9], [0.5, None, 0.4, 0.6, 0.5, 0.5], [1.0, 2.0, 1.0, None, 1.0, 2.0]
    )
    second = evaluation(
        [0.8, 0.7, 0.85, 0.6, 0.9, 0.7], [0.5, 0.9, None, 0.6, 0.5, 0.5], [3.0, 4.0, 3.5, 1.0, 2.0, 4.0]
    )
    comparison = compare_evaluations(first, second, names=("A", "B"))
    rows = {(row.metric, row.target): row for row in comparison.rows}
    assert list(rows) == [("dice", MEAN), ("dice", "a"), ("dice", "b"), ("hd95_mm", MEAN), ("hd95_mm", "a")]
    a = rows["dice", "a"]
    assert a.first == pytest.approx(5.15 / 6)
    assert a.difference.mean == pytest.approx((0.1 + 0.1 + 0.05 + 0.1 + 0.05 + 0.2) / 6)
    assert (a.better, a.num_undefined) == ("first", 0)
    assert a.p_value == pytest.approx(stats.wilcoxon([0.1, 0.1, 0.05, 0.1, 0.05, 0.2]).pvalue)
    b = rows["dice", "b"]
    assert (b.num_undefined, b.difference.mean, b.p_value, b.better) == (2, 0, 1.0, None)
    assert rows["hd95_mm", "a"].better == "first"  # the smaller distance
    assert rows["hd95_mm", "a"].num_undefined == 1
    # a case in which only one target is defined on both sides counts with that target
    mean = rows["dice", MEAN]
    assert mean.difference.mean == pytest.approx((0.05 + 0.1 + 0.05 + 0.05 + 0.025 + 0.1) / 6)
    tested = sorted(row.p_value for row in comparison.rows)
    assert min(row.p_holm for row in comparison.rows) == pytest.approx(min(1.0, 5 * tested[0]))
    assert all(row.p_holm >= row.p_value for row in comparison.rows)


def test_sides_exchanged() -> None:
    first, second = evaluation([0.9, 0.8, 0.7], [0.5] * 3), evaluation([0.7, 0.7, 0.6], [0.6] * 3)
    there, back = compare_evaluations(first, second), compare_evaluations(second, first)
    for mine, theirs in zip(there.rows, back.rows, strict=True):
        assert mine.difference.mean == pytest.approx(-theirs.difference.mean)
        assert mine.p_value == theirs.p_value
        assert {mine.better, theirs.better} in ({"first", "second"}, {None})


def test_only_common_cases() -> None:
    first = evaluation([0.9, 0.8], [0.5, 0.5])
    second = summarize("", {"c1": first.cases["c1"], "other": first.cases["c0"]})
    comparison = compare_evaluations(first, second)
    assert comparison.cases == ("c1",)
    assert comparison.left_out == ("c0", "other")
    assert comparison.rows[0].p_holm is None
    with pytest.raises(ValueError, match="no case in common"):
        compare_evaluations(first, summarize("", {"other": first.cases["c0"]}))


def test_only_what_was_scored_alike() -> None:
    first = evaluation([0.9], [0.5])
    second = summarize("", first.cases, scoring=Scoring(groups=("surface",)))
    with pytest.raises(ValueError, match="same way"):
        compare_evaluations(first, second)
