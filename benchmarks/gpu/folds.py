"""A prepared dataset and a time in, folds trained by our schedule within it and scored on whole held-out volumes out.

The time is that of all folds together, validation and scoring included. Hippocampus is paired by case with nnU-Net's
published values (1000 epochs a fold), fold by fold and over all; the case means are kept for `score.py`, which pairs
them with what nnU-Net's own trainers reach on this device.
"""

import argparse
import time

from common import CONFIGURATION, DATASET, default_plan, emit, options, workspace
from scoring import SCORING, against_published, case_means, score_fold, write_means

from autoseg.metrics.build import summarize
from autoseg.pipeline.train import TrainOptions, train
from autoseg.records.base import read_record
from autoseg.records.dataset import Dataset, Folds
from autoseg.records.results import Evaluation

SMOKE_OPTIONS = {"epochs": 1, "iterations": 2}
_SCORING_SECONDS = 4.0
"""Kept from each fold's share for scoring it."""


def main() -> None:
    """Train each fold in an equal share of the time that is left."""
    asked, started = options(__doc__, add_arguments), time.monotonic()
    paths = workspace(asked.out, asked.dataset)
    known = range(len(read_record(paths.folds, Folds).folds))
    folds = [fold for fold in known if asked.folds is None or fold in asked.folds]
    found: dict[str, dict] = {}
    for done, fold in enumerate(folds):
        began = time.monotonic()
        share = (asked.seconds - (began - started)) / (len(folds) - done) - _SCORING_SECONDS
        evaluation = run(asked, str(fold), max(share, 1.0))
        found |= evaluation.cases
        tell(asked, f"{asked.dataset}, fold {fold}", evaluation, time.monotonic() - began)
        write_means(asked.out, asked.dataset, case_means(summarize("so far", found, scoring=SCORING)))
    if len(folds) > 1:
        together = summarize("all folds", found, scoring=SCORING)
        tell(asked, f"{asked.dataset}, {len(folds)} folds", together, time.monotonic() - started)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", default=DATASET)
    parser.add_argument("--folds", nargs="+", type=int, default=None, help="default: all")


def run(asked: argparse.Namespace, fold: str, seconds: float) -> Evaluation:
    """One fold within `seconds`, scored."""
    paths = workspace(asked.out, asked.dataset)
    plan = default_plan(paths, asked.smoke).model_copy(update={"name": "default_folds"})
    length = SMOKE_OPTIONS if asked.smoke else {"budget_seconds": seconds}
    trained = train(paths, plan, CONFIGURATION, fold, TrainOptions(seed=1, device=asked.device, **length))
    folder = paths.fold(plan.name, CONFIGURATION, fold) / "validation"
    return score_fold(folder, trained.validation_cases, read_record(paths.dataset, Dataset), plan.labels)


def tell(asked: argparse.Namespace, title: str, evaluation: Evaluation, seconds: float) -> None:
    """Dice, beside published values where there are some, and surface Dice at 1 mm."""
    about = {"wall_seconds": round(seconds, 1), "cases": len(evaluation.cases)}
    dice, nsd = (evaluation.foreground_mean[name].mean for name in ("dice", "nsd"))
    more = against_published(evaluation, asked.bundle) if asked.dataset == DATASET else {"ours": dice}
    emit(f"{title}: Dice", more.pop("ours"), "Dice", **{**about, **more})
    emit(f"{title}: surface Dice at 1 mm", nsd, "NSD", **about)


if __name__ == "__main__":
    main()
