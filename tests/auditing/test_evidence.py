"""Evidence: the soft Dice by hand, what is ignored and what is faint, and voxels found again in the file."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.auditing.evidence import gather
from autoseg.records.labels import LabelScheme, Target
from autoseg.spatial.orientation import Turn, turn
from tests.auditing.small import LABELS, SPACING, cube, grid, small_evidence, sure


def test_soft_dice_by_hand() -> None:
    reference = cube((1, 2, 4), ((0, 0, 0), (1, 2, 2), 1))  # four voxels
    probabilities = np.zeros((3, 1, 2, 4), np.float32)
    probabilities[1, 0, 0] = (0.8, 0.6, 0.5, 0.05)  # the last one is faint and counts as 0
    left, right = small_evidence(reference, probabilities).targets
    assert left.mass == pytest.approx(1.9)
    assert left.dice() == pytest.approx(2 * (0.8 + 0.6) / (1.9 + 4))
    assert right.dice() == 0


def test_soft_dice_of_moved_points_equals_that_of_a_moved_mask() -> None:
    rng = np.random.default_rng(0)
    reference = (rng.random((6, 7, 8)) < 0.3).astype(np.int16)
    probabilities = rng.random((3, 6, 7, 8)).astype(np.float32)
    target = small_evidence(reference, probabilities).targets[0]
    for offset in itertools.product((-2, 0, 3), repeat=3):
        padded = np.pad(reference, 3)
        moved = np.roll(padded, offset, axis=(0, 1, 2))[3:-3, 3:-3, 3:-3]
        kept = np.where(probabilities[1] < 0.1, 0, probabilities[1])
        expected = 2 * float(kept[moved == 1].sum()) / (float(kept.sum()) + int((reference == 1).sum()))
        assert target.dice(target.points + np.array(offset)) == pytest.approx(expected)


def test_voxels_to_ignore_are_in_no_target() -> None:
    reference = np.array([[[1, 3, 3, 0]]], np.int16)  # 3 is the internal number of the ignore label
    left = small_evidence(reference, sure(np.array([[[1, 1, 1, 0]]]))).targets[0]
    assert (left.voxels, left.mass) == (1, 1.0)
    assert left.dice() == 1.0


def test_reference_outside_the_box_is_missed() -> None:
    reference = cube((4, 4, 4), ((0, 0, 0), (4, 1, 1), 1))
    box = ((1, 3), (0, 4), (0, 4))
    target = small_evidence(reference, sure(reference)[:, 1:3], box=box).targets[0]
    assert target.voxels == 4
    assert target.dice() == pytest.approx(2 * 2 / (2 + 4))


def test_regions_are_unions_of_classes() -> None:
    regions = (Target(name="both", members=(1, 2)), Target(name="right", members=(2,)))
    labels = LabelScheme(
        class_names=LABELS.class_names,
        class_values=(0, 1, 2),
        regions=regions,
        region_order=(1, 2),
        num_entries=3,
    )
    reference = np.array([[[0, 1, 2, 2]]], np.int16)
    heads = np.array([[[[0, 1, 1, 1]]], [[[0, 0, 1, 1]]]], np.float32)
    evidence = gather(
        "case",
        reference,
        heads,
        labels,
        grid((1, 1, 4)),
        Turn((0, 1, 2), (False, False, False)),
        ((0, 1), (0, 1), (0, 4)),
    )
    assert [target.voxels for target in evidence.targets] == [3, 2]
    assert [target.dice() for target in evidence.targets] == [1.0, 1.0]


@given(
    axes=st.permutations([0, 1, 2]),
    flips=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    seed=st.integers(0, 1000),
)
def test_a_voxel_of_the_box_is_found_again_in_the_file(axes: list[int], flips: tuple, seed: int) -> None:
    how = Turn((axes[0], axes[1], axes[2]), flips)
    shape = (4, 5, 6)
    rng = np.random.default_rng(seed)
    marked = tuple(int(rng.integers(1, size - 1)) for size in shape)
    reference = np.zeros(shape, np.int16)
    reference[marked] = 1
    turned = turn(reference, how)
    box = tuple((1, size) for size in turned.shape)
    probabilities = sure(turned)[:, 1:, 1:, 1:]
    evidence = small_evidence(reference, probabilities, how, box)  # type: ignore[arg-type]
    inside = np.argwhere(evidence.targets[0].reference)
    assert evidence.file_voxel(inside[0]) == marked
    # One step along an axis of the turned grid is that axis's spacing long, and points where the file says.
    lengths = np.linalg.norm(evidence.steps_mm, axis=0)
    assert lengths == pytest.approx([SPACING[axis] for axis in axes])
