"""Components and candidates: hand-made lines, regions, planes, and agreement with labelling whole volumes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from autoseg.inference import export
from autoseg.inference.labelling import logits_to_labels
from autoseg.postprocessing.component_list import DECIDED
from autoseg.postprocessing.find import find_components
from autoseg.records.labels import LabelScheme, Target
from autoseg.records.postprocessing import ComponentSettings
from autoseg.spatial.components import components
from tests.inference.whole import in_memory

ONE = LabelScheme(class_names=("background", "a"), class_values=(0, 1), num_entries=2)
TWO = LabelScheme(class_names=("background", "a", "b"), class_values=(0, 1, 2), num_entries=3)
REGIONS = LabelScheme(
    class_names=("background", "edema", "core", "enhancing"),
    class_values=(0, 1, 2, 3),
    regions=(
        Target(name="whole", members=(1, 2, 3)),
        Target(name="tumour core", members=(2, 3)),
        Target(name="enhancing", members=(3,)),
    ),
    region_order=(1, 2, 3),
    num_entries=4,
)
SETTINGS = ComponentSettings()


def line(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float16).reshape(1, 1, -1)


def two_heads(own: np.ndarray) -> np.ndarray:
    return np.stack([1 - own, own]).astype(np.float16)


def listed(found) -> list[tuple[int, float, list[int]]]:
    return [
        (int(t), float(level), found.voxels_of(i).tolist())
        for i, (t, level) in enumerate(zip(found.targets, found.levels, strict=True))
    ]


def test_candidates_are_peaks_that_the_decision_missed() -> None:
    """0.4 at 1 belongs to the component at 0; 0.35 is a candidate of 0.3; 0.2, 0.15 of 0.1; 0.2 at 9 touches 0.9."""
    own = line(0.6, 0.4, 0.05, 0.35, 0.2, 0, 0.2, 0.15, 0, 0.2, 0.9, 0)
    found = find_components((own > 0.5).astype(np.int16), in_memory(two_heads(own)), ONE, SETTINGS)
    assert listed(found) == [(0, DECIDED, [0]), (0, DECIDED, [10]), (0, 0.3, [3]), (0, 0.1, [6, 7])]
    assert found.is_decided.tolist() == [True, True, False, False]


def test_without_probabilities_or_thresholds_there_are_components_alone() -> None:
    own = line(0.6, 0, 0.35, 0, 0.9)
    classes = (own > 0.5).astype(np.int16)
    expected = [(0, DECIDED, [0]), (0, DECIDED, [4])]
    assert listed(find_components(classes, None, ONE, SETTINGS)) == expected
    no_thresholds = ComponentSettings(restore_thresholds=())
    assert listed(find_components(classes, in_memory(two_heads(own)), ONE, no_thresholds)) == expected


def test_an_unsure_network_leaves_a_bounded_number_of_candidates() -> None:
    own = line(0.2, 0, 0.35, 0, 0.25, 0, 0.15, 0, 0.4)
    found = find_components(
        np.zeros((1, 1, 9), np.int16), in_memory(two_heads(own)), ONE, ComponentSettings(max_candidates=2)
    )
    assert sorted(listed(found)) == [(0, 0.3, [2]), (0, 0.3, [8])]


def test_candidates_take_nothing_from_other_classes() -> None:
    probabilities = np.stack([line(0.1, 0.6, 0.65), line(0.6, 0, 0), line(0.3, 0.4, 0.35)]).astype(np.float16)
    classes = np.array([1, 0, 0], np.int16).reshape(1, 1, 3)
    found = find_components(classes, in_memory(probabilities), TWO, SETTINGS)
    assert listed(found) == [(0, DECIDED, [0]), (1, 0.3, [1, 2])]


def test_regions_are_found_each_on_their_own() -> None:
    classes = np.array([1, 2, 1, 3, 0, 1], np.int16).reshape(1, 1, 6)
    found = find_components(classes, None, REGIONS, SETTINGS)
    assert listed(found) == [
        (0, DECIDED, [0, 1, 2, 3]),
        (0, DECIDED, [5]),
        (1, DECIDED, [1]),
        (1, DECIDED, [3]),
        (2, DECIDED, [3]),
    ]
    assert found.in_largest.tolist() == [True, False, True, True, True]


def test_a_candidate_of_a_region_may_lie_in_the_region_around_it() -> None:
    whole, core = line(0.9, 0.9, 0.9, 0), line(0, 0.4, 0, 0)
    probabilities = np.stack([whole, core, core * 0]).astype(np.float16)
    found = find_components(
        np.array([1, 1, 1, 0], np.int16).reshape(1, 1, 4), in_memory(probabilities), REGIONS, SETTINGS
    )
    assert listed(found) == [(0, DECIDED, [0, 1, 2]), (1, 0.3, [1])]


def test_empty_segmentation() -> None:
    found = find_components(np.zeros((2, 3, 4), np.int16), in_memory(np.zeros((2, 2, 3, 4), np.float16)), ONE, SETTINGS)
    assert found.shape == (2, 3, 4)
    assert len(found.targets) == len(found.voxels) == len(found.in_largest) == 0


def test_surface_faces() -> None:
    classes = np.zeros((3, 3, 3), np.int16)
    classes[1, 1, 1:] = 1
    found = find_components(classes, None, ONE, SETTINGS)
    both_z, both_y, low_x, high_x = 0b11, 0b1100, 0b010000, 0b100000
    assert found.faces.tolist() == [both_z | both_y | low_x, both_z | both_y | high_x]
    flat = find_components(classes[1:2], None, ONE, SETTINGS, planar=True)
    assert flat.faces.tolist() == [both_y | low_x, both_y | high_x]


@given(st.integers(0, 10_000))
def test_rows_are_those_of_labelled_whole_volumes(seed: int) -> None:
    """Levels found inside boxes are those that labelling every threshold everywhere gives."""
    rng = np.random.default_rng(seed)
    own = (rng.random((4, 7, 8)) ** 4).astype(np.float16)
    classes = (own > 0.5).astype(np.int16)
    found = find_components(
        classes, in_memory(two_heads(own)), ONE, ComponentSettings(restore_thresholds=(0.1, 0.2, 0.35))
    )
    expected, taken = set(), classes > 0
    for level in (DECIDED, 0.35, 0.2, 0.1):
        mask = classes > 0 if level == DECIDED else (own >= np.float16(level)) | (classes > 0)
        numbers, count = components(mask)
        for number in range(1, count + 1):
            voxels = np.flatnonzero(numbers == number)
            if level == DECIDED or not taken.reshape(-1)[voxels].any():
                expected.add((level, tuple(voxels.tolist())))
        for at_level, voxels in expected:
            if at_level == level:
                taken.reshape(-1)[list(voxels)] = True
    assert {(level, tuple(voxels)) for _, level, voxels in listed(found)} == expected


@pytest.mark.parametrize("labels", [TWO, REGIONS])
def test_slabs_find_what_the_whole_does(labels: LabelScheme, monkeypatch: pytest.MonkeyPatch) -> None:
    """Components and candidates that run through several slabs, and slabs without any."""
    rng = np.random.default_rng(5)
    rough = ndimage.gaussian_filter(rng.standard_normal((3, 9, 12, 11)), (0, 2, 1, 1))
    rough[:, 4:6] -= 3
    values = np.exp(6 * rough / rough.std())
    values = (values / (values.sum(0) + 1)).astype(np.float16)
    classes = logits_to_labels(torch.from_numpy(values.astype(np.float32)), labels, 0.5).numpy()
    whole = find_components(classes, in_memory(values), labels, SETTINGS)
    assert 0 < whole.is_decided.sum() < len(whole.targets)
    monkeypatch.setattr(export, "_VALUES_PER_SLAB", 1)
    rows = find_components(classes, in_memory(values), labels, SETTINGS)
    for name in ("targets", "levels", "offsets", "voxels", "faces", "in_largest"):
        np.testing.assert_array_equal(getattr(rows, name), getattr(whole, name))
