"""Tolerances: for the Decathlon's own folders only, in either layout."""

import pytest

from autoseg.metrics.tolerances import decathlon_task, tolerance_mm
from autoseg.records.scoring import DEFAULT_TOLERANCE_MM, Scoring


@pytest.mark.parametrize(
    ("name", "task", "tolerance"),
    [("Task04_Hippocampus", "hippocampus", 1.0), ("Dataset003_Liver", "liver", 7.0), ("task10_colon", "colon", 4.0)],
)
def test_decathlon_names_in_either_layout_are_known(name: str, task: str, tolerance: float) -> None:
    assert decathlon_task(name) == task
    assert tolerance_mm(name) == tolerance


@pytest.mark.parametrize("name", ["Hippocampus", "Task14_Hippocampus", "Task04_HippocampusSubset", "Task90_Liver"])
def test_other_datasets_get_the_default(name: str) -> None:
    assert decathlon_task(name) is None
    assert tolerance_mm(name) == DEFAULT_TOLERANCE_MM


def test_a_target_may_have_its_own() -> None:
    scoring = Scoring(tolerances_mm={"lesion": 1.5}, default_tolerance_mm=4)
    assert (scoring.tolerance_mm("lesion"), scoring.tolerance_mm("organ")) == (1.5, 4)
