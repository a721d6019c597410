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
from autoseg.images.reading import read_geometry
from autoseg.metrics.build import score_case, summarize
from autoseg.metrics.statistics import aggregate
from autoseg.metrics.tolerances import tolerance_mm
from autoseg.records.base import read_record, write_record
from autoseg.records.benchmark import Benchmark, BenchmarkRow, PairedRow, TrainingCost
from autoseg.records.dataset import Case, Dataset
from autoseg.records.plan import Plan
from autoseg.records.results import Evaluation, ReferenceScores, Score, TrainedFold
from autoseg.records.scoring import Scoring
from autoseg.records.workspace import Paths
from autoseg.reporting.advice import installed_versions
from autoseg.reporting.published import SOURCE, published_dice
from autoseg.reporting.tables import benchmark_markdown, benchmark_text
from autoseg.selection.comparison import MEAN, compare_with_reference, parse_reference
from autoseg.selection.held_out import reference_of, stored_segmentation, training_case
from autoseg.storage.atomic import write_text

_SHARE_RANGE = (0.5, 1.25)
"""A fold's budget over an equal share of the dataset's: preparation lowers it, a fold that ended early raises it."""
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
    folds: Sequence[str] | None = None,
) -> BenchmarkTable:
    """Score and tabulate what was trained.

    Args:
        done: dataset, plan and configurations, each with at least one trained fold.
        budget_seconds: what each dataset was given.
        reference: JSON file of published per-case Dice; compared with the datasets that have such cases.
        output: folder to write to; default: `benchmark` in the workspace.
        folds: only these folds of each configuration; None: all that are trained, whatever they were trained for.

    Raises:
        UsageError: nothing was trained; or no case of any dataset is in `reference`.
        DataError: `reference` cannot be used; or no prediction of a configuration can be read.
    """
    rows: list[BenchmarkRow] = []
    paired: list[PairedRow] = []
    costs: list[TrainingCost] = []
    sources: set[str] = set()
    remarks: list[str] = []
    for paths, plan, configurations in done:
        dataset = read_record(paths.dataset, Dataset)
        methods = _read_reference(reference, dataset)
        of_configuration = {name: _trained_folds(paths, plan, name, folds) for name in configurations}
        remarks += other_budgets(dataset.name, of_configuration, budget_seconds)
        for configuration, trained in of_configuration.items():
            if not trained:
                continue
            evaluation = score_held_out(paths, dataset, trained, tolerance_mm(dataset.name))
            rows += _rows(dataset, plan, trained, evaluation)
            costs.append(_cost(dataset, configuration, trained))
            for method, scores in methods.items():
                found = compare_with_reference(evaluation, scores, dataset.name, configuration, method)
                paired += found
                sources |= {scores.source} if found else set()
    if not rows:
        raise UsageError("No fold has been trained, so there is nothing to tabulate. Next: autoseg train DATASET")
    if reference is not None and not paired:
        raise UsageError(f"{reference} has no case in common with these datasets.")
    sources |= {SOURCE} if any(row.published_dice for row in rows) else set()
    record = Benchmark(
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        budget_seconds=budget_seconds,
        versions=installed_versions(_PACKAGES),
        rows=tuple(rows),
        paired=tuple(paired),
        costs=tuple(costs),
        sources=tuple(sorted(sources)),
        remarks=tuple(remarks),
    )
    folder = done[0][0].folder.parent / "benchmark" if output is None else output
    write_record(folder / "benchmark.json", record)
    write_text(folder / "benchmark.md", benchmark_markdown(record))
    return BenchmarkTable(record, folder)


def other_budgets(
    dataset: str, of_configuration: Mapping[str, Sequence[TrainedFold]], budget_seconds: float
) -> list[str]:
    """Name, and warn of, folds that were not trained within about an equal share of the dataset's budget."""
    share = budget_seconds / max(sum(len(folds) for folds in of_configuration.values()), 1)
    remarks = []
    for configuration, folds in of_configuration.items():
        odd = [
            f"fold {fold.fold} " + ("none" if given is None else console.duration(given))
            for fold in folds
            if (given := fold.budget_seconds) is None or not _SHARE_RANGE[0] <= given / share <= _SHARE_RANGE[1]
        ]
        if odd:
            what = f"{dataset} {configuration}: budgets other than a share of {console.duration(share)}"
            remarks.append(f"{what}: {', '.join(odd)}.")
            console.warn(remarks[-1])
    return remarks


def score_held_out(
    paths: Paths, dataset: Dataset, trained: Sequence[TrainedFold], default_tolerance_mm: float
) -> Evaluation:
    """Scores, surface Dice included, of the held-out segmentations of some folds of one configuration.

    Args:
        paths: files of the dataset.
        dataset: its record.
        trained: the folds.
        default_tolerance_mm: of the surface Dice, for every target.

    Returns:
        The evaluation; cases whose files cannot be read are in `failed`.

    Raises:
        DataError: not a single case can be scored.
    """
    jobs = [(fold, case) for fold in trained for case in fold.validation_cases]
    scores: dict[str, dict[str, Score]] = {}
    failed: dict[str, str] = {}
    title = f"{dataset.name} {trained[0].configuration}"
    scoring = Scoring(groups=("overlap", "surface"), default_tolerance_mm=default_tolerance_mm)
    for fold, case in console.track(jobs, len(jobs), f"scoring {title}"):
        folder = paths.fold(fold.plan, fold.configuration, fold.fold) / "validation"
        try:
            scores[case] = _score_case(folder, training_case(dataset, case), dataset, scoring)
        except DataError as error:
            console.warn(f"{case} is not scored: {error}")
            failed[case] = str(error)
    if not scores:
        raise DataError(f"No held-out case of {title} can be scored: {next(iter(failed.values()))}")
    return summarize(title, scores, failed, scoring)


def _score_case(validation: Path, case: Case, dataset: Dataset, scoring: Scoring) -> dict[str, Score]:
    geometry = read_geometry(Path(dataset.root) / case.images[0])
    found = stored_segmentation(validation / (case.id + output_ending(case.images[0])), geometry, dataset.labels)
    return score_case(found, reference_of(dataset, case.id, geometry), dataset.labels, geometry, scoring)


def _trained_folds(paths: Paths, plan: Plan, configuration: str, names: Sequence[str] | None) -> list[TrainedFold]:
    """Finished cross-validation folds, only `names` if given; `all` has no held-out case."""
    files = sorted(paths.configuration(plan.name, configuration).glob("fold_*/fold.json"))
    folds = [read_record(file, TrainedFold) for file in files]
    return [fold for fold in folds if fold.validation_cases and (names is None or fold.fold in names)]


def _rows(
    dataset: Dataset,
    plan: Plan,
    trained: Sequence[TrainedFold],
    evaluation: Evaluation,
) -> list[BenchmarkRow]:
    published = published_dice(dataset.name, len(dataset.labels.targets))
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
