"""Demo and benchmark: what they hand to the stages, and what one faulty dataset costs the others."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from autoseg.errors import DataError, PartialError
from autoseg.images.reading import read_image
from autoseg.pipeline import showcase
from autoseg.pipeline.flow import PrepareOptions, RunOptions
from autoseg.pipeline.showcase import BenchmarkOptions, run_benchmark, run_demo
from autoseg.records.base import read_record
from autoseg.records.benchmark import Benchmark
from autoseg.records.plan import Plan
from autoseg.records.workspace import Paths
from tests.reporting.workspace import make_workspace

Jobs = list[tuple[Sequence[tuple[str, str]], RunOptions]]


def test_each_seed_of_the_demo_has_its_own_data_and_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, RunOptions]] = []
    monkeypatch.setattr(showcase, "DEMO_CASES", 1)
    monkeypatch.setattr(showcase, "run_dataset", lambda source, workspace, options: calls.append((source, options)))
    for seed in (0, 2, 0):
        run_demo(tmp_path, seed=seed, device="cpu")
    sources = [Path(source) for source, _ in calls]
    assert [source.name for source in sources] == ["Phantoms", "Phantoms_seed2", "Phantoms"]
    assert [options.seed for _, options in calls] == [0, 2, 0]
    first, second = (read_image([source / "imagesTr" / "phantom_000.nii.gz"]).array for source in sources[:2])
    assert first.shape != second.shape or (first != second).any()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    return make_workspace(tmp_path_factory.mktemp("showcase"), num_cases=2)


@pytest.fixture
def prepared(finished: Paths, monkeypatch: pytest.MonkeyPatch) -> list[PrepareOptions]:
    """Options of every preparation; a folder called `faulty` cannot be prepared."""
    seen: list[PrepareOptions] = []

    def prepare(source: str, workspace: Path, options: PrepareOptions) -> tuple[Paths, Plan]:
        seen.append(options)
        if source == "faulty":
            raise DataError("case c01 is cut off.")
        return finished, read_record(finished.plan("small"), Plan)

    monkeypatch.setattr(showcase, "prepare", prepare)
    return seen


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """What was given to be trained."""
    seen: Jobs = []
    monkeypatch.setattr(showcase, "train_jobs", lambda paths, plan, jobs, request: seen.append((jobs, request)))
    return seen


@pytest.mark.usefixtures("prepared")
def test_a_faulty_dataset_is_named_and_the_others_are_tabulated(tmp_path: Path, trained: Jobs) -> None:
    options = BenchmarkOptions(budget_seconds=100.0, output=tmp_path, device="cpu")
    with pytest.raises(PartialError, match=r"1 of 2 datasets (.|\n)*faulty: case c01 is cut off"):
        run_benchmark(["faulty", "good"], tmp_path, options)
    assert {row.configuration for row in read_record(tmp_path / "benchmark.json", Benchmark).rows} == {
        "2d",
        "3d_fullres",
    }
    assert len(trained) == 1
    for folders in (["faulty"], ["faulty", "faulty"]):
        with pytest.raises(DataError, match="c01"):
            run_benchmark(folders, tmp_path, options)


def test_the_wanted_folds_alone_are_trained_and_tabulated(
    tmp_path: Path, trained: Jobs, prepared: list[PrepareOptions]
) -> None:
    """Two folds are trained already; the table of fold 1 must not hold the other."""
    options = BenchmarkOptions(
        budget_seconds=100.0, folds=(1,), configurations=("2d",), seed=3, output=tmp_path, device="cpu"
    )
    table = run_benchmark(["good"], tmp_path, options)
    ((jobs, request),) = trained
    assert jobs == [("2d", "1")]
    assert (request.budget_seconds, request.seed, request.device) == (100.0, 3, "cpu")
    assert {row.folds for row in table.record.rows} == {("1",)}
    assert prepared[0].plan_name is None


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(("gib", "name"), [(1.0, "default_1gib"), (11.5, "default_11.5gib")])
def test_a_plan_for_a_memory_is_named_by_it(
    tmp_path: Path, prepared: list[PrepareOptions], gib: float, name: str
) -> None:
    run_benchmark(
        ["good"], tmp_path, BenchmarkOptions(budget_seconds=1.0, gpu_memory_gib=gib, output=tmp_path, device="cpu")
    )
    assert (prepared[0].plan_name, prepared[0].gpu_memory_gib) == (name, gib)
