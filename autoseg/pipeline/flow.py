"""The order of the stages, in one place: a dataset folder in, everything up to the report out.

    ingest -> fingerprint -> plan -> preprocess -> train (each configuration, each fold)
           -> select -> postprocess -> predict (test cases) -> evaluate -> report

Stages know only records and never one another. Each skips what is done already, so any of the functions
here can be stopped at any time and called again.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoseg import console
from autoseg.errors import UsageError
from autoseg.pipeline import plan as planning
from autoseg.pipeline.fingerprint import verify_and_fingerprint
from autoseg.pipeline.ingest import ingest
from autoseg.records.base import read_record
from autoseg.records.dataset import Dataset, Folds
from autoseg.records.plan import Plan
from autoseg.records.results import Evaluation, PostprocessingRule, Selection, TrainedFold
from autoseg.records.workspace import Paths

# A cascade is trained on its previous stage's held-out predictions, so that stage comes first.
_TRAINING_ORDER = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """What decides the stages before training."""

    preset: str = "auto"
    plan_name: str | None = None
    settings: tuple[str, ...] = ()
    gpu_memory_gib: float | None = None
    configurations: tuple[str, ...] | None = None
    patient_regex: str | None = None
    num_folds: int = 5
    overwrite_plan: bool = False
    num_workers: int | None = None
    device_kind: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What the command `train` asks for. `fold` None: every fold in turn, and the budget is shared by all."""

    configuration: str
    fold: str | None = None
    budget_seconds: float | None = None
    epochs: int | None = None
    iterations: int | None = None
    seed: int | None = None
    plan_name: str | None = None
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the command `run` asks for."""

    prepare: PrepareOptions = field(default_factory=PrepareOptions)
    budget_seconds: float | None = None
    epochs: int | None = None
    iterations: int | None = None
    seed: int | None = None
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Where `run` left its results."""

    selection: Selection
    rule: PostprocessingRule
    report: Path
    predictions: tuple[Path, ...]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "chosen": list(self.selection.configurations),
            "mean_dice": self.selection.candidates[0].dice.mean,
            "report": str(self.report),
            "predictions": [str(path) for path in self.predictions],
            "seconds": round(self.seconds, 1),
        }

    def as_text(self) -> str:
        """For people."""
        best = self.selection.candidates[0].dice
        chosen = " + ".join(self.selection.configurations)
        mean = "not defined" if best.mean is None else f"{best.mean:.4f}"
        return (
            f"Chosen: {chosen}, mean Dice {mean} on held-out cases; {len(self.predictions)} test cases segmented; "
            f"{console.duration(self.seconds)}.\nOpen {self.report} in a browser."
        )


def prepare(source: str, workspace: Path, options: PrepareOptions) -> tuple[Paths, Plan]:
    """Ingest, verify, fingerprint, plan and preprocess; raises DataError naming all faulty cases."""
    from autoseg.pipeline.preprocess import preprocess

    paths = ingest(source, workspace, patient_regex=options.patient_regex, num_folds=options.num_folds)
    verify_and_fingerprint(paths, num_workers=options.num_workers)
    plan = planning.plan(
        paths,
        preset=options.preset,
        name=options.plan_name,
        settings=options.settings,
        gpu_memory_gib=options.gpu_memory_gib,
        device_kind=options.device_kind,
        overwrite=options.overwrite_plan,
    )
    preprocess(paths, plan, wanted_configurations(plan, options.configurations), num_workers=options.num_workers)
    return paths, plan


def wanted_configurations(plan: Plan, names: Sequence[str] | None) -> list[str]:
    """The named configurations (default: all of the plan) in the order in which they must be trained.

    Raises:
        UsageError: a name is not in the plan.
    """
    unknown = [name for name in names or () if name not in plan.configurations]
    if unknown:
        known = ", ".join(plan.configurations)
        raise UsageError(f"Plan {plan.name} has no configuration {', '.join(unknown)}; it has {known}.")
    return [name for name in _TRAINING_ORDER if name in (names or plan.configurations) and name in plan.configurations]


def train_folds(source: str, workspace: Path, request: TrainRequest) -> list[TrainedFold]:
    """Train the requested fold, or all folds in turn with the time that is left shared equally."""
    from autoseg.devices import choose_device

    started = time.monotonic()
    paths = ingest(source, workspace)
    plan = planning.choose_plan(paths, request.plan_name, choose_device(request.device).type)
    wanted_configurations(plan, [request.configuration])
    folds = [request.fold] if request.fold is not None else fold_names(paths)
    jobs = [(request.configuration, fold) for fold in folds]
    return _train_jobs(paths, plan, jobs, request, started)


def fold_names(paths: Paths) -> list[str]:
    """The cross-validation folds of a dataset, as the commands name them."""
    return [str(number) for number in range(len(read_record(paths.folds, Folds).folds))] or ["all"]


def _train_jobs(
    paths: Paths, plan: Plan, jobs: Sequence[tuple[str, str]], request: TrainRequest | RunOptions, started: float
) -> list[TrainedFold]:
    """Train every (configuration, fold); `started` is when the budget began."""
    from autoseg.pipeline.train import TrainOptions, is_trained, train

    trained = []
    num_waiting = sum(not is_trained(paths, plan, *job) for job in jobs)
    for configuration, fold in jobs:
        now = time.monotonic()
        share = None
        if request.budget_seconds is not None:
            share = max(request.budget_seconds - (now - started), 1.0) / max(num_waiting, 1)
        options = TrainOptions(
            epochs=request.epochs,
            iterations=request.iterations,
            seed=request.seed,
            budget_seconds=share,
            device=request.device,
            started_seconds=now,
        )
        num_waiting -= not is_trained(paths, plan, configuration, fold)
        trained.append(train(paths, plan, configuration, fold, options))
    return trained


def choose(paths: Paths, plan_name: str | None, device_kind: str) -> tuple[Selection, PostprocessingRule]:
    """Select the best configuration or ensemble and its post-processing, and score it out of fold."""
    from autoseg.pipeline.postprocess import choose_postprocessing
    from autoseg.pipeline.select import select

    plan = planning.choose_plan(paths, plan_name, device_kind)
    return select(paths, plan), choose_postprocessing(paths, plan)


def predict_folder(
    model: str | Path,
    images: Path,
    output: Path,
    *,
    workspace: Path,
    plan_name: str | None = None,
    device: str = "auto",
    keep_finished: bool = False,
) -> list[Path]:
    """Segment `images` with a dataset's selected model (a name or dataset folder) or a model folder (a Path)."""
    from autoseg.pipeline.predict import predict

    where = model if isinstance(model, Path) else ingest(model, workspace)
    return predict(where, images, output, plan_name=plan_name, device=device, keep_finished=keep_finished)


def run_dataset(source: str, workspace: Path, options: RunOptions) -> RunResult:
    """Every stage in order; what is done already is skipped."""
    from autoseg.pipeline.report import report

    started = time.monotonic()
    paths, plan = prepare(source, workspace, options.prepare)
    configurations = wanted_configurations(plan, options.prepare.configurations)
    jobs = [(configuration, fold) for configuration in configurations for fold in fold_names(paths)]
    _train_jobs(paths, plan, jobs, options, started)
    selection, rule = choose(paths, plan.name, options.prepare.device_kind)
    predictions = _predict_test_cases(paths, plan, options.device)
    page = report(paths)
    return RunResult(
        selection=selection,
        rule=rule,
        report=page,
        predictions=tuple(predictions),
        seconds=time.monotonic() - started,
    )


def _predict_test_cases(paths: Paths, plan: Plan, device: str) -> list[Path]:
    """Segment the dataset's own test cases, and score them where references lie beside them (`labelsTs`)."""
    from autoseg.pipeline.evaluate import evaluate
    from autoseg.pipeline.predict import predict

    dataset = read_record(paths.dataset, Dataset)
    images, references = Path(dataset.root) / "imagesTs", Path(dataset.root) / "labelsTs"
    if not dataset.test:
        return []
    written = predict(paths, images, paths.predictions, plan_name=plan.name, device=device, keep_finished=True)
    if references.is_dir():
        scores: Evaluation = evaluate(paths.predictions, references, labels=dataset.labels)
        mean = scores.foreground_mean["dice"].mean
        console.say(f"test cases: mean Dice {mean:.4f}" if mean is not None else "test cases: Dice is not defined")
    return written
