"""Ways of reducing false positives on made-up tables with a planted answer."""

import numpy as np
import pytest

from autoseg.postprocessing.effects import untouched
from autoseg.postprocessing.methods import (
    VARIANTS,
    Decisions,
    as_they_are,
    compared,
    decide_nested,
    measured,
    problems_of,
)
from autoseg.postprocessing.rows import Painting, Rows, painting
from autoseg.records.labels import LabelScheme
from autoseg.records.postprocessing import LearningSettings
from tests.postprocessing.tables import NAMES, make_rows, random_rows

LABELS = LabelScheme(class_names=("background", "lesion"), class_values=(0, 1), num_entries=2)
HOW: Painting = painting(LABELS)
SETTINGS = LearningSettings()


def planted(seed: int = 0, num_cases: int = 14) -> Rows:
    """False components lie low in the body and are flat; neither size nor probability tells them from true ones."""
    rows = random_rows(seed, num_cases)
    features = rows.features.copy()
    low = NAMES.index("body_z")
    features[:, low] = np.where(rows.truth == 1, features[:, low] * 0.4 + 0.6, features[:, low] * 0.5)
    truth = [rows.truth[rows.case == number].tolist() for number in range(num_cases)]
    sizes = [rows.sizes[rows.case == number].tolist() for number in range(num_cases)]
    return make_rows(truth, sizes, features, missed=20)


def test_nothing_by_hand() -> None:
    features = np.full((4, len(NAMES)), 0.5)
    features[:, NAMES.index("probability_mean")] = [0.9, 0.8, 0.7, 0.6]
    rows = make_rows([[1, 0], [0, 1]], [[10, 5], [5, 10]], features, missed=10)
    row = measured(rows, HOW, as_they_are(rows), "none")
    assert row.false_positives_per_case == 1.0
    assert row.lesion_sensitivity == 0.5  # 2 of 4 lesions
    assert row.dice == pytest.approx(2 * 10 / (15 + 20))
    curve = row.targets["lesion"].froc
    assert curve.false_positives_per_case == (0.0, 0.5, 1.0, 1.0)
    assert curve.sensitivity == (0.25, 0.25, 0.25, 0.5)
    # At 1/8 and 1/4 the first point, at 1/2 still a quarter, from 1 on a half.
    assert row.cpm == pytest.approx((3 * 0.25 + 4 * 0.5) / 7)
    same = compared(row, rows, untouched(rows), rows, HOW)
    assert same.false_positives_change is not None
    assert same.false_positives_change.mean == same.false_positives_change.high == 0.0


def test_a_planted_feature_is_found_by_classifiers_alone() -> None:
    rows = planted()
    none = measured(rows, HOW, as_they_are(rows), "none")
    problems, results = problems_of(rows, HOW, SETTINGS), {}
    for method, variant in VARIANTS:
        decisions = decide_nested(rows, problems, variant)
        assert isinstance(decisions, Decisions)
        row = compared(measured(rows, HOW, decisions, method, variant), rows, decisions.keep, rows, HOW)
        results[variant] = row
        assert row.lesion_sensitivity >= none.lesion_sensitivity - 0.1
    for name in ("logistic", "boosting"):
        learned = results[name]
        assert learned.false_positives_per_case < 0.3 * none.false_positives_per_case
        assert learned.false_positives_change.high < 0
        assert learned.dice_change.low > 0
        assert learned.cpm > none.cpm + 0.1
        for rule in ("keep_largest", "minimum_volume", "minimum_confidence"):
            assert learned.false_positives_per_case < results[rule].false_positives_per_case


def test_a_way_with_a_score_keeps_all_components_on_its_curve() -> None:
    rows = planted()
    learned = decide_nested(rows, problems_of(rows, HOW, SETTINGS), "logistic")
    largest = decide_nested(rows, problems_of(rows, HOW, SETTINGS), "keep_largest")
    assert isinstance(learned, Decisions)
    assert isinstance(largest, Decisions)
    assert learned.ranked.all()
    assert not learned.keep.all()
    np.testing.assert_array_equal(largest.ranked, largest.keep)
    np.testing.assert_array_equal(largest.scores, rows.column("probability_mean"))


def test_too_little_to_learn_from_is_said() -> None:
    few = random_rows(0, num_cases=2)
    assert "2 patients, 3 are needed" in str(decide_nested(few, problems_of(few, HOW, SETTINGS), "minimum_volume"))
    small = random_rows(0, num_cases=4, per_case=(1, 3))
    assert "20 are needed" in str(decide_nested(small, problems_of(small, HOW, SETTINGS), "boosting"))
    assert isinstance(decide_nested(small, problems_of(small, HOW, SETTINGS), "minimum_volume"), Decisions)


def test_changes_are_paired_with_another_tables_cases() -> None:
    base, other = planted(1), planted(2)
    row = compared(measured(other, HOW, as_they_are(other), "cascade"), other, untouched(other), base, HOW)
    before, after = (measured(table, HOW, as_they_are(table), "none") for table in (base, other))
    expected = after.false_positives_per_case - before.false_positives_per_case
    assert row.false_positives_change.mean == pytest.approx(expected)
    assert row.dice_change.mean == pytest.approx(after.dice - before.dice)
    with pytest.raises(AssertionError):
        compared(row, planted(1, num_cases=5), untouched(planted(1, num_cases=5)), base, HOW)
