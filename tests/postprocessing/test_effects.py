"""Matched components: what the table foretells is what rewriting segmentations gives, and truth is as its rule says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.metrics.detection import lesion_counts, lesion_f1, lesion_matches
from autoseg.metrics.overlap import confusion_matrix, dice, target_counts
from autoseg.postprocessing.apply import ComponentDecisions, apply_decisions
from autoseg.postprocessing.effects import dice_of, false_components, lesion_f1_of, lesions_found, outcome, untouched
from autoseg.postprocessing.features import feature_names
from autoseg.postprocessing.find import find_components
from autoseg.postprocessing.reference_match import match_reference
from autoseg.postprocessing.rows import UNKNOWN, Rows, joined, painting, related, restricted
from autoseg.records.dataset import Case
from autoseg.records.detection import LesionRule
from autoseg.records.labels import LabelScheme, Target
from autoseg.records.postprocessing import ComponentSettings, LearningSettings, TruthRule
from tests.inference.whole import in_memory
from tests.pipeline.fakes import oblique_grid
from tests.postprocessing.test_apply import meta_of
from tests.postprocessing.test_find import ONE, REGIONS, TWO

IGNORING = TWO.model_copy(update={"ignore_value": 9})
CROSSING = REGIONS.model_copy(
    update={
        "regions": (
            Target(name="p", members=(1, 2)),
            Target(name="q", members=(2, 3)),
        ),
        "region_order": (1, 3),
    }
)
SETTINGS = ComponentSettings()


def judge(classes, reference, labels: LabelScheme = ONE, probabilities=None, learning=LearningSettings(), case="case"):
    """Table of one case whose crop box is everything, and what was found."""
    reader = None if probabilities is None else in_memory(probabilities)
    found = find_components(classes, reader, labels, SETTINGS)
    meta = meta_of(oblique_grid(classes.shape, (2.0, 1.0, 1.0)))
    names = feature_names(1)
    features = np.full((len(found.targets), len(names)), np.nan)
    known = Case(id=case, images=(f"{case}.nii.gz",))
    return match_reference(known, meta, found, features, names, classes, reference, labels, learning), found


def line(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int16).reshape(1, 1, -1)


def random_case(seed: int, labels: LabelScheme) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    heads = labels.num_heads
    shape = (3, 6, 6)
    if labels.has_regions:
        probabilities = (rng.random((heads, *shape)) ** 2).astype(np.float16)
        classes = np.zeros(shape, np.int16)
        for head, painted in zip(probabilities, labels.region_order, strict=True):
            classes[head > 0.5] = painted
    else:
        probabilities = rng.random((heads, *shape)) ** 2
        probabilities[0] *= 2
        probabilities = (probabilities / probabilities.sum(axis=0)).astype(np.float16)
        classes = probabilities.argmax(axis=0).astype(np.int16)
    top = labels.num_classes + (labels.ignore_value is not None)
    reference = (rng.integers(0, top, shape) * (rng.random(shape) < 0.5)).astype(np.int16)
    return classes, probabilities, reference


@given(st.integers(0, 10_000), st.sampled_from([ONE, TWO, IGNORING, REGIONS, CROSSING]))
def test_the_table_foretells_what_rewriting_gives(seed: int, labels: LabelScheme) -> None:
    classes, probabilities, reference = random_case(seed, labels)
    rows, found = judge(classes, reference, labels, probabilities)
    keep = np.random.default_rng(seed).random(len(found.targets)) < 0.5
    how = painting(labels)
    foretold = outcome(rows, how, keep)
    rewritten = apply_decisions(classes, ComponentDecisions(found, keep, keep * 1.0, rows.features, rows.names), labels)
    matrix = confusion_matrix(rewritten, reference, labels)
    for number, target in enumerate(labels.targets):
        counts = target_counts(matrix, target)
        assert foretold.true_positives[0, number] == counts.true_positives
        assert foretold.false_positives[0, number] == counts.false_positives
        assert foretold.reference[0, number] == counts.reference
        wanted = dice(counts)
        value = dice_of(rows, how, foretold)[0, number]
        assert np.isnan(value) if wanted is None else value == pytest.approx(wanted)


@given(st.integers(0, 10_000), st.sampled_from([ONE, TWO]))
def test_lesion_scores_are_those_of_rewritten_segmentations(seed: int, labels: LabelScheme) -> None:
    """Removing components only: a restored one may be cut out of what surrounds it."""
    classes, probabilities, reference = random_case(seed, labels)
    rule = LesionRule(minimum=0.3)
    rows, found = judge(classes, reference, labels, probabilities, LearningSettings(lesions=rule))
    keep = found.is_decided & (np.random.default_rng(seed).random(len(found.targets)) < 0.7)
    how = painting(labels)
    foretold = outcome(rows, how, keep)
    rewritten = apply_decisions(classes, ComponentDecisions(found, keep, keep * 1.0, rows.features, rows.names), labels)
    hit, lesions = lesions_found(rows, how, foretold)
    for number in range(len(labels.targets)):
        wanted = lesion_counts(lesion_matches(rewritten == number + 1, reference == number + 1, rule))
        assert (hit[0, number], lesions[0, number]) == (wanted.found, wanted.lesions)
        assert false_components(rows, how, foretold)[0, number] == wanted.false_candidates
        f1 = lesion_f1_of(rows, how, foretold)[0, number]
        expected = lesion_f1(wanted)
        assert np.isnan(f1) if expected is None else f1 == pytest.approx(expected)


def test_truth_by_each_rule() -> None:
    """A: 1 of 4 voxels; B: nothing; C: 2 of 2, half of the lesion."""
    classes = line(1, 1, 1, 1, 0, 1, 0, 1, 1, 0, 0)
    reference = line(0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1)

    def truths(measure: str, minimum: float) -> list[int]:
        settings = LearningSettings(truth=TruthRule(measure=measure, minimum=minimum))
        return judge(classes, reference, learning=settings)[0].truth.tolist()

    assert truths("voxels", 1) == [1, 0, 1]
    assert truths("voxels", 2) == [0, 0, 1]
    assert truths("share", 0.5) == [0, 0, 1]
    assert truths("iou", 0.25) == [1, 0, 1]
    assert truths("iou", 0.5) == [0, 0, 1]
    assert truths("iou", 0.6) == [0, 0, 0]
    rows = judge(classes, reference)[0]
    assert rows.overlap.tolist() == [1, 0, 2]
    assert rows.is_false.tolist() == [False, True, False]


def test_what_is_to_be_ignored_is_neither_true_nor_false() -> None:
    classes, reference = line(1, 1, 1, 0, 1, 1, 1, 0, 1, 1), line(3, 3, 0, 0, 3, 0, 0, 0, 3, 1)
    rows, _ = judge(classes, reference, IGNORING)
    assert rows.truth.tolist() == [UNKNOWN, 0, 1]
    assert rows.is_false.tolist() == [False, True, False]
    found = outcome(rows, painting(IGNORING), untouched(rows))
    assert found.false_positives[0].tolist() == [3, 0]


def test_reference_outside_the_crop_is_missed() -> None:
    labels, settings = ONE, LearningSettings()
    classes, reference = line(0, 1, 0), line(1, 0, 0, 1, 0)
    found = find_components(classes, None, labels, SETTINGS)
    names = feature_names(1)
    case = Case(id="case", images=("case.nii.gz",), patient="p")
    meta = meta_of(oblique_grid(reference.shape)).model_copy(update={"crop": ((0, 1), (0, 1), (2, 5))})
    rows = match_reference(case, meta, found, np.zeros((1, len(names))), names, classes, reference, labels, settings)
    assert (rows.cases, rows.groups) == (("case",), ("p",))
    hit, lesions = lesions_found(rows, painting(labels), outcome(rows, painting(labels), untouched(rows)))
    assert (hit[0, 0], lesions[0, 0]) == (1, 2)
    assert rows.truth.tolist() == [1]


def test_removing_a_region_takes_what_lies_in_it_along() -> None:
    rows, found = judge(line(1, 2, 3, 0), line(1, 2, 3, 0), REGIONS)
    how = painting(REGIONS)
    assert found.targets.tolist() == [0, 1, 2]
    gone = outcome(rows, how, np.array([False, True, True]))
    assert gone.true_positives[0].tolist() == [0, 0, 0]
    assert gone.present.tolist() == [False, False, False]
    inner = outcome(rows, how, np.array([True, False, True]))
    assert inner.true_positives[0].tolist() == [3, 0, 0]


def test_joined_tables_score_as_single_ones() -> None:
    singles = [
        judge(*random_case(seed, TWO)[::2], TWO, random_case(seed, TWO)[1], case=str(seed))[0] for seed in (1, 2, 3)
    ]
    together, how = joined(singles), painting(TWO)
    assert together.cases == ("1", "2", "3")
    keep = np.random.default_rng(0).random(len(together.target)) < 0.6
    everything = outcome(together, how, keep)
    start = 0
    for number, single in enumerate(singles):
        alone = outcome(single, how, keep[start : start + len(single.target)])
        start += len(single.target)
        np.testing.assert_array_equal(everything.true_positives[number], alone.true_positives[0])
        np.testing.assert_array_equal(
            lesions_found(together, how, everything)[0][number], lesions_found(single, how, alone)[0][0]
        )


@given(st.integers(0, 10_000))
def test_a_class_alone_scores_as_among_others(seed: int) -> None:
    classes, probabilities, reference = random_case(seed, TWO)
    rows, _ = judge(classes, reference, TWO, probabilities)
    how = painting(TWO)
    assert related(how) == [[0], [1]]
    keep = rows.is_decided & (np.random.default_rng(seed).random(len(rows.target)) < 0.5)
    part, paint, positions = restricted(rows, how, [1])
    assert paint.names == ("b",)
    alone, all_ = outcome(part, paint, keep[positions]), outcome(rows, how, keep)
    np.testing.assert_array_equal(alone.true_positives[:, 0], all_.true_positives[:, 1])
    np.testing.assert_array_equal(alone.false_positives[:, 0], all_.false_positives[:, 1])
    np.testing.assert_array_equal(lesion_f1_of(part, paint, alone)[:, 0], lesion_f1_of(rows, how, all_)[:, 1])


def test_nested_regions_are_related() -> None:
    assert related(painting(REGIONS)) == [[0, 1, 2]]


def test_empty_prediction_and_empty_reference() -> None:
    nothing: Rows = judge(line(0, 0), line(0, 1))[0]
    found = outcome(nothing, painting(ONE), untouched(nothing))
    assert dice_of(nothing, painting(ONE), found)[0, 0] == 0
    both = judge(line(0, 0), line(0, 0))[0]
    found = outcome(both, painting(ONE), untouched(both))
    assert np.isnan(dice_of(both, painting(ONE), found)[0, 0])
    assert np.isnan(lesion_f1_of(both, painting(ONE), found)[0, 0])
