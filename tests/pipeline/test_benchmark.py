"""The benchmark's table: from files of a finished cross-validation to Markdown, JSON and text."""

import json
from pathlib import Path

import pytest

from autoseg.console import duration
from autoseg.errors import UsageError
from autoseg.pipeline.benchmark import BenchmarkTable, tabulate
from autoseg.records.base import read_record, write_record
from autoseg.records.benchmark import Benchmark
from autoseg.records.dataset import Dataset
from autoseg.records.plan import Plan
from autoseg.records.results import Evaluation, TrainedFold
from autoseg.records.workspace import Paths
from tests.reporting.workspace import CONFIGURATIONS, change_format, flip_label, make_workspace


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    return make_workspace(tmp_path_factory.mktemp("benchmark"))


def run(paths: Paths, **options: object) -> BenchmarkTable:
    plan = read_record(paths.plan("small"), Plan)
    return tabulate([(paths, plan, CONFIGURATIONS)], budget_seconds=600.0, **options)


def test_scores_are_those_of_the_validation_with_surface_dice_added(paths: Paths) -> None:
    table = run(paths)
    rows = {(row.configuration, row.target): row for row in table.record.rows}
    assert len(rows) == 2 * 5
    parts = [read_record(paths.fold("small", "2d", fold) / "validation.json", Evaluation) for fold in "01"]
    livers = [scores["liver"].dice for part in parts for scores in part.cases.values()]
    assert rows["2d", "liver"].dice.mean == pytest.approx(sum(livers) / len(livers))
    assert rows["2d", "liver"].dice.num_cases == 4
    nsd = rows["3d_fullres", "liver"].nsd
    assert nsd.mean is not None
    assert 0 < nsd.mean < 1
    assert rows["2d", "liver"].published_dice == {}
    assert {cost.configuration: cost.seconds for cost in table.record.costs} == {"2d": 100.0, "3d_fullres": 100.0}


def test_files_and_text_say_the_same(paths: Paths, tmp_path: Path) -> None:
    table = run(paths, output=tmp_path)
    assert read_record(tmp_path / "benchmark.json", Benchmark) == table.record
    markdown, text = (tmp_path / "benchmark.md").read_text(), table.as_text()
    mean = table.record.rows[0].dice.mean
    for shown in (f"{mean:.4f}", "right kidney", "Budget of each dataset", "2d"):
        assert shown in markdown
        assert shown in text
    assert json.dumps(table.as_json())


def test_reference_is_paired_case_by_case(paths: Paths, tmp_path: Path) -> None:
    file = tmp_path / "published.json"
    cases = {f"phantom_{number:03d}": [1.0, 1.0, 1.0, None] for number in range(3)}
    file.write_text(json.dumps({"source": "a paper", "dice": {"their net": cases}}))
    table = run(paths, reference=file, output=tmp_path)
    pairs = {(row.configuration, row.target): row for row in table.record.paired}
    assert ("2d", "lesion") not in pairs
    assert pairs["2d", "liver"].difference.num_cases == 3
    assert pairs["2d", "liver"].difference.mean < 0
    assert table.record.sources == ("a paper",)
    assert "their net" in table.as_text()


def test_a_reference_about_other_cases_is_a_usage_error(paths: Paths, tmp_path: Path) -> None:
    file = tmp_path / "published.json"
    file.write_text(json.dumps({"source": "a paper", "dice": {"their net": {"other_001": [1.0]}}}))
    with pytest.raises(UsageError, match="no case in common"):
        run(paths, reference=file, output=tmp_path)


def test_a_lost_prediction_is_named_and_left_out(tmp_path: Path) -> None:
    paths = make_workspace(tmp_path, num_cases=3)
    (paths.fold("small", "2d", "0") / "validation" / "phantom_000.nii.gz").unlink()
    rows = {(row.configuration, row.target): row for row in run(paths).record.rows}
    assert rows["2d", "liver"].dice.num_cases == 2
    assert rows["3d_fullres", "liver"].dice.num_cases == 3


def test_a_label_stored_in_another_voxel_order_scores_the_same(tmp_path: Path) -> None:
    paths = make_workspace(tmp_path, num_cases=2)
    before = run(paths).record.rows
    flip_label(tmp_path, "phantom_001")
    assert run(paths).record.rows == before


def test_images_of_several_formats_are_all_scored(tmp_path: Path) -> None:
    paths = make_workspace(tmp_path, num_cases=2)
    before = run(paths).record.rows
    change_format(tmp_path, paths, "phantom_001", ".mha")
    assert run(paths).record.rows == before


def test_a_case_that_was_removed_from_the_dataset_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = make_workspace(tmp_path, num_cases=3)
    dataset = read_record(paths.dataset, Dataset)
    write_record(paths.dataset, dataset.model_copy(update={"training": dataset.training[1:]}))
    assert run(paths).record.rows[0].dice.num_cases == 2
    assert "phantom_000 was held out" in capsys.readouterr().err


def test_only_the_wanted_folds_are_tabulated(paths: Paths) -> None:
    record = run(paths, folds=["1"]).record
    assert {row.folds for row in record.rows} == {("1",)}
    assert {row.dice.num_cases for row in record.rows if row.target == "liver"} == {2}
    assert {cost.seconds for cost in record.costs} == {50.0}


def test_folds_of_another_budget_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = make_workspace(tmp_path, num_cases=2)
    given = {("2d", "0"): 150.0, ("2d", "1"): 100.0, ("3d_fullres", "0"): 3600.0, ("3d_fullres", "1"): None}
    for (configuration, fold), seconds in given.items():
        file = paths.fold("small", configuration, fold) / "fold.json"
        write_record(file, read_record(file, TrainedFold).model_copy(update={"budget_seconds": seconds}))
    table = run(paths)  # 600 s, four folds
    (remark,) = table.record.remarks
    assert "3d_fullres" in remark
    assert remark.endswith(f"fold 0 {duration(3600)}, fold 1 none.")
    assert remark in table.as_text().replace("\n", " ")
    assert remark in capsys.readouterr().err


def test_nothing_trained_is_a_usage_error(paths: Paths) -> None:
    plan = read_record(paths.plan("small"), Plan)
    with pytest.raises(UsageError, match="No fold has been trained"):
        tabulate([(paths, plan, ())], budget_seconds=1.0)
