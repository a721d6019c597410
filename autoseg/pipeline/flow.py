"""The order of the stages, in one place: a dataset folder in, everything up to the report out.

    ingest -> fingerprint -> plan -> preprocess -> train (each configuration, each fold)
           -> select -> postprocess -> trust -> predict (test cases) -> evaluate -> report

Stages know only records and never one another. Each skips what is done already, so any of the functions
here can be stopped at any time and called again.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from autoseg import console
from autoseg.datasets.folders import list_images
from autoseg.errors import AutosegError, UsageError
from autoseg.pipeline import plan as planning
from autoseg.pipeline.fingerprint import verify_and_fingerprint
from autoseg.pipeline.ingest import ingest
from autoseg.pipeline.trainings import (
    JobOptions,
    count_trainings,
    fold_names,
    train_jobs,
    wanted_configurations,
)
from autoseg.records.base import read_record
from autoseg.records.calibration import Calibration
from autoseg.records.dataset import Dataset
from autoseg.records.plan import Plan
from autoseg.records.postprocessing import LearningSettings
from autoseg.records.results import PostprocessingRule, Selection
from autoseg.records.run import RunResult, TrainingCount
from autoseg.records.trust import Trust
from autoseg.records.workspace import Paths

# Of the budget of `run`, kept back from training for model choice, test predictions and report.
_RESERVED_SHARE, _RESERVED_SECONDS = 0.1, 300.0


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """What decides the stages before training."""

    preset: str = "auto"
    plan_name: str | None = None
    settings: tuple[str, ...] = ()
    gpu_memory_gib: float | None = None
    configurations: tuple[str, ...] | None = None
    patient_regex: str | None = None
    num_folds: int | None = None
    """None: as many as the dataset is divided into, at first 5."""
    for_plateau: bool = False
    """Whether the plan gets what trainings need to end at their plateau; `settings` may change that."""
    overwrite_plan: bool = False
    num_workers: int | None = None
    device_kind: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class RunOptions(JobOptions):
    """What the command `run` asks for; the budget is that of everything."""

    prepare: PrepareOptions = field(default_factory=PrepareOptions)


def prepare(source: str, workspace: Path, options: PrepareOptions) -> tuple[Paths, Plan]:
    """Ingest, verify, fingerprint, plan and preprocess; raises DataError naming all faulty cases."""
    paths, plan = _make_plan(source, workspace, options)
    _preprocess(paths, plan, options)
    return paths, plan


def _make_plan(source: str, workspace: Path, options: PrepareOptions) -> tuple[Paths, Plan]:
    """All of `prepare` but the preprocessing, which takes the time."""
    paths = ingest(source, workspace, patient_regex=options.patient_regex, num_folds=options.num_folds)
    verify_and_fingerprint(paths, num_workers=options.num_workers)
    num_cases = len(read_record(paths.dataset, Dataset).training)
    wanted = planning.PlanOptions(
        preset=options.preset,
        name=options.plan_name,
        settings=(*(planning.plateau_settings(num_cases) if options.for_plateau else ()), *options.settings),
        gpu_memory_gib=options.gpu_memory_gib,
        device_kind=options.device_kind,
    )
    return paths, planning.plan(paths, wanted, overwrite=options.overwrite_plan)


def _preprocess(paths: Paths, plan: Plan, options: PrepareOptions) -> None:
    from autoseg.pipeline.preprocess import preprocess

    preprocess(paths, plan, wanted_configurations(plan, options.configurations), num_workers=options.num_workers)


@dataclass(frozen=True)
class Choice:
    """All that `select` leaves behind."""

    selection: Selection
    rule: PostprocessingRule
    calibration: Calibration
    trust: Trust


def choose(paths: Paths, plan_name: str | None, device_kind: str, objective: str = "dice") -> Choice:
    """Select the best configuration or ensemble and its post-processing, score it, and learn to judge what it says.

    Post-processing is chosen by the lesion F1 where the objective has it, else by Dice.
    """
    from autoseg.pipeline.postprocess import choose_postprocessing
    from autoseg.pipeline.select import select
    from autoseg.pipeline.trust import learn_trust

    plan = planning.choose_plan(paths, plan_name, device_kind)
    selection = select(paths, plan, objective)
    lesion_wise = any(term.metric == "lesion_f1" for term in selection.objective.terms)
    rule = choose_postprocessing(
        paths, plan, learning=LearningSettings(objective="lesion_f1" if lesion_wise else "dice")
    )
    return Choice(selection, rule, read_record(paths.calibration, Calibration), learn_trust(paths, plan))


def learn_postprocessing(
    source: str, workspace: Path, plan_name: str | None, learning: LearningSettings
) -> tuple[Paths, PostprocessingRule]:
    """Choose the post-processing of what is selected, compared as `learning` says; quality is learned with it anew."""
    from autoseg.pipeline.postprocess import choose_postprocessing
    from autoseg.pipeline.trust import learn_trust

    paths, selection = _selected(source, workspace, plan_name)
    plan = read_record(paths.plan(selection.plan), Plan)
    rule = choose_postprocessing(paths, plan, learning=learning)
    learn_trust(paths, plan)
    return paths, rule


def postprocess_predictions(
    source: str, workspace: Path, plan_name: str | None, predictions: Path, images: Path | None, output: Path
) -> list[Path]:
    """Apply a dataset's post-processing to predictions with probabilities; `images` None: the dataset's own images."""
    from autoseg.pipeline.postprocess import held_out_temperatures, postprocess_folder

    paths, selection = _selected(source, workspace, plan_name)
    rule = read_record(paths.postprocessing, PostprocessingRule, UsageError, "Run `autoseg select` first.")
    plan = read_record(paths.plan(selection.plan), Plan)
    source_of_images = read_record(paths.dataset, Dataset) if images is None else images
    temperatures = held_out_temperatures(paths, plan, predictions)
    first = selection.configurations[0]
    return postprocess_folder(rule, plan, first, predictions, source_of_images, output, temperatures)


def _selected(source: str, workspace: Path, plan_name: str | None) -> tuple[Paths, Selection]:
    paths = ingest(source, workspace)
    selection = read_record(paths.selection, Selection, UsageError, "Run `autoseg select` first.")
    if plan_name not in (None, selection.plan):
        raise UsageError(
            f"{' + '.join(selection.configurations)} of plan {selection.plan} is selected, nothing of plan "
            f"{plan_name}. Run `autoseg select --plan {plan_name}` first."
        )
    return paths, selection


def run_dataset(source: str, workspace: Path, options: RunOptions) -> RunResult:
    """Every stage in order; what is done already is skipped.

    Raises:
        PartialError: some test cases could not be segmented; all else is done, the report too.
    """
    from autoseg.devices import choose_device
    from autoseg.pipeline.report import report

    choose_device(options.device)  # one that is not there is named now, not after the preprocessing
    wanted = options.prepare
    if options.until_plateau and wanted.plan_name is None:  # a plan that is named must itself say how
        name = planning.plateau_name(wanted.preset, wanted.gpu_memory_gib, wanted.device_kind)
        wanted = replace(wanted, plan_name=name, for_plateau=True)
    paths, plan = _make_plan(source, workspace, wanted)
    configurations, folds = wanted_configurations(plan, options.prepare.configurations), fold_names(paths)
    counts = count_trainings(paths, plan, configurations)
    if options.until_plateau:
        _check_plateaus(plan, counts)
    _preprocess(paths, plan, wanted)
    options = replace(options, budget_seconds=training_seconds(options.budget_seconds))
    _report_trainings(paths, plan, counts, options)
    train_jobs(paths, plan, [(name, fold) for name in configurations for fold in folds], options)
    selection = None if folds == ["all"] else choose(paths, plan.name, options.prepare.device_kind).selection
    predictions: list[Path] = []
    failure: AutosegError | None = None
    try:
        predictions = _predict_test_cases(paths, plan, options.device)
    except AutosegError as error:
        failure = error
    _score_test_cases(paths)
    page = report(paths)
    if failure is not None:
        raise type(failure)(f"{failure}\nAll else is done: open {page} in a browser.") from failure
    return RunResult(
        dataset=paths.folder.name,
        selection=selection,
        report=page,
        predictions=tuple(predictions),
        seconds=time.monotonic() - options.started_seconds,
    )


def _check_plateaus(plan: Plan, counts: Mapping[str, TrainingCount]) -> None:
    """Raise UsageError, before any work, where a training that is to be made cannot end at its plateau."""
    from autoseg.pipeline.train import check_can_plateau

    for configuration, count in counts.items():
        if count.left:
            check_can_plateau(plan, configuration)


def _report_trainings(paths: Paths, plan: Plan, counts: Mapping[str, TrainingCount], options: RunOptions) -> None:
    """Say how long the trainings that are left will take and where they will hold their cases, if any are."""
    from autoseg.pipeline.estimate import describe_tiers, describe_times

    limit = options.budget_seconds and max(options.budget_seconds - time.monotonic() + options.started_seconds, 1.0)
    course = (options.epochs, options.iterations, limit, options.until_plateau)
    if any(count.left for count in counts.values()):
        times = describe_times(plan, counts, options.device, *course)
        console.say("\n".join([*times, *describe_tiers(paths, plan, counts, options.device)]))


def training_seconds(budget_seconds: float | None) -> float | None:
    """What of the budget of `run` the stages up to the last training may use."""
    if budget_seconds is None:
        return None
    return budget_seconds - min(_RESERVED_SHARE * budget_seconds, _RESERVED_SECONDS)


def _predict_test_cases(paths: Paths, plan: Plan, device: str) -> list[Path]:
    """Segment the dataset's own test cases; raises PartialError naming those that cannot be."""
    from autoseg.devices import choose_device
    from autoseg.pipeline.predict import predict_cases
    from autoseg.selection.predictor import load_predictor

    dataset = read_record(paths.dataset, Dataset)
    if not dataset.test:
        return []
    predictor = load_predictor(paths, plan.name, choose_device(device))
    return predict_cases(predictor, Path(dataset.root), dataset.test, paths.predictions, keep_finished=True)


def _score_test_cases(paths: Paths) -> None:
    """Score the segmented test cases where references lie beside their images (`labelsTs`)."""
    from autoseg.pipeline.evaluate import evaluate

    dataset = read_record(paths.dataset, Dataset)
    references = Path(dataset.root) / "labelsTs"
    if not list_images(references) or not list_images(paths.predictions):
        return
    scores = evaluate(paths.predictions, references, labels=dataset.labels)
    for case, reason in scores.failed.items():
        console.warn(f"test case {case} is not scored: {reason}")
    mean = scores.foreground_mean["dice"].mean
    about = f"mean Dice {mean:.4f}" if mean is not None else "Dice is not defined"
    console.say(f"test cases: {about} ({len(scores.cases)} scored)")
