"""Objectives: what may be typed, and hand-computed values of a case."""

import numpy as np
import pytest

from autoseg.errors import UsageError
from autoseg.metrics.build import score_case
from autoseg.records.geometry import Geometry
from autoseg.records.labels import LabelScheme, Target
from autoseg.records.selection import Objective, ObjectiveTerm
from autoseg.selection.objectives import (
    objective_value,
    parse_objective,
    segmented_metrics,
    values_from_scores,
    values_from_segmentation,
)

TWO = LabelScheme(class_names=("background", "liver", "tumour"), class_values=(0, 1, 2), num_entries=3)
REGIONS = TWO.model_copy(
    update={
        "regions": (Target(name="whole", members=(1, 2)), Target(name="core", members=(2,))),
        "region_order": (1, 2),
    }
)
GRID = Geometry(shape=(6, 6, 6), spacing_mm=(2.0, 1.0, 1.0), affine=((0, 0, 1, 0), (0, 1, 0, 0), (2, 0, 0, 0)))


def test_what_is_typed_is_what_counts() -> None:
    assert parse_objective("dice", TWO) == Objective()
    wanted = parse_objective("dice:liver, nsd:tumour=2,lesion_f1", TWO)
    assert wanted.terms == (
        ObjectiveTerm(metric="dice", target="liver"),
        ObjectiveTerm(metric="nsd", target="tumour", weight=2),
        ObjectiveTerm(metric="lesion_f1"),
    )
    assert wanted.name == "dice:liver,nsd:tumour=2,lesion_f1"
    assert parse_objective(wanted.name, TWO) == wanted
    assert segmented_metrics(wanted) == {"nsd": {"tumour"}, "lesion_f1": {None}}
    assert not segmented_metrics(parse_objective("dice,iou:liver=3", TWO))
    assert parse_objective("dice:core", REGIONS).terms[0].target == "core"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dise", "'dise' is none of dice, iou"),
        ("dice:kidney", "'kidney' is none of the targets liver, tumour"),
        ("dice=0", "'0' is no weight"),
        ("dice=-1", "no weight"),
        ("dice=much", "'much' is no weight"),
        ("dice=inf", "no weight"),
        ("dice=nan", "no weight"),
        ("", "'' is none of"),
        ("dice,", "'' is none of"),
    ],
)
def test_what_cannot_be_typed(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_objective(text, TWO)


def test_the_value_is_the_weighted_mean_of_the_defined_terms() -> None:
    values = {"dice": {"liver": 0.9, "tumour": 0.3}, "nsd": {"tumour": 0.6}}
    assert objective_value(parse_objective("dice", TWO), values) == pytest.approx(0.6)
    assert objective_value(parse_objective("dice,nsd:tumour=3", TWO), values) == pytest.approx((0.6 + 3 * 0.6) / 4)
    assert objective_value(parse_objective("dice:liver,dice:tumour=2", TWO), values) == pytest.approx(1.5 / 3)
    absent = {"dice": {"liver": 0.9, "tumour": None}, "nsd": {"tumour": None}}
    assert objective_value(parse_objective("dice", TWO), absent) == pytest.approx(0.9)
    assert objective_value(parse_objective("dice:liver,nsd:tumour=3", TWO), absent) == pytest.approx(0.9)
    assert objective_value(parse_objective("nsd:tumour", TWO), absent) is None


def lesions() -> tuple[np.ndarray, np.ndarray]:
    """Reference: liver slab and three tumours; found: the liver, one tumour, and one false one."""
    reference = np.zeros((6, 6, 6), np.int16)
    reference[0] = 1
    for corner in ((2, 0, 0), (2, 4, 4), (5, 0, 5)):
        reference[corner] = 2
    found = np.zeros_like(reference)
    found[0] = 1
    found[2, 0, 0] = found[4, 3, 0] = 2
    return found, reference


@pytest.mark.parametrize("labels", [TWO, REGIONS])
def test_surface_and_lesion_values_are_those_of_the_metrics(labels: LabelScheme) -> None:
    found, reference = lesions()
    small = labels.targets[1].name
    values = values_from_segmentation(found, reference, labels, GRID, parse_objective(f"nsd,lesion_f1:{small}", labels))
    scores = score_case(found, reference, labels, GRID, tolerance_mm=1.0)
    assert values["nsd"] == {name: pytest.approx(score.nsd) for name, score in scores.items()}
    # One of three lesions found, one false candidate: F1 = 2 / (2 + 2 missed + 1 false).
    assert values["lesion_f1"] == {small: pytest.approx(2 / 5)}


def test_voxels_to_ignore_are_in_no_segmentation() -> None:
    labels = TWO.model_copy(update={"ignore_value": 9})
    found, reference = lesions()
    reference[4] = labels.ignore_index
    values = values_from_segmentation(found, reference, labels, GRID, parse_objective("lesion_f1:tumour", labels))
    assert values["lesion_f1"]["tumour"] == pytest.approx(2 / 4), "the false candidate lies where nobody knows"


def test_counts_give_all_their_metrics() -> None:
    found, reference = lesions()
    scores = score_case(found, reference, TWO, GRID)
    values = values_from_scores(scores)
    assert values["dice"] == {"liver": 1.0, "tumour": pytest.approx(2 / 5)}
    assert values["sensitivity"]["tumour"] == pytest.approx(1 / 3)
    assert values["precision"]["tumour"] == pytest.approx(1 / 2)
