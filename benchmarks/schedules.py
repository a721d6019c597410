"""What schedule, optimiser, patch growth and sampling are worth: the same network and number of steps with each.

    python benchmarks/schedules.py [--dataset FOLDER] [--schedules NAME ...] [--seeds 1 2 3] [--iterations 2000]

Without --dataset phantoms are drawn. Every name is the preset's own plan with settings as a user would give them by
`--set`; the first one is compared with. `auto` may end early, and patch growth makes cheaper steps, so CPU seconds
stand beside the Dice. Cases are preprocessed once. Trainings that --work holds already are not repeated, an interrupted
one goes on; so a run can be spread over days, and names, seeds or steps can be added.

Fold 0 is trained, and scored over its whole held-out volumes. A line for each training comes first; the last lines are
a JSON line for each name: mean Dice over cases of the mean over targets and seeds, its 95 % bootstrap interval over
cases, and the difference to the first name, paired by case.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

from paired_trainings import add_options, mean_over_seeds, numbers, phantoms, train_counted

from autoseg.metrics.build import case_mean
from autoseg.metrics.statistics import aggregate, compare_paired
from autoseg.pipeline.flow import PrepareOptions, prepare
from autoseg.planning.settings import apply_settings
from autoseg.records.base import read_record
from autoseg.records.plan import Plan
from autoseg.records.results import Evaluation
from autoseg.records.workspace import Paths

EPOCHS = 20
_SCHEDULE, _OPTIMIZER, _GROWTH = "{name}.recipe.schedule", "{name}.recipe.optimizer", "{name}.recipe.patch_growth"
_SAMPLING = "{name}.recipe.sampling"
_WSD = f"{_SCHEDULE}.name=wsd"
_STAGES = _GROWTH + '.stages=[{{"until": 0.3, "fraction": 0.5}}, {{"until": 0.6, "fraction": 0.75}}]'
SCHEDULES: dict[str, tuple[str, ...]] = {
    "planned": (),
    "poly": (f"{_SCHEDULE}.name=poly",),
    "wsd": (_WSD,),
    "wsd_linear": (_WSD, f"{_SCHEDULE}.cooldown_shape=linear"),
    "wsd_half": (_WSD, f"{_SCHEDULE}.cooldown_fraction=0.5"),
    "one_cycle": (f"{_SCHEDULE}.name=one_cycle",),
    "sgd": (
        f"{_OPTIMIZER}.name=sgd",
        f"{_OPTIMIZER}.learning_rate=0.01",
        f"{_OPTIMIZER}.momentum=0.99",
        f"{_OPTIMIZER}.weight_decay=3e-5",
        f"{_SCHEDULE}.name=poly",
    ),
    "muon": (f"{_OPTIMIZER}.name=muon",),
    "schedule_free": (f"{_OPTIMIZER}.name=schedule_free", _WSD, f"{_SCHEDULE}.cooldown_fraction=0"),
    "growth": (_STAGES,),
    "growth_voxels": (_STAGES, f"{_GROWTH}.keeps_voxels=true"),
    "average": ("{name}.recipe.ema_decay=0.99",),
    "auto": (_WSD, f"{_SCHEDULE}.ends=plateau", "{name}.recipe.watch.cases=3", "{name}.recipe.watch.every_epochs=1"),
    "class_balanced": (f"{_SAMPLING}.class_balanced=true",),
    "hard": (f"{_SAMPLING}.hard_ratio=3",),
    "class_balanced_hard": (f"{_SAMPLING}.class_balanced=true", f"{_SAMPLING}.hard_ratio=3"),
}
"""Name -> settings; `planned` is the preset's own (small: AdamW, cosine with a warm-up)."""


class Result(NamedTuple):
    """One training: case id -> mean Dice over targets, its steps and its CPU seconds."""

    dice: dict[str, float | None]
    steps: int
    cpu_seconds: float


def main() -> None:
    """Train what is missing, print a line a training and the comparison last."""
    options = parse()
    folder = options.dataset or phantoms(options)
    prepared = PrepareOptions(
        preset=options.preset, plan_name="planned", settings=tuple(options.set), configurations=(options.configuration,)
    )
    paths, planned = prepare(str(folder), options.work, prepared)
    results: dict[str, list[Result]] = {name: [] for name in options.schedules}
    for seed in options.seeds:  # seed by seed: after the first one all can be compared
        for name in options.schedules:
            results[name].append(run(paths, planned, name, seed, options))
    about = {"dataset": paths.folder.name, "configuration": options.configuration, "seeds": len(options.seeds)}
    rows = [row(name, found, results[options.schedules[0]]) for name, found in results.items()]
    print("\n".join(json.dumps({**about, **entry}) for entry in rows))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, help="a dataset folder; default: phantoms")
    parser.add_argument("--schedules", nargs="+", choices=list(SCHEDULES), default=list(SCHEDULES))
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="settings of all of them alike")
    add_options(parser, "schedules")
    return parser.parse_args()


def run(paths: Paths, planned: Plan, name: str, seed: int, options: argparse.Namespace) -> Result:
    """Train with one name and seed, or go on with it; print what it reached."""
    plan = apply_settings(planned, [text.format(name=options.configuration) for text in SCHEDULES[name]])
    plan = plan.model_copy(update={"name": f"{name}_{options.iterations}_seed{seed}"})
    trained, spent = train_counted(paths, plan, options, EPOCHS, max(1, options.iterations // EPOCHS), seed)
    line = {"name": plan.name, "dice": trained.mean_dice, "epochs": trained.epochs, "cpu_seconds": round(spent, 1)}
    print(json.dumps(line), flush=True)
    folder = paths.fold(plan.name, options.configuration, options.fold)
    cases = read_record(folder / "validation.json", Evaluation).cases
    dice = {case: case_mean(scores) for case, scores in cases.items()}
    return Result(dice, trained.epochs * trained.iterations_per_epoch, spent)


def row(name: str, results: list[Result], reference: list[Result]) -> dict[str, object]:
    """One line of the table."""
    ours, theirs = (mean_over_seeds([result.dice for result in side]) for side in (results, reference))
    compared = compare_paired(list(ours.values()), [theirs[case] for case in ours])
    return {
        "name": name,
        "steps": round(sum(result.steps for result in results) / len(results)),
        "cpu_seconds": round(sum(result.cpu_seconds for result in results) / len(results), 1),
        "dice": numbers(aggregate(list(ours.values()))),
        "difference": {**numbers(compared.difference), "p": compared.p_value},
    }


if __name__ == "__main__":
    main()
