"""The comparison of ways against false positives on tiny trainings: rows, reasons, numbers, what is trained."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from autoseg.cli.main import main
from autoseg.errors import UsageError
from autoseg.metrics.detection import lesion_matches
from autoseg.pipeline.compare_fp import base_configuration, compare_false_positives, rivals
from autoseg.pipeline.report import report
from autoseg.pipeline.train import train
from autoseg.planning.distractors import plan_distractors
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Dataset
from autoseg.records.false_positives import FalsePositiveComparison
from autoseg.records.plan import Plan
from autoseg.records.results import Selection
from autoseg.records.workspace import Paths
from autoseg.selection.held_out import find_held_out, reference_of, segmentation_of
from tests.pipeline.tiny import FOLDS, SHORT, prepare

KEYS = {"method", "false_positives_per_case", "lesion_sensitivity", "dice", "cpm", "note"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Paths, Plan]:
    """A base on all folds."""
    paths, plan = prepare(tmp_path_factory.mktemp("compare"))
    for fold in FOLDS:
        train(paths, plan, "3d_fullres", fold, SHORT)
    return paths, plan


@pytest.fixture(scope="module")
def comparison(trained: tuple[Paths, Plan]) -> FalsePositiveComparison:
    paths, plan = trained
    return compare_false_positives(paths, plan, "3d_fullres")


def test_all_ways_are_listed_and_none_comes_first(comparison: FalsePositiveComparison) -> None:
    assert [(row.method, row.variant) for row in comparison.rows] == [
        ("none", ""),
        ("rule", "keep_largest"),
        ("rule", "minimum_volume"),
        ("rule", "minimum_confidence"),
        ("learned", "logistic"),
        ("learned", "calibrated_logistic"),
        ("learned", "boosting"),
        ("learned", "calibrated_boosting"),
        ("cascade", ""),
        ("second_label", ""),
    ]
    assert {row.method: row.note for row in comparison.rows[-2:]} == {
        "cascade": "not trained; --train trains it",
        "second_label": "not trained; --train trains it",
    }
    assert all(row.is_measured for row in comparison.rows[:4])
    assert (comparison.num_cases, comparison.num_patients) == (6, 6)
    assert comparison.verdict.endswith("Not compared: cascade, second_label.") or "learned" in comparison.verdict


def test_none_is_what_the_metrics_say(trained: tuple[Paths, Plan], comparison: FalsePositiveComparison) -> None:
    paths, plan = trained
    dataset, held = read_record(paths.dataset, Dataset), find_held_out(paths, plan)["3d_fullres"]
    false = dict.fromkeys((target.name for target in plan.labels.targets), 0)
    lesions, hit = false.copy(), false.copy()
    for case in sorted(held.folders):
        found, meta = segmentation_of(case, [held], plan.labels)
        reference = reference_of(dataset, case, meta.geometry)
        for target in plan.labels.targets:
            masks = (np.isin(array, target.members) for array in (found, reference))
            matches = lesion_matches(*masks, comparison.lesions)
            false[target.name] += int(matches.false.sum())
            lesions[target.name] += len(matches.found)
            hit[target.name] += int(matches.found.sum())
    none = comparison.rows[0]
    for name in false:
        assert none.targets[name].false_positives_per_case == pytest.approx(false[name] / 6)
        assert none.targets[name].lesion_sensitivity == pytest.approx(hit[name] / lesions[name])
    assert sum(false.values()) > 0
    assert none.false_positives_per_case == pytest.approx(sum(false.values()) / 6)
    assert none.lesion_sensitivity == pytest.approx(sum(hit.values()) / sum(lesions.values()))


def test_the_report_shows_it(trained: tuple[Paths, Plan], comparison: FalsePositiveComparison) -> None:
    page = report(trained[0]).read_text("utf-8")
    assert "Ways against false positives" in page
    assert comparison.verdict.split(":")[0].split(" (")[0] in page
    assert page.count("not trained; --train trains it") == 2
    assert 'aria-label="FROC curves"' in page


def test_folds_that_are_missing_are_counted(trained: tuple[Paths, Plan]) -> None:
    paths, plan = trained
    changed, name = plan_distractors(plan.model_copy(update={"name": "some"}), "3d_fullres")
    shutil.copytree(paths.configuration("tiny", "3d_fullres"), paths.configuration("some", "3d_fullres"))
    train(paths, changed, name, "0", SHORT)
    second = compare_false_positives(paths, changed, "3d_fullres").rows[-1]
    assert second.note.startswith("not comparable: 4 of the 6 cases are not held out yet")
    assert not second.is_measured
    # Of the fold that is there alone, all cases are common.
    tuned = compare_false_positives(paths, changed, name)
    assert tuned.num_cases == 2
    assert tuned.rows[-1].note == "does not apply: it is itself taught its false positives"
    assert all("2 patients, 3 are needed" in row.note for row in tuned.rows if row.method in ("rule", "learned"))


def test_whose_false_positives_are_looked_at(trained: tuple[Paths, Plan], tmp_path: Path) -> None:
    paths, plan = trained
    elsewhere = Paths(folder=tmp_path)
    assert base_configuration(elsewhere, plan, None) == "3d_fullres"
    assert base_configuration(elsewhere, plan, "3d_lowres") == "3d_lowres"
    chosen = Selection(plan="tiny", configurations=("3d_lowres_distractors",), folds={}, candidates=())
    write_record(elsewhere.selection, chosen)
    assert base_configuration(elsewhere, plan, None) == "3d_lowres"
    write_record(elsewhere.selection, chosen.model_copy(update={"plan": "other"}))
    assert base_configuration(elsewhere, plan, None) == "3d_fullres"
    with pytest.raises(UsageError, match="no configuration 2d; it has 3d_fullres"):
        base_configuration(paths, plan, "2d")
    with pytest.raises(UsageError, match="No cross-validation fold of 3d_lowres is trained"):
        compare_false_positives(paths, plan, "3d_lowres")
    assert rivals(plan, "3d_cascade_fullres")["cascade"] is None


@pytest.mark.slow
def test_the_command_trains_what_is_missing_only_when_asked(
    trained: tuple[Paths, Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    paths, plan = trained
    work = ["--work", str(paths.folder.parent), "--device", "cpu", "--quiet"]
    assert main(["compare-fp", "Tiny", "--plan", "tiny", *work]) == 0
    told = capsys.readouterr().out
    assert "cascade                           not trained; --train trains it" in told
    assert "FROC: sensitivity at FP a case     0.125    0.25" in told
    assert "Next: autoseg compare-fp Tiny --train" in told
    assert not paths.configuration("tiny", "3d_lowres").exists()
    assert read_record(paths.plan("tiny"), Plan) == plan

    short = ["--train", "--epochs", "2", "--iterations", "2", "--seed", "5"]
    assert main(["compare-fp", "Tiny", "--plan", "tiny", *work, *short, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert all(set(row) >= KEYS for row in content["rows"])
    rows = {row["method"]: row for row in content["rows"]}
    for method, name in (("cascade", "3d_cascade_fullres"), ("second_label", "3d_fullres_distractors")):
        assert rows[method]["note"] == ""
        assert rows[method]["configuration"] == name
        assert rows[method]["false_positives_per_case"] >= 0
        assert rows[method]["false_positives_change"]["mean"] is not None
    assert read_record(paths.false_positives, FalsePositiveComparison).model_dump(mode="json") == content
