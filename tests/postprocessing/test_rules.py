"""Keep-largest rules: hand-made cases, and agreement of the table with really rewriting segmentations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.metrics.overlap import confusion_matrix, target_counts
from autoseg.postprocessing import rules
from autoseg.postprocessing.rules import apply_rule, choose_rule, mean_dice, scores_with_rule
from autoseg.postprocessing.table import component_table, counts_of, kept_components
from autoseg.records.labels import LabelScheme, Target
from autoseg.records.results import PostprocessingRule
from autoseg.spatial import components

TWO = LabelScheme(class_names=("background", "a", "b"), class_values=(0, 1, 2), ignore_value=9, num_entries=4)
REGIONS = TWO.model_copy(
    update={
        "regions": (Target(name="whole", members=(1, 2)), Target(name="core", members=(2,))),
        "region_order": (1, 2),
    }
)


def line(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int16).reshape(1, 1, -1)


def tables(*pairs, labels=TWO):
    return [component_table(f"case{i}", p, r, labels, 1.0) for i, (p, r) in enumerate(pairs)]


def test_counts_of_a_hand_made_case() -> None:
    table = component_table("case", line(1, 1, 0, 1, 2, 2, 0, 2), line(1, 0, 0, 2, 2, 2, 2, 3), TWO, 1.0)
    assert table.classes.tolist() == [1, 1, 2, 2]
    assert table.sizes.tolist() == [2, 1, 2, 1]
    assert table.true_positives.tolist() == [[1, 0], [0, 0], [0, 2], [0, 0]]
    assert table.false_positives.tolist() == [[1, 0], [1, 0], [0, 0], [0, 0]]
    assert table.in_largest_union.tolist() == [False, True, True, False]
    assert table.reference.tolist() == [1, 4]


def test_foreground_rule_is_accepted_where_it_helps() -> None:
    rule = choose_rule(tables((line(1, 1, 2, 0, 1), line(1, 1, 2, 0, 0))), TWO)
    assert rule.keep_largest_foreground
    assert rule.keep_largest == ()
    assert "accepted" in rule.reasons[0]


def test_foreground_rule_is_rejected_where_a_class_falls() -> None:
    """The mean rises, but class b lies apart and would be lost: only class a gets its own rule."""
    prediction, reference = line(1, 1, 1, 0, 1, 0, 1, 0, 2), line(1, 1, 1, 0, 0, 0, 0, 0, 2)
    rule = choose_rule(tables((prediction, reference)), TWO)
    assert not rule.keep_largest_foreground
    assert rule.keep_largest == (1,)
    assert "lowers b" in rule.reasons[0]
    assert "does not help" in rule.reasons[2]


def test_nothing_is_accepted_where_components_are_right() -> None:
    rule = choose_rule(tables((line(1, 0, 1, 2, 0, 2), line(1, 0, 1, 2, 0, 2))), TWO)
    assert rule.model_copy(update={"reasons": ()}) == PostprocessingRule()


def test_one_falling_case_in_many_is_outweighed_only_on_the_mean() -> None:
    helped = (line(1, 1, 0, 1), line(1, 1, 0, 0))
    harmed = (line(1, 1, 1, 0, 1, 1), line(1, 1, 1, 0, 1, 1))
    assert choose_rule(tables(helped, helped, harmed), TWO).keep_largest_foreground
    assert not choose_rule(tables(helped, harmed, harmed), TWO).keep_largest_foreground


def test_empty_segmentations() -> None:
    table = component_table("case", line(0, 0), line(0, 1), TWO, 2.0)
    assert table.sizes.size == 0
    score = scores_with_rule(table, PostprocessingRule(keep_largest_foreground=True, keep_largest=(1,)), TWO)["a"]
    assert score.dice == 0
    assert score.reference_volume_mm3 == 2
    assert choose_rule([table], TWO).keep_largest == ()
    np.testing.assert_array_equal(apply_rule(line(0, 0), PostprocessingRule(keep_largest=(1,))), line(0, 0))


def test_only_the_foregrounds_box_is_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []

    def watched(mask: np.ndarray) -> np.ndarray:
        shapes.append(mask.shape)
        return components.keep_largest(mask)

    monkeypatch.setattr(rules, "largest_component", watched)
    classes = np.zeros((20, 20, 20), np.int16)
    classes[4, 5, 6:10], classes[4, 5, 11], classes[4:6, 5, 12] = 1, 1, 2
    cleaned = apply_rule(classes, PostprocessingRule(keep_largest_foreground=True, keep_largest=(1, 2)))
    assert shapes == [(2, 1, 7), (1, 1, 4)]
    assert (cleaned > 0).sum() == 4
    assert not apply_rule(np.zeros((2, 2, 2), np.int16), PostprocessingRule(keep_largest_foreground=True)).any()
    assert len(shapes) == 2


def test_equally_large_components_all_stay() -> None:
    rule = PostprocessingRule(keep_largest_foreground=True, keep_largest=(1,))
    np.testing.assert_array_equal(apply_rule(line(1, 0, 1, 0, 0), rule), line(1, 0, 1, 0, 0))


def test_regions_are_scored_as_unions() -> None:
    prediction, reference = line(1, 2, 2, 0, 2), line(1, 2, 2, 0, 0)
    assert choose_rule(tables((prediction, reference), labels=REGIONS), REGIONS).keep_largest_foreground
    table = tables((prediction, reference), labels=REGIONS)[0]
    assert [c.false_positives for c in counts_of(table, np.ones(3, bool))] == [1, 1]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.booleans(), st.lists(st.integers(1, 2), unique=True), st.sampled_from([TWO, REGIONS]))
def test_the_table_foretells_what_rewriting_gives(seed, foreground, classes, labels) -> None:
    rng = np.random.default_rng(seed)
    prediction = (rng.integers(0, 3, (3, 5, 5)) * (rng.random((3, 5, 5)) < 0.4)).astype(np.int16)
    reference = (rng.integers(0, 4, (3, 5, 5)) * (rng.random((3, 5, 5)) < 0.5)).astype(np.int16)
    rule = PostprocessingRule(keep_largest_foreground=foreground, keep_largest=tuple(classes))
    table = component_table("case", prediction, reference, labels, 1.0)
    matrix = confusion_matrix(apply_rule(prediction, rule), reference, labels)
    found = counts_of(table, kept_components(table, foreground, tuple(classes)))
    assert found == [target_counts(matrix, target) for target in labels.targets]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_an_accepted_rule_never_lowers_a_target(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(3):
        reference = np.zeros((3, 6, 6), np.int16)
        reference[1, 1:3, 1:4], reference[1, 3:5, 1:4] = 1, 2
        noise = (rng.integers(1, 3, reference.shape) * (rng.random(reference.shape) < 0.15)).astype(np.int16)
        pairs.append((np.where(rng.random(reference.shape) < 0.9, np.maximum(reference, noise), 0), reference))
    measured = tables(*pairs)
    rule = choose_rule(measured, TWO)
    before, after = mean_dice(measured, PostprocessingRule(), TWO), mean_dice(measured, rule, TWO)
    assert all(new >= old - 1e-9 for old, new in zip(before, after, strict=True))
    changed = rule.keep_largest_foreground or rule.keep_largest
    assert sum(after) > sum(before) if changed else after == pytest.approx(before)
