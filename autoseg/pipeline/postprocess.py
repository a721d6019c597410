"""Stage: held-out probabilities of the selected candidate in, `postprocessing.json` and `evaluation.json` out; and the
rule applied to a folder of predictions with probabilities.

Every component of the held-out segmentations is measured and judged (`component_table.csv`), and the candidates of
post-processing are compared on them by nested cross-validation (`postprocessing.choose`). With too few patients for
that, nnU-Net's keep-largest rule is chosen on the cases themselves. `evaluation.json` is what the selected model,
post-processing included, reaches on held-out cases: with decisions by rules that did not see the patient.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from autoseg import console
from autoseg.datasets.folders import find_cases
from autoseg.errors import DataError, ModelError, PartialError, UsageError
from autoseg.images.formats import output_ending
from autoseg.images.writing import write_label
from autoseg.inference.probability_reader import FoldPrediction, ProbabilityReader, labels_from_probabilities
from autoseg.inference.store import probabilities_path, read_disagreement, read_meta
from autoseg.inference.temperature import tempered_pieces
from autoseg.metrics.build import score_counts, summarize
from autoseg.metrics.overlap import Counts
from autoseg.postprocessing.apply import ScoreInputs, changes_path, clean_components
from autoseg.postprocessing.case_grid import read_case_grid
from autoseg.postprocessing.choose import choose_components
from autoseg.postprocessing.component_csv import component_csv
from autoseg.postprocessing.effects import outcome
from autoseg.postprocessing.rows import Bools, Rows, joined, painting
from autoseg.postprocessing.rules import apply_rule, choose_rule, scores_with_rule
from autoseg.postprocessing.table import component_table
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Case, Dataset
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import Plan
from autoseg.records.postprocessing import CaseChanges, ComponentSettings, LearningSettings
from autoseg.records.prediction_folder import FINISHED, QUALITY_TABLE, TABLES, remove_outdated
from autoseg.records.results import PostprocessingRule, Score, Selection
from autoseg.records.workspace import Paths
from autoseg.selection.held_out import (
    HeldOut,
    common_cases,
    find_held_out,
    reference_of,
    segmentation_of,
    training_case,
)
from autoseg.selection.held_out_components import held_out_rows
from autoseg.storage.atomic import write_text

_DEFAULT_COMPONENTS, _DEFAULT_LEARNING = ComponentSettings(), LearningSettings()
_ENDING = ".probabilities.b2nd"


def choose_postprocessing(
    paths: Paths,
    plan: Plan,
    components: ComponentSettings = _DEFAULT_COMPONENTS,
    learning: LearningSettings = _DEFAULT_LEARNING,
) -> PostprocessingRule:
    """Choose the post-processing of the selected candidate, and score it out of fold with it.

    Args:
        paths: of the dataset.
        plan: of the selection.
        components: how components are found and measured.
        learning: how candidates are compared.

    Raises:
        UsageError: nothing is selected yet for this plan.
        ModelError: files of a trained fold are missing.
        DataError: an image or a reference cannot be read.
    """
    selection = read_record(paths.selection, Selection, UsageError, "Run `autoseg select` first.")
    if selection.plan != plan.name:
        raise UsageError(f"{paths.selection} is of plan {selection.plan}, not of {plan.name}: select again.")
    if paths.postprocessing.is_file() and paths.evaluation.is_file():
        earlier = read_record(paths.postprocessing, PostprocessingRule)
        if selection.decided_by and _is_same(earlier, selection, components, learning):
            console.say("post-processing: done already")
            return earlier
    held_out = {name: held for name, held in find_held_out(paths, plan).items() if name in selection.configurations}
    dataset = read_record(paths.dataset, Dataset)
    cases = common_cases(held_out)
    patients = {training_case(dataset, case).patient or case for case in cases}
    if len(patients) < learning.min_groups:
        rule, scores = _keep_largest(list(held_out.values()), cases, dataset, plan.labels, learning)
    else:
        rule, scores = _learned(paths, held_out, cases, dataset, plan, components, learning)
    rule = rule.model_copy(update={"decided_by": selection.decided_by})
    title = f"{' + '.join(selection.configurations)} of plan {plan.name}, out of fold, with post-processing"
    write_record(paths.evaluation, summarize(title, scores))
    write_record(paths.postprocessing, rule)
    return rule


def held_out_temperatures(paths: Paths, plan: Plan, predictions: Path) -> dict[str, float]:
    """Case id -> temperature of its stored probabilities, where `predictions` is the validation folder of a fold.

    Validation keeps the network's probabilities, before any calibration; rules are learned on calibrated
    probabilities, and `predict --save-probabilities` writes those.
    """
    return {
        case: held.temperatures.get(case, 1.0)
        for held in find_held_out(paths, plan).values()
        for case, folder in held.folders.items()
        if folder.resolve() == predictions.resolve()
    }


def postprocess_folder(
    rule: PostprocessingRule,
    plan: Plan,
    configuration: str,
    predictions: Path,
    images: Path | Dataset,
    output: Path,
    temperatures: Mapping[str, float] | None = None,
) -> list[Path]:
    """Apply a rule to every prediction of a folder that has its probabilities beside it.

    A folder holds the probabilities of an ensemble, not of its models: features are measured on those, where `predict`
    measures them a fold model and averages.

    Args:
        rule: as chosen.
        plan: of the model that predicted.
        configuration: the one whose normalisation decides the scale of intensities.
        predictions: folder with `<case>.probabilities.b2nd` and `<case>.json`, as `predict --save-probabilities` and
            validation leave them.
        images: folder of the images, or the dataset whose training and test cases they are.
        output: folder for segmentations and lists of changes.
        temperatures: case id -> what still divides the logits of its probabilities (`held_out_temperatures`).

    Raises:
        UsageError: there are no probabilities, or segmentations would replace the images.
        PartialError: some cases could not be done; each is named with its reason.
    """
    names = sorted(path.name.removesuffix(_ENDING) for path in predictions.glob(f"*{_ENDING}"))
    if not names:
        raise UsageError(
            f"{predictions} holds no probabilities (*{_ENDING}). `autoseg predict --save-probabilities` writes them."
        )
    root, cases = _cases_of(images, len(plan.channel_names))
    targets = {name: output / (name + output_ending(cases[name].images[0])) for name in names if name in cases}
    if any(target.resolve() == (root / cases[name].images[0]).resolve() for name, target in targets.items()):
        raise UsageError(f"Segmentations in {output} would replace the images. Give another folder with -o.")
    remove_outdated(output, (*TABLES, FINISHED, QUALITY_TABLE), targets.values())
    written, failed = [], {}
    for name in console.track(names, len(names), "post-processing"):
        try:
            if name not in cases:
                raise DataError(f"{root} holds no image of it.")
            case, target, temperature = cases[name], targets[name], (temperatures or {}).get(name, 1.0)
            probabilities = tempered_pieces(probabilities_path(predictions, name), temperature, plan.labels)
            _postprocess_case(rule, plan, configuration, predictions, root, case, target, probabilities)
            written.append(target)
        except (DataError, ModelError) as error:
            failed[name] = str(error)
    if failed:
        lines = [f"  {case}: {reason}" for case, reason in failed.items()]
        raise PartialError("\n".join([f"{len(failed)} of {len(names)} cases could not be post-processed:", *lines]))
    return written


def _postprocess_case(
    rule: PostprocessingRule,
    plan: Plan,
    configuration: str,
    predictions: Path,
    root: Path,
    case: Case,
    target: Path,
    probabilities: ProbabilityReader,
) -> None:
    labels, meta = plan.labels, read_meta(predictions, case.id)
    native = labels_from_probabilities([probabilities], meta, labels)
    if rule.components is None:
        native = apply_rule(native, rule)
        changes_path(target.parent, case.id).unlink(missing_ok=True)  # of an earlier segmentation
    else:
        inputs = None
        if rule.components.needs_probabilities:
            folds = [FoldPrediction(probabilities, read_disagreement(predictions, case.id))]
            inputs = ScoreInputs(probabilities, folds, read_case_grid(root, case, meta, plan, configuration))
        native, changes = clean_components(native, meta, labels, rule.components, inputs)
        write_record(changes_path(target.parent, case.id), CaseChanges(case=case.id, changes=changes))
    write_label(target, labels.to_file(native), meta.geometry, like=root / case.images[0])


def _cases_of(images: Path | Dataset, num_channels: int) -> tuple[Path, dict[str, Case]]:
    if isinstance(images, Dataset):
        return Path(images.root), {case.id: case for case in (*images.training, *images.test)}
    root = images if images.is_dir() else images.parent
    return root, {case.id: case for case in find_cases(images, num_channels)}


def _is_same(
    earlier: PostprocessingRule, selection: Selection, components: ComponentSettings, learning: LearningSettings
) -> bool:
    """Whether an earlier rule was chosen on the same cases in the same way."""
    if earlier.decided_by != selection.decided_by:
        return False
    known = earlier.components
    return known is None or (known.components, known.learning) == (components, learning)


def _keep_largest(
    members: Sequence[HeldOut],
    cases: Sequence[str],
    dataset: Dataset,
    labels: LabelScheme,
    learning: LearningSettings,
) -> tuple[PostprocessingRule, dict[str, dict[str, Score]]]:
    """nnU-Net's rule, chosen and scored on the same cases."""
    tables = []
    for case in console.track(cases, len(cases), "measuring components"):
        classes, meta = segmentation_of(case, members, labels)
        reference = reference_of(dataset, case, meta.geometry)
        tables.append(component_table(case, classes, reference, labels, meta.geometry.voxel_volume_mm3))
    rule = choose_rule(tables, labels)
    why = f"nothing is learned about components from fewer than {learning.min_groups} patients; tried on all cases:"
    rule = rule.model_copy(update={"reasons": (why, *rule.reasons)})
    return rule, {table.case: scores_with_rule(table, rule, labels) for table in tables}


def _learned(
    paths: Paths,
    held_out: Mapping[str, HeldOut],
    cases: Sequence[str],
    dataset: Dataset,
    plan: Plan,
    components: ComponentSettings,
    learning: LearningSettings,
) -> tuple[PostprocessingRule, dict[str, dict[str, Score]]]:
    """Rules of components by nested cross-validation, and scores with its decisions."""
    members, configuration = list(held_out.values()), next(iter(held_out))
    tables = [
        held_out_rows(case, members, dataset, plan, configuration, components, learning)
        for case in console.track(cases, len(cases), "measuring components")
    ]
    rows = joined(tables)
    choice = choose_components(rows, plan.labels, components, learning)
    write_text(paths.component_table, component_csv(rows, plan.labels, choice))
    rule = PostprocessingRule(components=choice.rule, reasons=choice.reasons)
    return rule, _scores(rows, plan.labels, choice.keep)


def _scores(rows: Rows, labels: LabelScheme, keep: Bools) -> dict[str, dict[str, Score]]:
    """Scores of every case and target after decisions."""
    found = outcome(rows, painting(labels), keep)
    scores: dict[str, dict[str, Score]] = {}
    for i, case in enumerate(rows.cases):
        counted = zip(found.true_positives[i], found.false_positives[i], found.reference[i], strict=True)
        scored = int(rows.reference[i].sum())
        counts = [
            Counts(int(true), int(false), int(wanted - true), int(scored - wanted - false))
            for true, false, wanted in counted
        ]
        volume = float(rows.voxel_mm3[i])
        scores[case] = {t.name: score_counts(c, volume) for t, c in zip(labels.targets, counts, strict=True)}
    return scores
