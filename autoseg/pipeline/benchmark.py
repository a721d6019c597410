"""Cross-validated datasets in, `benchmark.json` and `benchmark.md` out: held-out Dice and NSD beside published values.

Predictions are scored again from their files rather than read from `validation.json`, because the surface Dice needs
the masks, at the tolerance that the dataset's challenge uses.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autoseg import console
from autoseg.errors import DataError, UsageError
from autoseg.images.formats import output_ending
from autoseg.images.reading import read_label
from autoseg.metrics.build import score_case, summarize
from autoseg.metrics.statistics import aggregate
from autoseg.records.base import read_record, write_record
from autoseg.records.benchmark import Benchmark, BenchmarkRow, PairedRow, TrainingCost
from autoseg.records.dataset import Dataset
from autoseg.records.plan import Plan
from autoseg.records.results import Evaluation, ReferenceScores, Score, TrainedFold
from autoseg.records.workspace import Paths
from autoseg.reporting.advice import installed_versions
from autoseg.reporting.published import SOURCE, published_dice, tolerance_mm
from autoseg.reporting.tables import benchmark_markdown, benchmark_text
from autoseg.selection.comparison import MEAN, compare_with_reference, parse_reference
from autoseg.storage.atomic import write_text

_PACKAGES = ("autoseg-medical", "torch", "numpy")


@dataclass(frozen=True)
class BenchmarkTable:
    """A benchmark and how it is shown."""

    record: Benchmark
    folder: Path
    """Where it was written."""

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return self.record.model_dump(mode="json")

    def as_text(self) -> str:
        """For people."""
        return f"{benchmark_text(self.record)}\nWritten to {self.folder / 'benchmark.md'}"


def tabulate(
    done: Sequence[tuple[Paths, Plan, Sequence[str]]],
    *,
    budget_seconds: float,
    reference: Path | None = None,
    output: Path | None = None,
) -> BenchmarkTable:
    """Score and tabulate what was trained.

    Args:
        done: dataset, plan and configurations, each with at least one trained fold.
        budget_seconds: what each dataset was given.
        reference: JSON file of published per-case Dice; compared with the datasets that have such cases.
        output: folder to write to; default: `benchmark` in the workspace.

    Raises:
        UsageError: nothing was trained; or no case of any dataset is in `reference`.
        DataError: `reference` cannot be used; or no prediction of a configuration can be read.
    """
    rows: list[BenchmarkRow] = []
    paired: list[PairedRow] = []
    costs: list[TrainingCost] = []
    sources: set[str] = set()
    for paths, plan, configurations in done:
        dataset = read_record(paths.dataset, Dataset)
        published = published_dice(dataset.name, len(dataset.labels.targets))
        methods = _read_reference(reference, dataset)
        sources |= {SOURCE} if published else set()
        for configuration in configurations:
            trained = _trained_folds(paths, plan, configuration)
            if not trained:
                continue
            evaluation = score_held_out(paths, dataset, trained, tolerance_mm(dataset.name))
            if not evaluation.cases:
                first = next(iter(evaluation.failed.values()))
                raise DataError(f"No held-out case of {dataset.name} {configuration} can be scored: {first}")
            rows += _rows(dataset, plan, trained, evaluation, published)
            costs.append(_cost(dataset, configuration, trained))
            for method, scores in methods.items():
                found = compare_with_reference(evaluation, scores, dataset.name, configuration, method)
                paired += found
                sources |= {scores.source} if found else set()
    if not rows:
        raise UsageError("No fold has been trained, so there is nothing to tabulate. Next: autoseg train DATASET")
    if reference is not None and not paired:
        raise UsageError(f"{reference} has no case in common with these datasets.")
    record = Benchmark(
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        budget_seconds=budget_seconds,
        versions=installed_versions(_PACKAGES),
        rows=tuple(rows),
        paired=tuple(paired),
        costs=tuple(costs),
        sources=tuple(sorted(sources)),
    )
    folder = done[0][0].folder.parent / "benchmark" if output is None else output
    write_record(folder / "benchmark.json", record)
    write_text(folder / "benchmark.md", benchmark_markdown(record))
    return BenchmarkTable(record, folder)


def score_held_out(paths: Paths, dataset: Dataset, trained: Sequence[TrainedFold], tolerance: float) -> Evaluation:
    """Scores, surface Dice included, of the held-out segmentations of some folds of one configuration.

    Args:
        paths: files of the dataset.
        dataset: its record.
        trained: the folds.
        tolerance: of the surface Dice, mm.

    Returns:
        The evaluation; cases whose files cannot be read are in `failed`.
    """
    by_id = {case.id: case for case in dataset.training}
    jobs = [(fold, case) for fold in trained for case in fold.validation_cases]
    scores: dict[str, dict[str, Score]] = {}
    failed: dict[str, str] = {}
    title = f"{dataset.name} {trained[0].configuration}"
    for fold, case in console.track(jobs, len(jobs), f"scoring {title}"):
        folder = paths.fold(fold.plan, fold.configuration, fold.fold) / "validation"
        file = folder / (case + output_ending("image" + dataset.file_ending))
        reference = Path(dataset.root) / (by_id[case].label or "")
        try:
            scores[case] = _score_files(file, reference, dataset, tolerance)
        except DataError as error:
            console.warn(f"{case} is not scored: {error}")
            failed[case] = str(error)
    return summarize(title, scores, failed)


def _score_files(prediction: Path, reference: Path, dataset: Dataset, tolerance: float) -> dict[str, Score]:
    wanted, found = read_label(reference), read_label(prediction)
    if wanted.array.shape != found.array.shape:
        raise DataError(f"{prediction} has shape {found.array.shape}, its reference {wanted.array.shape}.")
    labels = dataset.labels
    return score_case(
        labels.to_internal(found.array[0], str(prediction)),
        labels.to_internal(wanted.array[0], str(reference)),
        labels,
        wanted.geometry,
        tolerance,
    )


def _trained_folds(paths: Paths, plan: Plan, configuration: str) -> list[TrainedFold]:
    """Finished cross-validation folds; `all` has no held-out case."""
    files = sorted(paths.configuration(plan.name, configuration).glob("fold_*/fold.json"))
    return [fold for file in files if (fold := read_record(file, TrainedFold)).validation_cases]


def _rows(
    dataset: Dataset,
    plan: Plan,
    trained: Sequence[TrainedFold],
    evaluation: Evaluation,
    published: Mapping[str, Sequence[float]],
) -> list[BenchmarkRow]:
    names = [target.name for target in dataset.labels.targets]
    means = {method: sum(values) / len(values) for method, values in published.items()}
    columns = [(MEAN, evaluation.foreground_mean, means)]
    for position, name in enumerate(names):
        theirs = {method: values[position] for method, values in published.items()}
        columns.append((name, evaluation.targets[name], theirs))
    return [
        BenchmarkRow(
            dataset=dataset.name,
            plan=plan.name,
            planned_for=plan.planned_for,
            configuration=trained[0].configuration,
            target=target,
            folds=tuple(fold.fold for fold in trained),
            dice=aggregates["dice"],
            nsd=aggregates.get("nsd", aggregate([])),
            tolerance_mm=tolerance_mm(dataset.name),
            published_dice=theirs,
        )
        for target, aggregates, theirs in columns
    ]


def _cost(dataset: Dataset, configuration: str, trained: Sequence[TrainedFold]) -> TrainingCost:
    devices = tuple(sorted({fold.device for fold in trained}))
    seconds = sum(fold.seconds for fold in trained)
    return TrainingCost(dataset=dataset.name, configuration=configuration, seconds=seconds, devices=devices)


def _read_reference(file: Path | None, dataset: Dataset) -> dict[str, ReferenceScores]:
    """Methods of the file that have cases of this dataset; none when the file is about other cases."""
    if file is None:
        return {}
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"--reference {file} cannot be read as JSON: {error}.") from error
    cases = {case.id for case in dataset.training}
    known = content.get("dice", {}) if isinstance(content, dict) else {}
    if isinstance(known, dict) and not any(
        cases & set(scores) for scores in known.values() if isinstance(scores, dict)
    ):
        return {}
    return parse_reference(content, [target.name for target in dataset.labels.targets], str(file))
