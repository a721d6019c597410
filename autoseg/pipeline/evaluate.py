"""Stage: a folder of segmentations and a folder of references in, `evaluation.json` and `evaluation.csv` out.

Files belong together when they have one name up to the format's ending. What cannot be scored (a missing
prediction, another grid, a value outside the labels) is listed with its reason, all of it, and everything else is
scored. A segmentation whose voxels run in another order but lie in the same place is turned first.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from autoseg import console
from autoseg.datasets.label_files import label_files, scheme_from_values, scheme_of, turn_onto
from autoseg.devices import free_memory, num_cores
from autoseg.errors import DataError, ModelError, UsageError
from autoseg.images.formats import stem
from autoseg.images.reading import expected_bytes, read_label
from autoseg.metrics.build import METRICS, score_case, score_counts, summarize
from autoseg.metrics.calibration import brier_score, expected_calibration_error
from autoseg.metrics.comparison import compare_evaluations
from autoseg.metrics.detection import ScoredCandidate, froc
from autoseg.metrics.overlap import Counts
from autoseg.metrics.tolerances import tolerance_mm
from autoseg.records.base import write_record
from autoseg.records.comparison import Comparison
from autoseg.records.detection import FrocCurve
from autoseg.records.labels import LabelScheme
from autoseg.records.prediction_folder import COMPARISON, COMPARISON_TABLE, EVALUATION, EVALUATION_TABLE
from autoseg.records.results import Evaluation, Score
from autoseg.records.scoring import Group, Scoring
from autoseg.selection.probabilities import has_probabilities, measure_probabilities
from autoseg.spatial.orientation import turn, turn_back
from autoseg.storage.atomic import write_text
from autoseg.storage.tables import csv_text

DEFAULT_GROUPS: tuple[Group, ...] = ("overlap", "surface", "lesions")
"""Metrics that are computed where no others are asked for; the rest costs more than all of them."""

_COUNTS = ("true_positives", "false_positives", "false_negatives", "true_negatives")
_LESION_COLUMNS = {
    "lesions": "lesions",
    "found": "lesions_found",
    "candidates": "candidates",
    "false_candidates": "false_candidates",
}
_COPIES = 3
"""Times the voxels of both files that a case takes at its peak: as read, as class numbers, masks and components."""


@dataclass(frozen=True)
class _CaseResult:
    scores: dict[str, Score]
    candidates: dict[str, list[ScoredCandidate]]
    """Target name -> scored components; empty without probabilities."""


def evaluate(
    predictions: Path,
    references: Path,
    labels: LabelScheme | None = None,
    dataset_json: Path | None = None,
    output: Path | None = None,
    scoring: Scoring | None = None,
    num_workers: int | None = None,
) -> Evaluation:
    """Score every reference's prediction.

    Args:
        predictions: folder of segmentations in file values.
        references: folder of label files of the same names.
        labels: scheme of both.
        dataset_json: file to read the scheme from instead. With neither, each value found is a target, unless a
            `dataset.json` lies in or above the references.
        output: folder of `evaluation.json` and `evaluation.csv`; default: `predictions`.
        scoring: metrics, tolerances and lesion rule; None: see `default_scoring`.
        num_workers: cases at a time; None: one a CPU core.

    Returns:
        The evaluation; what could not be scored is in `failed`, which the command line turns into exit code 5.

    Raises:
        UsageError: a folder is missing or holds no images, or a tolerance is for a target that does not exist.
    """
    found, wanted = label_files(predictions), label_files(references)
    scheme = labels or scheme_of(references, dataset_json)
    scoring = default_scoring(references, dataset_json) if scoring is None else scoring
    if scheme is not None:
        _check_tolerances(scoring, [target.name for target in scheme.targets])
    failed = {case: f"there is no reference {case} in {references}" for case in sorted(set(found) - set(wanted))}
    failed |= {case: f"there is no prediction {case} in {predictions}" for case in sorted(set(wanted) - set(found))}
    scores: dict[str, dict[str, Score]] = {}
    candidates: dict[str, list[ScoredCandidate]] = {}
    pairs = {case: (found[case], wanted[case]) for case in sorted(set(found) & set(wanted))}
    _check_probabilities(predictions, list(pairs), scheme, scoring)
    for case, result in _in_parallel(pairs, scheme, scoring, num_workers):
        if isinstance(result, str):
            failed[case] = result
            continue
        scores[case] = result.scores
        for target, found_there in result.candidates.items():
            candidates.setdefault(target, []).extend(found_there)
    if scheme is None and scores:
        _check_tolerances(scoring, sorted({name for case in scores.values() for name in case}))
    evaluation = summarize(f"{predictions} against {references}", _with_all_targets(scores), failed, scoring)
    evaluation = evaluation.model_copy(update={"froc": _froc_curves(candidates, scores)})
    folder = predictions if output is None else output
    write_record(folder / EVALUATION, evaluation)
    write_text(folder / EVALUATION_TABLE, to_csv(evaluation))
    return evaluation


def compare(first: Evaluation, second: Evaluation, names: tuple[str, str], output: Path) -> Comparison:
    """Compare two evaluations of the same references case by case.

    Args:
        first: of `evaluate`.
        second: likewise, with the same scoring.
        names: what the two are, for people.
        output: folder of `comparison.json` and `comparison.csv`.

    Raises:
        DataError: they have no case in common.
    """
    if not set(first.cases) & set(second.cases):
        raise DataError(f"{names[0]} and {names[1]} have no scored case in common, so nothing can be compared.")
    comparison = compare_evaluations(first, second, names=names)
    write_record(output / COMPARISON, comparison)
    write_text(output / COMPARISON_TABLE, comparison_csv(comparison))
    return comparison


def default_scoring(references: Path, dataset_json: Path | None = None) -> Scoring:
    """Overlap, surface and lesion metrics, at the Decathlon's tolerance where the folder above is one of its tasks."""
    folder = (references if dataset_json is None else dataset_json).resolve().parent
    return Scoring(groups=DEFAULT_GROUPS, default_tolerance_mm=tolerance_mm(folder.name))


def to_csv(evaluation: Evaluation) -> str:
    """One row a case and target; undefined scores are empty cells. Metrics that were not computed have no column."""
    computed = {metric for aggregates in evaluation.targets.values() for metric in aggregates}
    metrics = [metric for metric in METRICS if metric in computed]
    lesions = tuple(_LESION_COLUMNS) if "lesion_f1" in computed else ()
    columns = ["case", "target", *metrics, *_COUNTS, *(_LESION_COLUMNS[name] for name in lesions)]
    rows = (
        [
            case,
            target,
            *(getattr(score, column) for column in (*metrics, *_COUNTS)),
            *(score.lesion_counts and getattr(score.lesion_counts, name) for name in lesions),
        ]
        for case, scores in evaluation.cases.items()
        for target, score in scores.items()
    )
    return csv_text(columns, rows)


def comparison_csv(comparison: Comparison) -> str:
    """One row a metric and target; undefined values are empty cells."""
    own = ("first", "second", "better", "p_value", "p_holm", "num_undefined")
    rows = (
        [row.metric, row.target, d.num_cases, d.mean, d.low, d.high, *(getattr(row, column) for column in own)]
        for row in comparison.rows
        for d in [row.difference]
    )
    return csv_text(["metric", "target", "num_cases", "difference", "low", "high", *own], rows)


def _check_tolerances(scoring: Scoring, targets: Sequence[str]) -> None:
    unknown = sorted(set(scoring.tolerances_mm) - set(targets))
    if unknown:
        raise UsageError(f"--tolerance: there is no target {', '.join(unknown)}; the targets are {', '.join(targets)}.")


def _in_parallel(
    pairs: Mapping[str, tuple[Path, Path]], labels: LabelScheme | None, scoring: Scoring, num_workers: int | None
) -> Iterator[tuple[str, _CaseResult | str]]:
    """Score cases in threads (unpacking and most of numpy run outside Python's lock); in order, a text says why not."""
    count, memory = num_workers or num_cores(), free_memory()
    at_once = max(1, min(count, len(pairs)))

    def score(files: tuple[Path, Path]) -> _CaseResult | str:
        with memory.share(_COPIES * sum(expected_bytes(file) for file in files)):
            try:
                return _score_files(files[0], files[1], labels, scoring, max(1, count // at_once))
            except (DataError, ModelError) as error:
                return str(error)

    with ThreadPoolExecutor(at_once) as pool:
        results = zip(pairs, pool.map(score, pairs.values()), strict=True)
        yield from console.track(results, len(pairs), "evaluating")


def _score_files(
    prediction: Path, reference: Path, labels: LabelScheme | None, scoring: Scoring, num_workers: int
) -> _CaseResult:
    """Scores of one pair; raises DataError when they do not lie on one grid or hold values outside the labels."""
    wanted, found = read_label(reference), read_label(prediction)
    turned = turn_onto(found, prediction, wanted, reference, "prediction", "reference")
    values = turn(found.array, turned)[0]
    scheme = labels or scheme_from_values(values, wanted.array[0])
    classes = scheme.to_internal(values, str(prediction))
    truth = scheme.to_internal(wanted.array[0], str(reference))
    scores = score_case(classes, truth, scheme, wanted.geometry, scoring, num_workers)
    if "probabilities" not in scoring.groups:
        return _CaseResult(scores, {})
    rule = scoring.lesion_rule if "lesions" in scoring.groups else None
    in_order = [turn_back(array, turned) for array in (classes, truth)]
    believed = measure_probabilities(prediction.parent, stem(prediction), in_order[0], in_order[1], scheme, rule)
    for name, bins in believed.bins.items():
        more = {"ece": expected_calibration_error(bins), "brier": brier_score(bins)}
        scores[name] = scores[name].model_copy(update=more)
    return _CaseResult(scores, believed.candidates)


def _check_probabilities(folder: Path, cases: Sequence[str], labels: LabelScheme | None, scoring: Scoring) -> None:
    if "probabilities" not in scoring.groups:
        return
    if labels is None:
        raise UsageError("probabilities can only be scored with the dataset's labels: give --dataset-json.")
    missing = [case for case in cases if not has_probabilities(folder, case)]
    if missing:
        raise UsageError(
            f"{folder} holds no probabilities of {', '.join(missing)}. They lie beside the segmentations of held-out "
            "cases (fold_*/validation); score other folders without the group `probabilities`."
        )


def _froc_curves(
    candidates: Mapping[str, Sequence[ScoredCandidate]], cases: Mapping[str, Mapping[str, Score]]
) -> dict[str, FrocCurve]:
    """The curve of each target over all scored cases."""
    counts = {target: [scores[target].lesion_counts for scores in cases.values()] for target in candidates}
    return {
        target: froc(found, sum(c.lesions for c in counts[target] if c is not None), len(cases))
        for target, found in candidates.items()
    }


def _with_all_targets(cases: Mapping[str, Mapping[str, Score]]) -> dict[str, dict[str, Score]]:
    """The scores with a case's missing targets added as absent from prediction and reference.

    Only without a scheme can a target be missing: its value occurs in other cases alone.
    """
    names = sorted({name for scores in cases.values() for name in scores}, key=lambda name: (len(name), name))
    ordered = next((list(scores) for scores in cases.values() if len(scores) == len(names)), names)
    absent = score_counts(Counts(0, 0, 0), 1.0)
    return {case: {name: scores.get(name, absent) for name in ordered} for case, scores in cases.items()}
