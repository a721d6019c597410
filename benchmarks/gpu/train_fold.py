"""Fold 0 of Hippocampus as planned by default in, whole-volume Dice after each budget beside published values out.

Each budget is a training of its own, since a schedule anneals inside it; the fold's held-out cases are scored from
the stored probabilities, so that no image library but nibabel is needed. The difference is paired by case, with a 95 %
bootstrap interval over cases.
"""

import argparse
import json
import time
from pathlib import Path

from common import CONFIGURATION, DATASET, FOLD, default_plan, emit, options, workspace

from autoseg.inference.pieces import in_file, labels_from_probabilities
from autoseg.inference.store import probabilities_path, read_meta
from autoseg.metrics.build import score_case, summarize
from autoseg.pipeline.train import TrainOptions, train
from autoseg.records.base import read_record
from autoseg.records.dataset import Dataset
from autoseg.records.plan import Plan
from autoseg.records.results import Evaluation, TrainedFold
from autoseg.selection.comparison import MEAN, compare_with_reference, parse_reference
from autoseg.selection.held_out import reference_of

BUDGETS = (30.0, 60.0, 120.0)
SMOKE_OPTIONS = {"epochs": 2, "iterations": 2}
METHOD = "nnunetv2_default"
_SPARE_SECONDS = 10.0


def main() -> None:
    """Train within each budget that still fits, shortest first."""
    asked = options(__doc__)
    started, level = time.monotonic(), None
    for budget in (1.0,) if asked.smoke else BUDGETS:
        if not asked.smoke and time.monotonic() - started + budget + _SPARE_SECONDS > asked.seconds:
            emit(f"Dice after {budget:.0f} s", None, "Dice", skipped="no time is left for it")
            continue
        seconds, is_level = run(asked, budget)
        level = seconds if level is None and is_level else level
    if not asked.smoke:
        emit("seconds until level with published per-case values", None if level is None else round(level, 1), "s")


def run(asked: argparse.Namespace, budget: float) -> tuple[float, bool]:
    """One training; its wall time, and whether the interval of its difference reaches zero."""
    paths = workspace(asked.out)
    plan = default_plan(paths, asked.smoke).model_copy(update={"name": f"default_{budget:.0f}s"})
    length = SMOKE_OPTIONS if asked.smoke else {"budget_seconds": budget}
    began = time.monotonic()
    trained = train(paths, plan, CONFIGURATION, FOLD, TrainOptions(seed=1, device=asked.device, **length))
    seconds = time.monotonic() - began
    folder = paths.fold(plan.name, CONFIGURATION, FOLD)
    evaluation = score(folder, read_record(paths.dataset, Dataset), trained, plan)
    content = json.loads((asked.bundle / "reference.json").read_text())
    reference = parse_reference(content, list(evaluation.targets), "reference.json")[METHOD]
    rows = compare_with_reference(evaluation, reference, DATASET, CONFIGURATION, METHOD)
    row = next(row for row in rows if row.target == MEAN)
    emit(
        f"Dice after {budget:.0f} s",
        round(row.ours, 5),
        "Dice",
        peer=round(row.theirs, 5),
        ratio=round(row.ours / row.theirs, 5),
        difference=row.difference.mean,
        low=row.difference.low,
        high=row.difference.high,
        cases=row.difference.num_cases,
        steps=trained.epochs * trained.iterations_per_epoch,
        wall_seconds=round(seconds, 1),
    )
    return seconds, row.difference.high is not None and row.difference.high >= 0


def score(folder: Path, dataset: Dataset, trained: TrainedFold, plan: Plan) -> Evaluation:
    """Scores of the held-out cases."""
    scores = {}
    for case in trained.validation_cases:
        meta = read_meta(folder / "validation", case)
        found = labels_from_probabilities([in_file(probabilities_path(folder / "validation", case))], meta, plan.labels)
        truth = reference_of(dataset, case, meta.geometry)
        scores[case] = score_case(found, truth, plan.labels, meta.geometry)
    return summarize("held out", scores)


if __name__ == "__main__":
    main()
