"""Which components become distractors, and that they reach the patches in the right numbers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from autoseg.preprocessing.locations import MAX_LOCATIONS
from autoseg.records.distractors import DistractorCensus, DistractorCount
from autoseg.records.labels import LabelScheme, Target
from autoseg.storage.arrays import write_array
from autoseg.training.batches import batches
from autoseg.training.distractors import (
    MarkedCases,
    false_positives,
    locations_with_distractors,
    read_with_distractors,
    with_distractors,
)
from tests.training.tools import LABELS, always_foreground, make_sampler, make_source

IGNORING = LABELS.model_copy(update={"ignore_value": 9})
REGIONS = LABELS.model_copy(
    update={
        "regions": (Target(name="both", members=(1, 2)), Target(name="right", members=(2,))),
        "region_order": (1, 2),
    }
)
EMPTY = DistractorCensus(decided_by="x", cases={"case": DistractorCount(components=0, voxels=0)})


def line(text: str) -> np.ndarray:
    """One row of voxels, a digit each."""
    return np.array([int(digit) for digit in text], dtype=np.int16)[None, None]


@pytest.mark.parametrize(
    ("found", "reference", "expected"),
    [
        ("0110011000", "0010000000", "0000011000"),  # the first component shares a voxel
        ("0220000000", "0110000000", "0000000000"),  # the wrong class is no distractor: its voxels are labelled
        ("0220000000", "0100000000", "0000000000"),  # nor is its rim
        ("0112200000", "0110000000", "0001100000"),  # each class by itself
        ("0000000000", "0110000000", "0000000000"),
        ("1100000022", "0000000000", "1100000011"),
    ],
)
def test_false_positives_by_hand(found: str, reference: str, expected: str) -> None:
    marked = false_positives(line(found), line(reference), LABELS, 0.0)
    np.testing.assert_array_equal(marked, line(expected) > 0)


def test_the_overlap_is_adjustable_and_no_labelled_voxel_is_marked() -> None:
    found, reference = line("0111100000"), line("0000110000")
    assert not false_positives(found, reference, LABELS, 0.0).any()
    assert not false_positives(found, reference, LABELS, 0.24).any()
    np.testing.assert_array_equal(false_positives(found, reference, LABELS, 0.25), line("0111000000") > 0)


def test_voxels_to_ignore_are_no_component_and_no_foreground() -> None:
    found, reference = line("0111011000"), line("0003033000")
    np.testing.assert_array_equal(false_positives(found, reference, IGNORING, 0.0), line("0110000000") > 0)
    # Where 3 is a foreground class instead, the first component touches it.
    four = LabelScheme(class_names=tuple("abcd"), class_values=(0, 1, 2, 3), num_entries=4)
    assert not false_positives(found, reference, four, 0.0).any()


def test_components_of_regions_are_those_of_their_union() -> None:
    found, reference = line("0112000220"), line("0100000000")
    # Class 2 lies in a component of `both` that is true, but its own component in `right` is false.
    np.testing.assert_array_equal(false_positives(found, reference, REGIONS, 0.0), line("0001000110") > 0)
    touching = line("0001000000")
    np.testing.assert_array_equal(false_positives(found, touching, REGIONS, 0.0), line("0000000110") > 0)


shapes = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6))


@given(st.data(), st.sampled_from([LABELS, IGNORING, REGIONS]))
@settings(max_examples=60)
def test_false_positives_are_those_of_scipys_components(data: st.DataObject, labels: LabelScheme) -> None:
    shape = data.draw(shapes)
    found = data.draw(hnp.arrays(np.int16, shape, elements=st.integers(0, 2)))
    highest = labels.num_classes if labels.ignore_index is not None else labels.num_classes - 1
    reference = data.draw(hnp.arrays(np.int16, shape, elements=st.integers(0, highest)))
    expected = np.zeros(shape, dtype=bool)
    for target in labels.targets:
        mask = np.isin(found, target.members) & (reference != (labels.ignore_index or -1))
        numbers, count = ndimage.label(mask, np.ones((3, 3, 3)))
        for number in range(1, count + 1):
            part = numbers == number
            foreground = part & (reference > 0)
            if not foreground.any():
                expected |= part
    np.testing.assert_array_equal(false_positives(found, reference, labels, 0.0), expected)


def test_stored_numbers_become_the_learned_ones() -> None:
    stored, mask = line("0120300000").astype(np.uint8), line("0000001100").astype(np.uint8)
    np.testing.assert_array_equal(with_distractors(stored, mask, IGNORING), line("0120403300"))
    assert IGNORING.with_distractor().ignore_index == 4


def marked_cases(folder: Path, mask: np.ndarray, labels: LabelScheme) -> MarkedCases:
    path = folder / "case.b2nd"
    write_array(path, mask.astype(np.uint8), mask.shape)
    return MarkedCases({"case": path}, labels, EMPTY)


@pytest.mark.parametrize("labels", [LABELS, IGNORING])
def test_locations_lie_behind_those_of_the_datasets_targets(tmp_path: Path, labels: LabelScheme) -> None:
    mask = np.zeros((3, 4, 5), np.uint8)
    mask[1, 2, 3:] = 1
    stored = [np.array([1]), np.array([2]), *([np.array([7])] if labels.ignore_index else [])]
    locations = locations_with_distractors(marked_cases(tmp_path, mask, labels), "case", stored)
    assert [list(voxels) for voxels in locations[:3]] == [[1], [2], [33, 34]]
    assert [list(voxels) for voxels in locations[3:]] == ([[7]] if labels.ignore_index else [])


def test_of_many_distractor_voxels_some_are_kept_and_always_the_same(tmp_path: Path) -> None:
    marked = marked_cases(tmp_path, np.ones((10, 40, 40), np.uint8), LABELS)
    first, again = (locations_with_distractors(marked, "case", [np.array([1])] * 2)[2] for _ in range(2))
    assert len(first) == MAX_LOCATIONS
    np.testing.assert_array_equal(first, again)


def test_a_box_of_a_case_has_the_distractors_of_that_box(tmp_path: Path) -> None:
    mask = np.zeros((3, 4, 5), np.uint8)
    mask[1, 2, 3:] = 1
    box = (slice(1, 3), slice(1, 4), slice(2, 4))
    learned = read_with_distractors(marked_cases(tmp_path, mask, LABELS), "case", np.zeros((2, 3, 2), np.uint8), box)
    assert learned.shape == (2, 3, 2)
    assert np.argwhere(learned == 3).tolist() == [[0, 1, 1]]


def test_patches_are_centred_on_distractors_as_on_any_target() -> None:
    source = make_source([(20, 20, 20)])
    (case,) = source.cases
    place = 20 * 20 * 3 + 20 * 4 + 15
    with_third = replace(case, locations=(*case.locations, np.array([place])))

    def read(number: int, box: tuple[slice, slice, slice]):  # type: ignore[no-untyped-def]
        image, labels = source.read(number, tuple(slice(None) for _ in range(3)))  # type: ignore[arg-type]
        labels = labels.clone()
        labels[0].view(-1)[place] = 3
        return image[(slice(None), *box)], labels[(slice(None), *box)]

    sampler = make_sampler(replace(source, cases=(with_third,), read=read), always_foreground())
    learned = replace(sampler, labels=LABELS.with_distractor())
    places = [(0, step) for step in range(30)]
    both = [
        sum(int((batch.labels == 3).flatten(1).any(1).sum()) for batch in batches(kind, places))
        for kind in (sampler, learned)
    ]
    assert both[0] == 0  # far from the other targets
    assert 10 <= both[1] <= 30  # a third of 60
