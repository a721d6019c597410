"""Judgements: the reasons that are told, volumes with their intervals, and a table that a spreadsheet reads."""

import csv
import io
import math

import numpy as np
import pytest

from autoseg.records.labels import LabelScheme, Target
from autoseg.records.results import Aggregate
from autoseg.records.trust import Curve, Judgement, KnownRange, QualityModel, QualityScores, Trust, VolumeInterval
from autoseg.selection.case_quality import judge, quality_table
from tests.selection.test_out_of_distribution import case

TWO = LabelScheme(class_names=("background", "a", "b"), class_values=(0, 1, 2), num_entries=3)
REGIONS = TWO.model_copy(
    update={
        "regions": (Target(name="whole", members=(1, 2)), Target(name="core", members=(2,))),
        "region_order": (1, 2),
    }
)
NO_CURVE = Curve(area=0.1, risks=(0.1,))
QUALITY = QualityModel(
    features=("mean_probability",),
    centres=(0.8,),
    scales=(0.1,),
    coefficients=(0.2,),
    intercept=0.6,
    ridge=1.0,
    flag_below=0.5,
    scores=QualityScores(
        num_cases=10,
        predicted=NO_CURVE,
        mean_probability=NO_CURVE,
        random=NO_CURVE,
        perfect=NO_CURVE,
        gain=Aggregate(mean=0.1, low=0.0, high=0.2, num_cases=10),
        mean_absolute_error=0.1,
    ),
)


def trust(**changes) -> Trust:
    interval = VolumeInterval(level=0.9, num_cases=9, offset_mm3=1.0, log_ratio=math.log(2))
    values = {
        "decided_by": "x",
        "inputs": "y",
        "quality": QUALITY,
        "volumes": {"a": interval, "b": interval.model_copy(update={"log_ratio": None})},
        "known": {"spacing along z in mm": KnownRange(low=1.0, high=3.0, smallest=1.5, largest=2.5)},
    }
    return Trust(**{**values, **changes})


def classes() -> np.ndarray:
    found = np.zeros((4, 5, 6), np.int16)
    found[0, 0, :3] = 1
    found[1, 0, :2] = 2
    return found


def test_a_usual_case_has_no_reason_and_volumes_have_their_ends() -> None:
    found = judge(trust(), case(), classes(), TWO, {"mean_probability": 0.9})
    assert found.predicted_dice == pytest.approx(0.8)
    assert found.reasons == ()
    volume = 2.0  # mm3 of a voxel
    assert found.volumes["a"].volume_mm3 == 3 * volume
    assert found.volumes["a"].low_mm3 == pytest.approx((6 + 1) / 2 - 1)
    assert found.volumes["a"].high_mm3 == pytest.approx((6 + 1) * 2 - 1)
    assert (found.volumes["b"].volume_mm3, found.volumes["b"].low_mm3) == (4.0, None)


def test_every_reason_is_told() -> None:
    odd = case(spacing_mm=(4.0, 1.0, 1.0))
    found = judge(trust(), odd, classes(), TWO, {"mean_probability": 0.7})
    assert found.predicted_dice == pytest.approx(0.4)
    assert found.reasons == (
        "spacing along z in mm 4 is unlike the training cases (1.5 to 2.5)",
        "predicted Dice 0.40, below 0.50",
    )
    empty = judge(trust(), case(), np.zeros_like(classes()), TWO, {})
    assert empty.predicted_dice is None
    assert empty.reasons == ("nothing was segmented",)
    assert empty.volumes["a"].low_mm3 == 0
    assert empty.volumes["a"].high_mm3 == pytest.approx(1.0)
    assert judge(trust(quality=None), case(), classes(), TWO, {"mean_probability": 0.1}).reasons == ()


def test_regions_have_volumes_of_their_members() -> None:
    found = judge(trust(volumes={}), case(), classes(), REGIONS, {"mean_probability": 0.9})
    assert {name: one.volume_mm3 for name, one in found.volumes.items()} == {"whole": 10.0, "core": 4.0}


def test_the_table_has_a_row_a_case_and_no_formula() -> None:
    judged = {
        "b": judge(trust(), case(spacing_mm=(4.0, 1.0, 1.0)), classes(), TWO, {"mean_probability": 0.9}),
        "=a": Judgement(predicted_dice=None, reasons=(), volumes={}, features={}),
    }
    rows = list(csv.DictReader(io.StringIO(quality_table(judged))))
    assert [row["case"] for row in rows] == ["'=a", "b"]
    assert rows[1]["predicted_dice"] == "0.8000"
    assert (rows[0]["look_at_it"], rows[1]["look_at_it"]) == ("no", "yes")
    assert "spacing along z" in rows[1]["why"]
    assert (rows[1]["a mm3"], rows[1]["a low mm3"], rows[1]["b high mm3"]) == ("12.00", "5.50", "")
    assert rows[0]["predicted_dice"] == rows[0]["a mm3"] == ""
