"""The choice by nested cross-validation: honest on noise, able on a planted signal, careful with lesions."""

from dataclasses import replace

import numpy as np
import pytest

from autoseg.postprocessing.candidates import CANDIDATES, LEARNED, Problem, divided
from autoseg.postprocessing.choose import choose_components
from autoseg.postprocessing.effects import dice_of, outcome, untouched
from autoseg.postprocessing.nested import area_under_roc, compare, nested_decisions
from autoseg.postprocessing.rows import Rows, painting
from autoseg.records.postprocessing import CandidateScore, ComponentSettings, LearningSettings
from tests.postprocessing.tables import NAMES, make_rows, random_rows
from tests.postprocessing.test_find import ONE

COMPONENTS = ComponentSettings()
SIMPLE = tuple(name for name in CANDIDATES if name not in LEARNED)


def choose(rows: Rows, methods=tuple(CANDIDATES), **settings):
    return choose_components(rows, ONE, COMPONENTS, LearningSettings(**settings), methods)


def score(choice, method: str) -> CandidateScore:
    return next(score for score in choice.rule.scores if score.method == method)


def planted(seed: int, num_cases: int = 20, signal: float = 6.0) -> Rows:
    """Truth follows shape (two features whose meaning has no sign), not size and not confidence."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(8, 14, num_cases)
    features = rng.random((counts.sum(), len(NAMES)))
    odds = signal * (features[:, NAMES.index("sphericity")] + features[:, NAMES.index("flatness")] - 1)
    truth = (rng.random(len(odds)) < 1 / (1 + np.exp(-3 * odds))).astype(int)
    ends = np.cumsum(counts)[:-1]
    sizes = rng.integers(20, 100, len(odds))
    return make_rows([t.tolist() for t in np.split(truth, ends)], [s.tolist() for s in np.split(sizes, ends)], features)


def count_of_accepted(seeds: range, **settings) -> int:
    return sum(choose(random_rows(seed, num_cases=12), **settings).rule.targets[0].method in LEARNED for seed in seeds)


def test_no_classifier_is_accepted_on_noise() -> None:
    """Features that say nothing; the slow test below asks twenty times."""
    assert count_of_accepted(range(100, 102), num_folds=3) == 0


@pytest.mark.slow
def test_no_classifier_is_accepted_on_noise_in_nineteen_of_twenty_seeds() -> None:
    assert count_of_accepted(range(20)) <= 1


@pytest.mark.slow
def test_no_classifier_is_accepted_on_noise_by_lesion_f1() -> None:
    accepted = [choose(random_rows(s, num_cases=12), objective="lesion_f1").rule.targets[0].method for s in range(20)]
    assert sum(method in LEARNED for method in accepted) <= 1


def test_why_patients_are_never_divided() -> None:
    """Truth and some features are those of the patient and say nothing about the next one. Four scans a patient."""
    rng = np.random.default_rng(0)
    num_patients, scans, each = 16, 4, 6
    truth_of = np.arange(num_patients) % 2
    mark = rng.random((num_patients, len(NAMES)))
    patient = np.repeat(np.arange(num_patients), scans)
    truth = [[int(truth_of[p])] * each for p in patient]
    features = mark[np.repeat(patient, each)] + rng.normal(0, 0.001, (len(patient) * each, len(NAMES)))
    sizes = [rng.integers(5, 200, each).tolist() for _ in patient]
    grouped = make_rows(truth, sizes, features, groups=[f"p{p}" for p in patient], missed=20)
    broken = replace(grouped, groups=grouped.cases)
    honest, leaking = (score(choose(rows, ("boosting",)), "boosting").auc for rows in (grouped, broken))
    assert leaking > 0.95
    assert honest < 0.7


def test_a_planted_signal_is_learned() -> None:
    choice = choose(planted(0))
    nothing, accepted = score(choice, "nothing"), score(choice, choice.rule.targets[0].method)
    assert choice.rule.targets[0].method in LEARNED
    assert accepted.accepted
    assert accepted.low > 0
    assert accepted.false_components_per_case <= nothing.false_components_per_case / 2
    assert accepted.lesion_sensitivity >= nothing.lesion_sensitivity - 0.02
    assert accepted.auc > 0.9
    assert {name for name, _ in choice.rule.importances["a"][:2]} == {"sphericity", "flatness"}
    assert not any(score(choice, name).accepted for name in SIMPLE)
    assert any("accepted" in reason and "a: " in reason for reason in choice.reasons)


def test_scores_are_those_of_the_nested_decisions() -> None:
    rows = planted(1, num_cases=10)
    choice = choose(rows, ("logistic",))
    found = outcome(rows, painting(ONE), choice.keep)
    assert np.nanmean(dice_of(rows, painting(ONE), found)) == pytest.approx(score(choice, "logistic").score)
    assert choice.rule.counts["a"] == ((rows.truth == 1).sum(), (rows.truth == 0).sum(), 0, 0)


def test_nothing_of_a_patient_enters_what_decides_about_it() -> None:
    """Whatever one patient's truths, sizes and features are, decisions about it by others' rules stay the same."""
    rows = planted(2, num_cases=6)
    settings = LearningSettings(num_folds=3, leave_one_out_below=2)
    for method in ("minimum_volume", "calibrated_logistic", "calibrated_boosting"):
        before = nested_decisions(Problem(rows, painting(ONE), 0, untouched(rows), settings), CANDIDATES[method])
        own = rows.case == 3
        turned = replace(
            rows,
            truth=np.where(own, 1 - rows.truth, rows.truth),
            atom_reference=np.where(own[:, None], rows.atom_reference[:, ::-1], rows.atom_reference),
            is_false=np.where(own, ~rows.is_false, rows.is_false),
        )
        after = nested_decisions(Problem(turned, painting(ONE), 0, untouched(rows), settings), CANDIDATES[method])
        np.testing.assert_array_equal(before.keep[own], after.keep[own], err_msg=method)
        np.testing.assert_array_equal(before.scores[own], after.scores[own], err_msg=method)


def test_misses_are_restored() -> None:
    """Candidates of lower thresholds that look like true components do come back, the others stay away."""
    rng = np.random.default_rng(0)
    truth, sizes, decided, columns = [], [], [], []
    for _ in range(16):
        is_true = rng.integers(0, 2, 12)
        truth.append(is_true.tolist())
        sizes.append(rng.integers(20, 60, 12).tolist())
        decided.append(([True] * 6) + [False] * 6)
        noise = rng.random((12, len(NAMES)))
        noise[:, NAMES.index("sphericity")] = is_true + rng.normal(0, 0.2, 12)
        columns.append(noise)
    rows = make_rows(truth, sizes, np.concatenate(columns), decided=decided)
    choice = choose(rows)
    accepted, nothing = score(choice, choice.rule.targets[0].method), score(choice, "nothing")
    assert choice.rule.targets[0].restore_from is not None
    assert accepted.restored > 30
    assert accepted.lesion_sensitivity > nothing.lesion_sensitivity + 0.3
    assert accepted.false_components_per_case < nothing.false_components_per_case / 2


def test_keep_largest_stands_where_it_is_enough() -> None:
    rng = np.random.default_rng(0)
    truth = [[1, *([0] * 4)] for _ in range(12)]
    sizes = [[500, *rng.integers(5, 100, 4).tolist()] for _ in truth]
    choice = choose(make_rows(truth, sizes, rng.random((60, len(NAMES)))))
    rule = choice.rule.targets[0]
    assert (rule.method, rule.keep_largest) == ("keep_largest", "own")
    assert score(choice, "keep_largest").false_components_per_case == 0
    assert not choice.rule.needs_probabilities
    assert any("classifiers are not tried" in reason for reason in choice.reasons)  # 12 true ones only


def test_lesions_are_not_sold_for_dice() -> None:
    """Small lesions among small false components: removing both would raise Dice."""
    rng = np.random.default_rng(0)
    truth = [[1, 1, 1, *([0] * 20)] for _ in range(12)]
    sizes = [[2000, 10, 10, *([10] * 20)] for _ in truth]
    rows = make_rows(truth, sizes, rng.random((12 * 23, len(NAMES))))
    careful = choose(rows, SIMPLE)
    assert careful.rule.targets[0].method == "nothing"
    assert any("loses 66.7 % of the lesions" in reason for reason in careful.reasons)
    assert score(careful, "minimum_volume").removed == 0  # not even thresholds are chosen so
    assert choose(rows, SIMPLE, sensitivity_margin=1.0).rule.targets[0].method == "keep_largest"


def test_few_patients_are_left_out_one_by_one() -> None:
    rows = random_rows(0, num_cases=6)
    everyone = np.ones(6, dtype=bool)
    parts = divided(rows, everyone, LearningSettings())
    assert len(parts) == 6
    assert (np.sum(parts, axis=0) == 1).all()
    many = random_rows(0, num_cases=23)
    parts = divided(many, np.ones(23, dtype=bool), LearningSettings())
    assert len(parts) == 5
    assert (np.sum(parts, axis=0) == 1).all()
    loads = [np.isin(many.case, np.flatnonzero(part)).sum() for part in parts]
    assert max(loads) <= 1.3 * min(loads)
    shared = replace(many, groups=tuple(f"p{i // 4}" for i in range(23)))
    for part in divided(shared, np.ones(23, dtype=bool), LearningSettings()):
        inside = {shared.groups[i] for i in np.flatnonzero(part)}
        assert not inside & {shared.groups[i] for i in np.flatnonzero(~part)}


def test_too_few_components_are_not_learned_from() -> None:
    rows = random_rows(0, num_cases=5, per_case=(2, 4))
    choice = choose(rows)
    assert {s.method for s in choice.rule.scores} == set(SIMPLE)
    assert any("20 are needed" in reason for reason in choice.reasons)


def test_intervals_draw_patients() -> None:
    """Two scans of each patient that agree carry no more than one."""
    rows = random_rows(0, num_cases=10)
    values = np.random.default_rng(0).random((10, 1))
    single = compare(rows, values, values * 0)
    twice = replace(rows, cases=tuple(map(str, range(20))), groups=tuple(f"p{i // 2}" for i in range(20)))
    doubled = compare(twice, np.repeat(values, 2, axis=0), np.zeros((20, 1)))
    assert (single.mean, single.low, single.high) == pytest.approx((doubled.mean, doubled.low, doubled.high))
    nothing = compare(rows, np.full((10, 1), np.nan), values)
    assert nothing.mean is None
    assert nothing.low is None


def test_area_under_roc_by_hand() -> None:
    assert area_under_roc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])) == 0.75
    assert area_under_roc(np.array([0.5, 0.5]), np.array([0, 1])) == 0.5
    assert area_under_roc(np.array([0.5]), np.array([1])) is None


def test_the_same_table_gives_the_same_rule() -> None:
    again = choose(planted(3, num_cases=5), LEARNED[:3], num_folds=2, leave_one_out_below=2).rule
    assert choose(planted(3, num_cases=5), LEARNED[:3], num_folds=2, leave_one_out_below=2).rule == again


@pytest.mark.parametrize(("num_cases", "accepted"), [(5, False), (6, True)])
def test_fewer_than_six_patients_prove_nothing(num_cases: int, accepted: bool) -> None:
    """In every case the false component is smaller than the true one: a minimum volume is right each time."""
    features = np.full((2 * num_cases, len(NAMES)), 0.5)
    rows = make_rows([[1, 0]] * num_cases, [[40 + i, 10] for i in range(num_cases)], features)
    choice = choose(rows, methods=("nothing", "minimum_volume"))
    assert (choice.rule.targets[0].method == "minimum_volume") == accepted
    assert (score(choice, "minimum_volume").low or 0.0) > 0  # the interval alone would accept it
    assert ("5 patients prove nothing (6 could)" in score(choice, "minimum_volume").reason) != accepted
