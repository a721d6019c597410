"""The choice in words: costs, estimates, undefined figures, and nothing of another selection."""

from autoseg.metrics.statistics import aggregate
from autoseg.records.calibration import Calibration, ConfigurationCalibration, FoldTemperature, Reliability
from autoseg.records.results import Candidate, Selection
from autoseg.records.selection import Cost, Objective, ObjectiveTerm
from autoseg.records.trust import Trust, VolumeInterval
from autoseg.reporting.choice import candidate_table, choice_blocks, choice_lines, cost_text
from autoseg.reporting.html import Table

NSD = Objective(terms=(ObjectiveTerm(metric="nsd"),))
HALF = aggregate([0.4, 0.6])


def candidate(*names: str, cost: Cost | None = None) -> Candidate:
    return Candidate(
        configurations=names, dice=HALF, targets={"liver": HALF}, objective=aggregate([0.8, 0.9]), cost=cost
    )


def selection(**changes) -> Selection:
    values = {
        "plan": "small",
        "configurations": ("2d",),
        "folds": {"2d": ("0",)},
        "candidates": (candidate("2d", cost=Cost(seconds=1.234, is_measured=True)), candidate("3d_fullres")),
        "decided_by": "x",
        "objective": NSD,
        "reasons": ("2d: best single configuration",),
    }
    return Selection(**{**values, **changes})


def calibration(num_cases: int) -> Calibration:
    figures = aggregate([0.02, 0.04] if num_cases else [])
    reliability = Reliability(ece=figures, brier=figures, nll=figures)
    folds = {
        fold: FoldTemperature(weights_sha256="", temperature=value, held_out={})
        for fold, value in (("0", 1.2), ("1", 1.5))
    }
    known = ConfigurationCalibration(folds=folds, before=reliability, after=reliability, num_cases=num_cases)
    return Calibration(plan="small", configurations={"2d": known})


def trust(decided_by: str = "x") -> Trust:
    wide = VolumeInterval(level=0.9, num_cases=3, offset_mm3=1.0, log_ratio=None)
    return Trust(
        decided_by=decided_by, inputs="", quality=None, volumes={"liver": wide}, known={}, notes=("Too few cases.",)
    )


def test_what_select_prints() -> None:
    lines = choice_lines(selection(), calibration(2), trust())
    wanted = "2d nsd 0.850 [0.800, 0.900] Dice 0.500 [0.400, 0.600] 1.23 s a case <- chosen"
    assert " ".join(lines[0].split()) == wanted
    assert lines[1].endswith("- s a case")
    assert lines[2] == "2d: best single configuration"
    assert "temperature 1.20 to 1.50: ECE 0.0300 -> 0.0300" in lines[3]
    assert lines[4] == "Too few cases."
    assert "cannot be told" in choice_lines(selection(), calibration(0), trust())[3]


def test_the_dice_is_not_shown_twice() -> None:
    by_dice = selection(objective=Objective())
    assert "Dice" not in choice_lines(by_dice, calibration(2), trust())[0]
    assert candidate_table(by_dice).columns == ("Candidate", "Mean Dice", "liver", "Seconds a case")
    assert candidate_table(selection()).columns == ("Candidate", "nsd", "Mean Dice", "liver", "Seconds a case")


def test_costs() -> None:
    assert cost_text(None) == "-"
    assert cost_text(Cost(seconds=12.345, is_measured=True)) == "12.3"
    assert cost_text(Cost(seconds=12.345, is_measured=False)) == "~12.3"


def test_what_belongs_to_another_selection_is_not_shown() -> None:
    blocks = choice_blocks(selection(), calibration(2), trust())
    assert [block.columns[0] for block in blocks if isinstance(block, Table)] == [
        "How it was chosen", "Calibration", "Volume",
    ]  # fmt: skip
    assert any(
        "too few cases" in cell for block in blocks if isinstance(block, Table) for r in block.rows for cell in r
    )
    others = choice_blocks(selection(plan="other"), calibration(2), trust("y"))
    assert len(others) == 1
    assert choice_blocks(selection(reasons=()), None, None) == []
