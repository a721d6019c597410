"""Everything done so far for a dataset in, `report/index.html` out: one page that opens offline.

Any stage may be missing; its section then names the command that makes it. The page holds case ids and pictures of
slices, but no path and nothing from the headers of the files.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from autoseg import console
from autoseg.errors import DataError, UsageError
from autoseg.images.formats import known_ending, output_ending
from autoseg.images.reading import read_image
from autoseg.metrics.build import summarize
from autoseg.records.audit import Audit
from autoseg.records.base import Record, read_record
from autoseg.records.calibration import Calibration
from autoseg.records.dataset import Dataset, Folds
from autoseg.records.false_positives import FalsePositiveComparison
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Plan
from autoseg.records.results import EpochRecord, Evaluation, PostprocessingRule, Selection, TrainedFold
from autoseg.records.trust import Trust
from autoseg.records.workspace import Paths
from autoseg.reporting.advice import commands_of_making, facts_of_making, headline, next_steps
from autoseg.reporting.components import components_section
from autoseg.reporting.describe import Runs, dataset_section, plan_section, training_section
from autoseg.reporting.examples import Example, draw_example, pick_cases
from autoseg.reporting.false_positives import false_positives_section
from autoseg.reporting.figures import class_colours
from autoseg.reporting.html import Section, render_page
from autoseg.reporting.outcomes import (
    examples_section,
    next_section,
    predictions_section,
    provenance_section,
    scores_section,
    selection_section,
)
from autoseg.reporting.suspicions import audit_summary
from autoseg.selection.held_out import reference_of, stored_segmentation
from autoseg.storage.atomic import write_text
from autoseg.training.history import read_history

AnyRecord = TypeVar("AnyRecord", bound=Record)


def report(paths: Paths) -> Path:
    """Write the report of a dataset.

    Returns:
        The page.

    Raises:
        UsageError: the workspace knows no such dataset.
    """
    if not paths.dataset.is_file():
        raise UsageError(f"{paths.folder} holds no dataset yet. Next: autoseg run DATASET")
    dataset = read_record(paths.dataset, Dataset)
    plans = [read_record(path, Plan) for path in sorted(paths.plans.glob("*.json"))]
    runs = {plan.name: _runs(paths, plan) for plan in plans}
    selection = _read(paths.selection, Selection)
    shown = [plan for plan in plans if runs[plan.name]] or plans
    evaluations = {
        (plan.name, configuration): evaluation
        for plan in shown
        for configuration in runs[plan.name]
        if (evaluation := _merged(paths, plan.name, configuration)) is not None
    }
    colours = class_colours([target.name for target in dataset.labels.targets])
    titles = {key: key[1] if len(shown) == 1 else f"{key[0]}, {key[1]}" for key in evaluations}
    main = _main_candidate(selection, evaluations)
    folds = _read(paths.folds, Folds)

    sections: list[Section | None] = [dataset_section(dataset, _read(paths.fingerprint, Fingerprint), folds)]
    for plan in shown:
        sections += [plan_section(plan), training_section(dataset.name, plan, runs[plan.name])]
    sections.append(scores_section(dataset.name, {titles[key]: e for key, e in evaluations.items()}, colours))
    rule = _read(paths.postprocessing, PostprocessingRule)
    learned = _read(paths.calibration, Calibration), _read(paths.trust, Trust)
    sections.append(selection_section(dataset.name, selection, rule, *learned))
    comparison = _read(paths.false_positives, FalsePositiveComparison)
    sections.append(None if comparison is None else false_positives_section(comparison))
    if rule is not None and rule.components is not None:
        sections.append(components_section(rule.components, rule.reasons))
    found = _read(paths.audit / "audit.json", Audit)
    sections.append(None if found is None else audit_summary(found))
    if main is not None:
        examples = _examples(paths, dataset, main, evaluations[main], colours)
        sections.append(examples_section(examples, colours, titles[main]))
    predictions = sorted(path.name for path in paths.predictions.glob("[!.]*") if known_ending(path))
    sections.append(predictions_section(dataset.name, predictions, len(dataset.test)))
    commands = commands_of_making(dataset, shown, runs, selection, 0 if folds is None else len(folds.folds))
    sections.append(provenance_section(commands, facts_of_making(shown, runs)))
    sections.append(next_section(next_steps(dataset, shown, runs, selection, len(predictions))))

    subtitle = f"Segmentation report, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    facts = headline(dataset, runs, selection, None if main is None else evaluations[main])
    page = render_page(dataset.name, subtitle, facts, tuple(section for section in sections if section is not None))
    write_text(paths.report, page)
    return paths.report


def _read(path: Path, kind: type[AnyRecord]) -> AnyRecord | None:
    return read_record(path, kind) if path.is_file() else None


def _runs(paths: Paths, plan: Plan) -> Runs:
    """What is trained or being trained under a plan: configuration -> fold -> (record, history)."""
    runs: dict[str, dict[str, tuple[TrainedFold | None, Sequence[EpochRecord]]]] = {}
    for configuration in plan.configurations:
        for folder in sorted(paths.configuration(plan.name, configuration).glob("fold_*")):
            trained, history = _read(folder / "fold.json", TrainedFold), read_history(folder)
            if trained is not None or history:
                runs.setdefault(configuration, {})[folder.name.removeprefix("fold_")] = (trained, history)
    return runs


def _merged(paths: Paths, plan: str, configuration: str) -> Evaluation | None:
    """Held-out scores of all finished folds of a configuration together; None when no fold was validated."""
    files = sorted(paths.configuration(plan, configuration).glob("fold_*/validation.json"))
    parts = [read_record(file, Evaluation) for file in files]
    if not any(part.cases for part in parts):
        return None
    cases = {case: scores for part in parts for case, scores in part.cases.items()}
    failed = {case: reason for part in parts for case, reason in part.failed.items()}
    return summarize(configuration, cases, failed)


def _main_candidate(
    selection: Selection | None, evaluations: Mapping[tuple[str, str], Evaluation]
) -> tuple[str, str] | None:
    """The configuration whose cases are drawn: the first chosen one, else the best so far."""
    if selection is not None and (selection.plan, selection.configurations[0]) in evaluations:
        return selection.plan, selection.configurations[0]
    return max(evaluations, key=lambda key: evaluations[key].foreground_mean["dice"].mean or 0.0, default=None)


def _examples(
    paths: Paths, dataset: Dataset, main: tuple[str, str], evaluation: Evaluation, colours: Mapping[str, str]
) -> list[Example]:
    """Pictures of some held-out cases; one whose files cannot be read any more is left out with a warning."""
    by_id = {case.id: case for case in dataset.training}
    root, labels = Path(dataset.root), dataset.labels
    examples = []
    for name, rank in pick_cases(evaluation):
        case = by_id.get(name)
        if case is None:
            continue
        ending = output_ending(case.images[0])
        found = sorted(paths.configuration(*main).glob(f"fold_*/validation/{name}{ending}"))
        if not found:
            continue
        try:
            image = read_image([root / file for file in case.images])
            reference = reference_of(dataset, name, image.geometry)
            predicted = stored_segmentation(found[0], image.geometry, labels)
        except DataError as error:
            console.warn(f"{name} is not drawn: {error}")
            continue
        examples.append(
            draw_example((name, rank), image, reference, predicted, labels, evaluation.cases[name], colours)
        )
    return examples
