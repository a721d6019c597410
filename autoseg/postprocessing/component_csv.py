"""The matched components of all cases in, the text of `component_table.csv` out: what was learned from, to look at."""

import numpy as np

from autoseg.postprocessing.choose import Choice
from autoseg.postprocessing.rows import UNKNOWN, Rows
from autoseg.records.labels import LabelScheme
from autoseg.storage.tables import csv_text

_FIRST = ("case", "patient", "target", "kind", "threshold", "x_mm", "y_mm", "z_mm", "voxels", "voxels_in_reference",
          "is_true", "is_false_positive", "nested_decision", "nested_score")  # fmt: skip


def component_csv(rows: Rows, labels: LabelScheme, choice: Choice) -> str:
    """One row a component or candidate.

    `nested_decision` and `nested_score` are those of the method that was accepted, by a model that did not see the
    patient. Cells of what is not defined or not known are empty.
    """
    return csv_text((*_FIRST, *rows.names), (_row(rows, labels, choice, i) for i in range(len(rows.target))))


def _row(rows: Rows, labels: LabelScheme, choice: Choice, i: int) -> list[object]:
    is_decided, case = bool(rows.is_decided[i]), int(rows.case[i])
    return [
        rows.cases[case],
        rows.groups[case],
        labels.targets[int(rows.target[i])].name,
        "component" if is_decided else "candidate",
        None if is_decided else float(rows.levels[i]),
        *(round(float(value), 3) for value in rows.centres_mm[i]),
        int(rows.sizes[i]),
        int(rows.overlap[i]),
        None if rows.truth[i] == UNKNOWN else int(rows.truth[i]),
        int(rows.is_false[i]),
        _decision(is_decided, bool(choice.keep[i])),
        _number(choice.scores[i]),
        *(_number(value) for value in rows.features[i]),
    ]


def _decision(is_decided: bool, keep: bool) -> str:
    if is_decided:
        return "kept" if keep else "removed"
    return "restored" if keep else "left out"


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None
