"""Objectives: what may be typed, and hand-computed values of a case."""

import numpy as np
import pytest

from autoseg.errors import UsageError
from autoseg.metrics.build import score_case
from autoseg.records.geometry import Geometry
from autoseg.records.labels import LabelScheme, Target
from autoseg.records.results import Score
from autoseg.records.selection import Objective, ObjectiveTerm
from autoseg.selection import objectives
from autoseg.selection.objectives import needs_segmentations, objective_value, scoring_of

TWO = LabelScheme(class_names=("background", "liver", "tumour"), class_values=(0, 1, 2), num_entries=3)
REGIONS = TWO.model_copy(
    update={
        "regions": (Target(name="whole", members=(1, 2)), Target(name="core", members=(2,))),
        "region_order": (1, 2),
    }
)
GRID = Geometry(shape=(6, 6, 6), spacing_mm=(2.0, 1.0, 1.0), affine=((0, 0, 1, 0), (0, 1, 0, 0), (2, 0, 0, 0)))


def parse(text: str, labels: LabelScheme = TWO) -> Objective:
    return objectives.parse_objective(text, labels, 3.0)


def test_what_is_typed_is_what_counts() -> None:
    assert parse("dice").terms == Objective().terms
    wanted = parse("dice:liver, nsd:tumour=2,lesion_f1")
    assert wanted.terms == (
        ObjectiveTerm(metric="dice", target="liver"),
        ObjectiveTerm(metric="nsd", target="tumour", weight=2),
        ObjectiveTerm(metric="lesion_f1"),
    )
    assert wanted.name == "dice:liver,nsd:tumour=2,lesion_f1"
    assert parse(wanted.name) == wanted
    assert scoring_of(wanted).groups == ("overlap", "surface", "lesions")
    assert scoring_of(wanted).tolerance_mm("tumour") == 3.0
    assert needs_segmentations(wanted)
    assert not needs_segmentations(parse("dice,iou:liver=3"))
    assert parse("dice:core", REGIONS).terms[0].target == "core"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dise", "'dise' is none of dice, iou"),
        ("hd95_mm", "'hd95_mm' is none of"),
        ("volume_mm3", "'volume_mm3' is none of"),
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
        parse(text)


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


def scored(text: str, labels: LabelScheme = TWO) -> dict[str, Score]:
    found, reference = lesions()
    return score_case(found, reference, labels, GRID, scoring_of(parse(text, labels)))


def test_the_value_is_the_weighted_mean_of_the_terms() -> None:
    scores = scored("nsd,lesion_f1")
    # Liver: exact. Tumour: one of three voxels found, one false: Dice 2 / 5; one lesion of three, one false: F1 2 / 5.
    assert objective_value(parse("dice"), scores) == pytest.approx(0.7)
    assert objective_value(parse("lesion_f1:tumour"), scores) == pytest.approx(2 / 5)
    assert objective_value(parse("dice:liver,sensitivity:tumour=2"), scores) == pytest.approx((1 + 2 / 3) / 3)
    assert objective_value(parse("precision:tumour,dice=3"), scores) == pytest.approx((0.5 + 3 * 0.7) / 4)
    assert objective_value(parse("nsd:tumour"), scores) == scores["tumour"].nsd


def test_terms_that_are_not_defined_do_not_count() -> None:
    scores = scored("dice")
    absent = {"liver": scores["liver"], "tumour": scores["tumour"].model_copy(update={"dice": None, "nsd": None})}
    assert objective_value(parse("dice"), absent) == 1
    assert objective_value(parse("dice:liver,nsd:tumour=3"), absent) == 1
    assert objective_value(parse("nsd:tumour"), absent) is None


def test_regions_are_targets() -> None:
    scores = scored("lesion_f1:core", REGIONS)
    assert objective_value(parse("lesion_f1:core", REGIONS), scores) == pytest.approx(2 / 5)
