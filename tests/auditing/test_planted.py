"""The measure of the audit: four planted errors among forty cases stand in the first tenth of the ranking."""

import numpy as np
import pytest

from autoseg.records.audit import AuditedCase
from benchmarks.planted import ERRORS
from benchmarks.planted import plant as plant_error
from tests.auditing.made import LABELS, audit_made, predict, truth

NUM_CASES = 40
LOOKS = {"swapped": "swapped", "shifted": "shifted", "missing": "missing_class", "eroded": "too_small"}


def cases_with_errors(seed: int) -> tuple[dict, dict, dict[str, str]]:
    """References with four errors, predictions of what is true, and case -> error."""
    predictions = {
        f"case_{number:02d}": predict(truth(number)[0], np.random.default_rng([seed, number]))
        for number in range(NUM_CASES)
    }
    references, planted = references_with_errors(seed)
    return references, predictions, planted


def references_with_errors(seed: int) -> tuple[dict, dict[str, str]]:
    references = {f"case_{number:02d}": truth(number) for number in range(NUM_CASES)}
    names = list(references)
    planted = {}
    for number, error in zip(np.random.default_rng(seed).permutation(NUM_CASES)[: len(ERRORS)], ERRORS, strict=True):
        classes, geometry = references[names[number]]
        references[names[number]] = plant_error(error, classes, LABELS, geometry.spacing_mm), geometry
        planted[names[number]] = error
    return references, planted


@pytest.fixture(scope="module")
def audited() -> tuple[tuple[AuditedCase, ...], dict[str, str]]:
    references, predictions, planted = cases_with_errors(100)
    return audit_made(references, predictions), planted


def test_planted_errors_are_in_the_first_tenth(audited: tuple[tuple[AuditedCase, ...], dict[str, str]]) -> None:
    ranked, planted = audited
    assert {case.case for case in ranked[: NUM_CASES // 10]} == set(planted)


def test_planted_errors_are_called_by_their_names(audited: tuple[tuple[AuditedCase, ...], dict[str, str]]) -> None:
    ranked, planted = audited
    first = {case.case: case.suspicions[0].kind for case in ranked if case.case in planted}
    assert first == {case: LOOKS[error] for case, error in planted.items()}


def test_few_of_the_other_cases_are_suspected(audited: tuple[tuple[AuditedCase, ...], dict[str, str]]) -> None:
    """The model is wrong about lesions in half of the cases, and its errors accuse no reference."""
    ranked, planted = audited
    scores = [case.score for case in ranked if case.case not in planted]
    assert max(scores) < min(case.score for case in ranked if case.case in planted)
    assert sum(bool(case.suspicions) for case in ranked if case.case not in planted) <= NUM_CASES // 4


def test_without_predictions_what_labels_tell_is_found() -> None:
    references, planted = references_with_errors(100)
    ranked = audit_made(references, {})
    of_error = {planted[case.case]: case for case in ranked if case.case in planted}
    assert {planted.get(case.case) for case in ranked[:2]} == {"swapped", "missing"}
    assert of_error["swapped"].suspicions[0].kind == "swapped_sides"
    assert of_error["missing"].suspicions[0].kind == "missing_class"
    assert "left kidney" in of_error["missing"].suspicions[0].why
    assert sum(bool(case.suspicions) for case in ranked) <= 4, "a quarter of the cases has no lesion, which is usual"
    assert not any(case.has_prediction for case in ranked)
    assert all(suspicion.gain is None for case in ranked for suspicion in case.suspicions)


@pytest.mark.slow
def test_ten_draws_find_all_but_a_few_errors_in_the_first_tenth() -> None:
    found = 0
    for seed in range(200, 210):
        references, predictions, planted = cases_with_errors(seed)
        ranked = audit_made(references, predictions)
        found += len({case.case for case in ranked[: NUM_CASES // 10]} & set(planted))
    assert found >= 39


@pytest.mark.slow
def test_a_rater_who_swaps_every_fifth_case_does_not_hide_in_numbers() -> None:
    _, predictions, _ = cases_with_errors(300)
    references = {f"case_{number:02d}": truth(number) for number in range(NUM_CASES)}
    swapped = list(references)[::5]
    for case in swapped:
        classes, geometry = references[case]
        references[case] = plant_error("swapped", classes, LABELS, geometry.spacing_mm), geometry
    for ranked in (audit_made(references, predictions), audit_made(references, {})):
        assert {case.case for case in ranked[: len(swapped)]} == set(swapped)
        assert all(case.suspicions[0].kind in ("swapped", "swapped_sides") for case in ranked[: len(swapped)])
