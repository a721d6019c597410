"""What a classifier is better by than the best rule: planted answers, and curves of resamples against `froc`."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.metrics.detection import ScoredCandidate, froc
from autoseg.postprocessing.advantage import advantages, resampled_cpm
from autoseg.postprocessing.methods import Decisions, as_they_are, measured
from autoseg.postprocessing.rows import Painting, Rows, painting
from autoseg.records.labels import LabelScheme
from tests.postprocessing.tables import NAMES, make_rows, random_rows

LABELS = LabelScheme(class_names=("background", "lesion"), class_values=(0, 1), num_entries=2)
HOW: Painting = painting(LABELS)


def ranked(rows: Rows, scores: np.ndarray) -> Decisions:
    return Decisions(rows.is_decided, scores, rows.is_decided)


@given(st.integers(0, 10**6), st.booleans())
def test_a_resample_has_the_curve_of_its_cases(seed: int, has_ties: bool) -> None:
    """Weights are counts: the curve of a resample is that of the cases written down that often."""
    rng = np.random.default_rng(seed)
    rows = random_rows(seed, num_cases=5, per_case=(1, 4))
    scores = rng.integers(0, 4, len(rows.target)) / 4 if has_ties else rng.random(len(rows.target))
    counts = rng.integers(0, 3, 5)
    counts[rng.integers(5)] += 1
    found = resampled_cpm(rows, ranked(rows, scores), 0, counts[None].astype(float))
    hit_of = dict(zip(rows.hit_rows.tolist(), rows.hit_lesions.tolist(), strict=True))
    candidates = [
        ScoredCandidate(f"{case}-{copy}", float(scores[row]), (hit_of[row],) if row in hit_of else (), not hit)
        for row, (case, hit) in enumerate(zip(rows.case.tolist(), rows.truth.tolist(), strict=True))
        for copy in range(counts[case])
    ]
    lesions = int(counts[rows.lesion_case].sum())
    assert found[0] == pytest.approx(froc(candidates, lesions, int(counts.sum())).cpm, nan_ok=not lesions)


def test_all_cases_once_give_the_cpm_of_the_row() -> None:
    rows = random_rows(3)
    row = measured(rows, HOW, as_they_are(rows), "none")
    once = resampled_cpm(rows, as_they_are(rows), 0, np.ones((1, len(rows.cases))))
    assert once[0] == pytest.approx(row.cpm)


def test_a_lesion_counts_once_however_many_find_it() -> None:
    rows = make_rows([[1, 1]], [[5, 5]], np.full((2, len(NAMES)), 0.5))
    rows.hit_lesions[:] = 0  # both find the first of the two lesions
    assert resampled_cpm(rows, ranked(rows, np.array([0.9, 0.1])), 0, np.ones((1, 1)))[0] == 0.5


def test_better_than_the_best_rule_by_hand() -> None:
    """Each of 8 cases has a lesion of 10 voxels and a false component of 10; three ways to decide."""
    num = 8
    rows = make_rows([[1, 0]] * num, [[10, 10]] * num, np.full((2 * num, len(NAMES)), 0.5))
    everything, truth = np.ones(2 * num, dtype=bool), rows.truth == 1
    half = truth | (rows.case % 2 == 0)
    by_truth = rows.truth.astype(float)
    rules = {
        "all": Decisions(everything, 1 - by_truth, everything),
        "half": Decisions(half, 1 - by_truth, everything),
        "nothing_left": Decisions(~everything, by_truth, everything),
    }
    way = Decisions(truth, by_truth, everything)
    found = advantages(rows, HOW, {"learned": way}, rules, margin=0.02)["learned"]
    assert found["dice"].rule == "half"
    assert found["lesion_f1"].rule == "half"
    assert found["dice"].change.mean == pytest.approx(1 - (0.5 + 0.5 * 2 / 3))
    assert found["lesion_f1"].change.mean == pytest.approx(1 - (0.5 + 0.5 * 2 / 3))
    # Leaving nothing has no false positive either, but finds no lesion: it is not asked for its false positives.
    assert found["false_positives"].rule == "half"
    assert found["false_positives"].change.mean == pytest.approx(0.5)
    low, high = found["false_positives"].change.low, found["false_positives"].change.high
    assert low is not None
    assert high is not None
    assert 0 <= low < 0.5 < high <= 1
    # The rule that ranks by the truth is no worse in CPM.
    assert found["cpm"].rule == "nothing_left"
    assert found["cpm"].change.mean == 0


def test_one_patient_has_no_interval() -> None:
    rows = make_rows([[1, 0]], [[10, 10]], np.full((2, len(NAMES)), 0.5))
    decided = as_they_are(rows)
    change = advantages(rows, HOW, {"way": decided}, {"rule": decided}, margin=0.02)["way"]["dice"].change
    assert change.mean == 0
    assert change.low is None
    assert change.high is None
