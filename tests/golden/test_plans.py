"""Whole plans for a few synthetic fingerprints, kept in files, so that no change of a rule passes unseen.

`AUTOSEG_REWRITE_GOLDEN=1 pytest tests/golden/test_plans.py` writes them anew; the difference belongs in the review.
"""

import os
from pathlib import Path

import pytest

from autoseg.planning.build import make_plan
from autoseg.records.base import read_record, write_record
from autoseg.records.plan import Plan
from tests.planning.examples import dataset, fingerprint, scheme

FOLDER = Path(__file__).parent / "plans"

THICK_CT = (fingerprint((5.0, 0.8, 0.8), (90, 512, 512), fractions=(0.97, 0.03)), dataset())
SMALL_MR = (fingerprint((1.0, 1.0, 1.0), (36, 50, 35), 200), dataset(channels=["MRI"]))
SIDED_CT = (
    fingerprint((2.5, 4.0, 4.0), (128, 128, 128), 40, orientation="LPS", fractions=(0.4, 0.4, 0.2)),
    dataset(scheme(("LeftParotid", "RightParotid", "Mandible"))),
)
PLANAR = (fingerprint((999.0, 1.0, 1.0), (1, 520, 696), 40), dataset(channels=["fluorescence"]))

PLANS = {
    "thick_ct_default": (*THICK_CT, "default", None),
    "thick_ct_nnunet_resenc_l": (*THICK_CT, "nnunet_resenc_l", None),
    "small_mr_small": (*SMALL_MR, "small", None),
    "sided_ct_default_1gib": (*SIDED_CT, "default", 1.0),
    "planar_small": (*PLANAR, "small", None),
}


@pytest.mark.parametrize("name", PLANS)
def test_plan_is_the_golden_one(name: str) -> None:
    measured, described, preset, gpu_memory_gib = PLANS[name]
    plan = make_plan(measured, described, preset, name=name, gpu_memory_gib=gpu_memory_gib)
    path = FOLDER / f"{name}.json"
    if os.environ.get("AUTOSEG_REWRITE_GOLDEN") == "1":
        write_record(path, plan)
    assert read_record(path, Plan) == plan
