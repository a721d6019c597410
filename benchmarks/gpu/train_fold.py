"""Fold 0 of Hippocampus as planned by default in, whole-volume Dice after each budget beside published values out.

Each of `--budgets`, in seconds, is a training of its own, since a schedule anneals inside it; the fold's held-out cases
are scored from the stored probabilities, so that no image library but nibabel is needed. The difference is paired by
case, with a 95 % bootstrap interval over cases.
"""

import argparse
import time

from common import CONFIGURATION, FOLD, default_plan, emit, options, workspace
from scoring import against_published, score_fold

from autoseg.pipeline.train import TrainOptions, train
from autoseg.records.base import read_record
from autoseg.records.dataset import Dataset

SMOKE_OPTIONS = {"epochs": 2, "iterations": 2}
_SPARE_SECONDS = 10.0


def main() -> None:
    """Train within each budget that still fits, shortest first."""
    asked = options(__doc__, lambda parser: parser.add_argument("--budgets", nargs="+", type=float, default=[120.0]))
    started, level = time.monotonic(), None
    for budget in (1.0,) if asked.smoke else asked.budgets:
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
    folder = paths.fold(plan.name, CONFIGURATION, FOLD) / "validation"
    evaluation = score_fold(folder, trained.validation_cases, read_record(paths.dataset, Dataset), plan.labels)
    beside = against_published(evaluation, asked.bundle)
    steps = trained.epochs * trained.iterations_per_epoch
    emit(
        f"Dice after {budget:.0f} s", beside.pop("ours"), "Dice", **beside, steps=steps, wall_seconds=round(seconds, 1)
    )
    return seconds, beside["high"] is not None and beside["high"] >= 0


if __name__ == "__main__":
    main()
