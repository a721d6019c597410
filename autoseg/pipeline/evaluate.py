"""Stage: a folder of segmentations and a folder of references in, `evaluation.json` and `evaluation.csv` out.

Files belong together when they have one name up to the format's ending. What cannot be scored (a missing
prediction, another grid, a value outside the labels) is listed with its reason, all of it, and everything else is
scored. A segmentation whose voxels run in another order but lie in the same place is turned first.
"""

from collections.abc import Mapping
from pathlib import Path

from autoseg import console
from autoseg.datasets.label_files import label_files, scheme_from_values, scheme_of, values_on_grid
from autoseg.errors import DataError
from autoseg.images.reading import read_label
from autoseg.metrics.build import METRICS, score_case, score_counts, summarize
from autoseg.metrics.overlap import Counts
from autoseg.records.base import write_record
from autoseg.records.labels import LabelScheme
from autoseg.records.results import Evaluation, Score
from autoseg.storage.atomic import write_text
from autoseg.storage.tables import csv_text

TOLERANCE_MM = 1.0
"""Of the surface Dice, where no other is asked for."""

_COLUMNS = (
    *METRICS,
    "nsd",
    "volume_mm3",
    "reference_volume_mm3",
    "true_positives",
    "false_positives",
    "false_negatives",
)


def evaluate(
    predictions: Path,
    references: Path,
    labels: LabelScheme | None = None,
    dataset_json: Path | None = None,
    output: Path | None = None,
    tolerance_mm: float | None = TOLERANCE_MM,
) -> Evaluation:
    """Score every reference's prediction.

    Args:
        predictions: folder of segmentations in file values.
        references: folder of label files of the same names.
        labels: scheme of both.
        dataset_json: file to read the scheme from instead. With neither, each value found is a target, unless a
            `dataset.json` lies in or above the references.
        output: folder of `evaluation.json` and `evaluation.csv`; default: `predictions`.
        tolerance_mm: of the surface Dice; None: not computed.

    Returns:
        The evaluation; what could not be scored is in `failed`, which the command line turns into exit code 5.

    Raises:
        UsageError: a folder is missing or holds no images.
    """
    found, wanted = label_files(predictions), label_files(references)
    scheme = labels or scheme_of(references, dataset_json)
    scores: dict[str, dict[str, Score]] = {}
    failed = {case: f"there is no reference {case} in {references}" for case in sorted(set(found) - set(wanted))}
    for case in console.track(sorted(wanted), len(wanted), "evaluating"):
        if case not in found:
            failed[case] = f"there is no prediction {case} in {predictions}"
            continue
        try:
            scores[case] = _score_files(found[case], wanted[case], scheme, tolerance_mm)
        except DataError as error:
            failed[case] = str(error)
    evaluation = summarize(f"{predictions} against {references}", _with_all_targets(scores), failed)
    folder = predictions if output is None else output
    write_record(folder / "evaluation.json", evaluation)
    write_text(folder / "evaluation.csv", to_csv(evaluation))
    return evaluation


def to_csv(evaluation: Evaluation) -> str:
    """One row a case and target; undefined scores are empty cells."""
    rows = (
        [case, target, *(getattr(score, column) for column in _COLUMNS)]
        for case, scores in evaluation.cases.items()
        for target, score in scores.items()
    )
    return csv_text(["case", "target", *_COLUMNS], rows)


def _score_files(
    prediction: Path, reference: Path, labels: LabelScheme | None, tolerance_mm: float | None
) -> dict[str, Score]:
    """Scores of one pair; raises DataError when they do not lie on one grid or hold values outside the labels."""
    wanted, found = read_label(reference), read_label(prediction)
    values = values_on_grid(found, prediction, wanted, reference, "prediction", "reference")
    scheme = labels or scheme_from_values(values, wanted.array[0])
    return score_case(
        scheme.to_internal(values, str(prediction)),
        scheme.to_internal(wanted.array[0], str(reference)),
        scheme,
        wanted.geometry,
        tolerance_mm,
    )


def _with_all_targets(cases: Mapping[str, Mapping[str, Score]]) -> dict[str, dict[str, Score]]:
    """The scores with a case's missing targets added as absent from prediction and reference.

    Only without a scheme can a target be missing: its value occurs in other cases alone.
    """
    names = sorted({name for scores in cases.values() for name in scores}, key=lambda name: (len(name), name))
    ordered = next((list(scores) for scores in cases.values() if len(scores) == len(names)), names)
    absent = score_counts(Counts(0, 0, 0), 1.0)
    return {case: {name: scores.get(name, absent) for name in ordered} for case, scores in cases.items()}
