"""Ranking: the better explanation stands alone, a prediction may support the reference, sentences tell it plainly."""

import numpy as np

from autoseg.auditing.corrections import Correction
from autoseg.auditing.disagreement import Part
from autoseg.auditing.labels_alone import LabelFacts
from autoseg.auditing.ranking import Prediction, rank_cases
from autoseg.records.audit import AuditedCase

NAMES = ("liver", "left kidney", "right kidney")
PAIR = ((1, 2),)
NUM_CASES = 20


def facts_of(volumes=(1000.0, 100.0, 100.0), distance_mm: float = 80.0) -> LabelFacts:
    centres = tuple(
        (place, 0.0, 0.0) if volume else None
        for place, volume in zip((10.0, -distance_mm / 2, distance_mm / 2), volumes, strict=True)
    )
    return LabelFacts(tuple(volumes), centres, tuple((1, 2, 3) if volume else None for volume in volumes), 1.0, 1e6)


def says(corrections=(), parts=(), volumes=(1000.0, 100.0, 100.0), dice=(0.9, 0.9, 0.9)) -> Prediction:
    return Prediction(tuple(corrections), tuple((part, (4, 5, 6)) for part in parts), tuple(volumes), tuple(dice))


def part(kind="missed_part", target=0, other=None, weight=500.0, gain=0.2) -> Part:
    return Part(kind, target, other, weight * 1.1, 0.95, gain, weight, (1.0, 1.0, 1.0))  # type: ignore[arg-type]


def usual_corrections() -> list[Correction]:
    whole = (0, 1, 2)
    return [
        Correction("swapped", (1, 2), (0.9, 0.9), (0.0, 0.0)),
        Correction("shifted", whole, (0.9,) * 3, (0.9,) * 3, move_mm=(0, 0, 0), is_whole=True),
        Correction("shifted", (0,), (0.9,), (0.9,), move_mm=(0, 0, 0)),
        Correction("too_small", (0,), (0.9,), (0.9,), distance_mm=0.0),
    ]


def rank(facts=None, predictions=None) -> dict[str, AuditedCase]:
    all_facts = {f"c{k}": facts_of() for k in range(NUM_CASES)} | (facts or {})
    usual = {case: says(usual_corrections()) for case in all_facts} if predictions is not None else {}
    ranked = rank_cases(all_facts, {**usual, **(predictions or {})}, NAMES, PAIR)
    assert [case.score for case in ranked] == sorted((case.score for case in ranked), reverse=True)
    assert len(ranked) == NUM_CASES
    return {case.case: case for case in ranked}


def test_nothing_unusual_has_no_suspicion() -> None:
    assert not any(case.suspicions for case in rank(predictions={}).values())
    assert not any(case.suspicions for case in rank().values())


def test_the_correction_that_adds_most_explains_the_others() -> None:
    corrections = [
        Correction("swapped", (1, 2), (0.3, 0.3), (0.0, 0.0)),
        Correction("shifted", (0, 1, 2), (0.3,) * 3, (0.9,) * 3, move_mm=(0.0, -6.0, 3.0), is_whole=True),
        Correction("shifted", (0,), (0.3,), (0.9,), move_mm=(0.0, -6.0, 3.0)),
        Correction("too_small", (0,), (0.3,), (0.5,), distance_mm=2.0),
    ]
    case = rank(predictions={"c3": says(corrections, [part()])})["c3"]
    (suspicion,) = case.suspicions
    assert (suspicion.kind, suspicion.targets, suspicion.voxel) == ("shifted", NAMES, None)
    assert suspicion.why == (
        "the whole label map looks shifted: moving it 6.0 mm to the back and 3.0 mm to the head raises the agreement "
        "with the held-out prediction from Dice 0.30 to 0.90."
    )
    assert suspicion.score == case.score > 3.5


def test_a_part_that_adds_more_than_growing_explains_it() -> None:
    grown = Correction("too_small", (0,), (0.6,), (0.75,), distance_mm=2.0)
    corrections = [*usual_corrections()[:3], grown]
    case = rank(predictions={"c3": says(corrections, [part(gain=0.3), part(weight=300.0, gain=0.2, other=1)])})["c3"]
    assert [suspicion.kind for suspicion in case.suspicions] == ["missed_part", "missed_part"]
    assert case.suspicions[0].voxel == (4, 5, 6)
    assert "550 mm3 that are labelled background" in case.suspicions[0].why
    assert "330 mm3 that are labelled left kidney" in case.suspicions[1].why
    less = rank(predictions={"c3": says(corrections, [part(gain=0.1)])})["c3"]
    assert [suspicion.kind for suspicion in less.suspicions] == ["too_small"]


def test_exchanged_sides_are_told_once_with_their_gain() -> None:
    corrections = [Correction("swapped", (1, 2), (0.0, 0.0), (0.9, 0.9)), *usual_corrections()[1:]]
    case = rank({"c3": facts_of(distance_mm=-80)}, {"c3": says(corrections)})["c3"]
    assert [(s.kind, s.gain) for s in case.suspicions] == [("swapped", 0.9)]
    alone = rank({"c3": facts_of(distance_mm=-80)})["c3"]
    (suspicion,) = alone.suspicions
    assert suspicion.kind == "swapped_sides"
    assert (
        "right kidney is 80 mm to the patient's left of left kidney, usually 80 mm to the patient's right"
        in suspicion.why
    )


def test_a_missing_class_asks_the_prediction_first() -> None:
    missing = facts_of((1000.0, 0.0, 100.0))
    seen = rank({"c3": missing}, {"c3": says(usual_corrections(), [part("missing_class", 1, weight=90.0, gain=0.9)])})
    (suspicion,) = seen["c3"].suspicions
    assert suspicion.kind == "missing_class"
    assert "95% of the cases have it" in suspicion.why
    assert rank({"c3": missing}, {"c3": says(usual_corrections())})["c3"].suspicions == ()
    (suspicion,) = rank({"c3": missing})["c3"].suspicions
    assert (suspicion.kind, suspicion.gain) == ("missing_class", None)


def test_a_class_that_few_cases_have_is_not_expected() -> None:
    facts = {f"c{k}": facts_of((1000.0, 100.0, 100.0 if k < 5 else 0.0)) for k in range(NUM_CASES)}
    seen = rank(facts, {"c9": says(usual_corrections(), [part("missing_class", 2, weight=90.0)])})
    assert [suspicion.kind for suspicion in seen["c9"].suspicions] == ["missed_part"]
    assert not any(case.suspicions for case in rank(facts).values())


def test_an_unusual_volume_that_the_prediction_confirms_is_no_suspicion() -> None:
    small = facts_of((300.0, 100.0, 100.0))
    rng = np.random.default_rng(0)
    others = {f"c{k}": facts_of((1000 * float(np.exp(rng.normal(0, 0.1))), 100.0, 100.0)) for k in range(NUM_CASES)}
    facts = {**others, "c3": small}
    (alone,) = rank(facts)["c3"].suspicions
    assert (alone.kind, alone.volume_mm3) == ("outlying_volume", 300.0)
    assert alone.why.startswith("liver has 300 mm3, cases of this size usually have 9")
    predictions = {case: says(usual_corrections(), volumes=f.volumes_mm3) for case, f in facts.items()}
    assert rank(facts, predictions)["c3"].suspicions == ()
    against = {**predictions, "c3": says(usual_corrections())}
    (suspicion,) = rank(facts, against)["c3"].suspicions
    assert suspicion.why.endswith("the held-out prediction has 1.0 ml.")
    too_large_too = {**predictions, "c3": says(usual_corrections(), volumes=(100.0, 100.0, 100.0))}
    assert rank(facts, too_large_too)["c3"].suspicions == (), "the prediction is smaller still"


def test_a_class_that_the_model_finds_unsteadily_accuses_quietly() -> None:
    """The same gain: of an organ that is always found, and of one that is found in every other case."""
    gain = Correction("too_small", (0,), (0.6,), (0.8,), distance_mm=2.0)

    def of(case: int, dice: float) -> Prediction:
        corrections = [
            *usual_corrections()[:3],
            gain if case == 3 else Correction("too_small", (0,), (dice,), (dice,), distance_mm=0.0),
        ]
        return says(corrections, dice=(dice, 0.9, 0.9))

    steady = rank(predictions={f"c{k}": of(k, 0.9) for k in range(NUM_CASES)})
    unsteady = rank(predictions={f"c{k}": of(k, 0.9 if k % 2 else 0.4) for k in range(NUM_CASES)})
    assert steady["c3"].suspicions
    assert not unsteady["c3"].suspicions
    assert steady["c3"].score > 3 * unsteady["c3"].score


def test_areas_of_pictures_are_called_so() -> None:
    facts = {f"c{k}": facts_of() for k in range(NUM_CASES)} | {"c3": facts_of((300.0, 100.0, 100.0))}
    facts = {case: LabelFacts(**{**vars(of_case), "is_area": True}) for case, of_case in facts.items()}
    assert "liver has 300 mm2, cases of this size usually have 1000 mm2" in rank(facts)["c3"].suspicions[0].why
