"""Costs: measured where validation measured, else from a training step; stages and folds add up."""

from pathlib import Path

import pytest

from autoseg.records.base import read_record, write_record
from autoseg.records.geometry import Geometry
from autoseg.records.plan import Plan
from autoseg.records.recipe import Mirroring
from autoseg.records.results import PreprocessedCase, TrainedFold
from autoseg.selection.costs import case_costs
from autoseg.selection.held_out import HeldOut
from autoseg.training.validation import CaseScores
from tests.pipeline.fakes import make_plan, write_fold

CASES = ["a", "b"]
META = PreprocessedCase(
    id="a",
    geometry=Geometry(shape=(8, 6, 4), spacing_mm=(2.0, 1.5, 1.0), affine=((0, 0, 1, 0), (0, 1, 0, 0), (1, 0, 0, 0))),
    axes=(0, 1, 2),
    flips=(False, False, False),
    crop=((0, 8), (0, 6), (0, 4)),
    shape_before_crop=(8, 6, 4),
    spacing_before_mm=(2.0, 1.5, 1.0),
    shape=(8, 6, 4),
    spacing_mm=(2.0, 1.5, 1.0),
)


def plan_with(names) -> Plan:
    """Patches of 4 6 4, batch 2: three tiles along z; two axes mirrored: four mirrorings."""
    plan = make_plan(names=names)
    mirrored = {
        name: settings.model_copy(
            update={"recipe": settings.recipe.model_copy(update={"mirroring": Mirroring(axes=(1, 2))})}
        )
        for name, settings in plan.configurations.items()
    }
    return plan.model_copy(update={"configurations": mirrored})


def held(folder: Path, plan: Plan, name: str, seconds: tuple[float | None, ...]) -> HeldOut:
    """One fold whose training took 100 steps of 0.6 s, with a score file for each case."""
    fold = write_fold(folder / name / "fold_0", plan, name, validation=CASES)
    trained = read_record(fold / "fold.json", TrainedFold)
    write_record(
        fold / "fold.json", trained.model_copy(update={"seconds": 60.0, "epochs": 10, "iterations_per_epoch": 10})
    )
    for case, took in zip(CASES, seconds, strict=True):
        write_record(fold / "validation" / f"{case}.json", META.model_copy(update={"id": case}))
        write_record(fold / "validation" / f"{case}.scores.json", CaseScores(scores={}, seconds=took))
    return HeldOut(("0", "1", "2"), dict.fromkeys(CASES, fold / "validation"), "digest")


def test_measured_seconds_are_of_all_folds(tmp_path: Path) -> None:
    plan = plan_with(("3d_fullres",))
    cost = case_costs(plan, {"3d_fullres": held(tmp_path, plan, "3d_fullres", (1.0, 3.0))}, CASES)["3d_fullres"]
    assert cost.is_measured
    assert cost.seconds == pytest.approx(3 * 2.0)


def test_a_case_that_was_not_measured_makes_it_an_estimate(tmp_path: Path) -> None:
    """A step of 0.6 s and batch 2: 0.1 s a forward patch; three tiles, four mirrorings, three folds."""
    plan = plan_with(("3d_fullres",))
    cost = case_costs(plan, {"3d_fullres": held(tmp_path, plan, "3d_fullres", (1.0, None))}, CASES)["3d_fullres"]
    assert not cost.is_measured
    assert cost.seconds == pytest.approx(0.1 * 3 * 4 * 3)


def test_a_cascade_costs_its_first_stage_too(tmp_path: Path) -> None:
    names = ("3d_lowres", "3d_cascade_fullres")
    plan = plan_with(names)
    both = {name: held(tmp_path, plan, name, (1.0, 1.0)) for name in names}
    costs = case_costs(plan, both, CASES)
    assert costs["3d_cascade_fullres"].seconds == pytest.approx(6.0)
    assert costs["3d_lowres"].seconds == pytest.approx(3.0)
    alone = case_costs(plan, {"3d_cascade_fullres": both["3d_cascade_fullres"]}, CASES)
    assert alone == {"3d_cascade_fullres": None}
