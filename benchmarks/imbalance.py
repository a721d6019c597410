"""What the planner's answers to class imbalance are worth: each rule switched off, against all of them on.

    python benchmarks/imbalance.py [--dataset FOLDER ...] [--seeds 1 2 3] [--iterations 2000] [--variants NAME ...]

Without --dataset 40 phantoms are drawn. Every variant is the preset's own plan with settings as a user would give them
by `--set`: the same network, patch, batch, seed and number of steps; only what `planning/imbalance.py` decides differs:

    all_on               as planned
    no_fraction          patches are centred on foreground as often as nnU-Net does it (0.33, its rounding)
    no_sampling_weights  the class of such a patch is drawn uniformly
    no_loss_weights      all classes weigh alike in the cross-entropy
    all_off              all three

A rule that does not answer to a dataset leaves its variant equal to another one; this is said and nothing is trained
for it. Fold 0 is trained, and scored over its whole held-out volumes. Trainings that --work holds already are not
repeated, an interrupted one goes on; so a run can be spread over days, and seeds can be added.

The last lines are JSON, one for each variant and target: `ours` is the Dice with all rules, `peer` without this one,
both means over cases of the mean over seeds; `difference` (ours - peer) has a 95 % bootstrap interval over cases of the
paired differences. Before them stands a line for each training with its CPU seconds, validation included.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from paired_trainings import add_options, phantoms, rounded, train_counted

from autoseg import console
from autoseg.metrics.statistics import compare_paired
from autoseg.pipeline.flow import PrepareOptions, prepare
from autoseg.planning.settings import apply_settings
from autoseg.records.base import read_record
from autoseg.records.plan import Plan
from autoseg.records.recipe import Sampling
from autoseg.records.results import Evaluation
from autoseg.records.workspace import Paths

BASELINE = "all_on"
MEAN = "mean of targets"
EPOCHS = 10
_UNIFORM = Sampling()
_FRACTION = (
    f"{{name}}.recipe.sampling.foreground_fraction={_UNIFORM.foreground_fraction}",
    f"{{name}}.recipe.sampling.rounding={_UNIFORM.rounding}",
)
_SAMPLING_WEIGHTS = ("{name}.recipe.sampling.class_weights=null",)
_LOSS_WEIGHTS = ("{name}.recipe.loss.{cross_entropy}.class_weights=null",)
VARIANTS: dict[str, tuple[str, ...]] = {
    BASELINE: (),
    "no_fraction": _FRACTION,
    "no_sampling_weights": _SAMPLING_WEIGHTS,
    "no_loss_weights": _LOSS_WEIGHTS,
    "all_off": (*_FRACTION, *_SAMPLING_WEIGHTS, *_LOSS_WEIGHTS),
}
"""Name -> settings that switch rules off."""


def main() -> None:
    """Train what is missing, print a line a training and the comparison last."""
    options = parse()
    lines = []
    for folder in options.dataset or [phantoms(options)]:
        lines += ablate(folder, options)
    print("\n".join(json.dumps(line) for line in lines))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, nargs="+", help="dataset folders; default: phantoms")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    add_options(parser, "imbalance")
    return parser.parse_args()


def ablate(folder: Path, options: argparse.Namespace) -> list[dict[str, object]]:
    """Train the variants of one dataset and compare them."""
    prepared = PrepareOptions(preset=options.preset, plan_name=BASELINE, configurations=(options.configuration,))
    paths, planned = prepare(str(folder), options.work, prepared)
    names = distinct([BASELINE, *(name for name in options.variants if name != BASELINE)], planned, options)
    scores: dict[str, list[Evaluation]] = {name: [] for name in names}
    for seed in options.seeds:  # seed by seed: after the first one all variants can be compared
        for name in names:
            scores[name].append(run(paths, planned, name, seed, options))
    about = {"dataset": paths.folder.name, "seeds": len(options.seeds), "steps": num_steps(options)}
    return [line for name in names[1:] for line in compare(scores[BASELINE], scores[name], {"variant": name, **about})]


def variant_plan(planned: Plan, variant: str, configuration: str) -> Plan:
    """The plan with the rules of the variant switched off, by the settings a user would give."""
    settings = planned.configurations[configuration]  # type: ignore[index]
    place = next(i for i, term in enumerate(settings.recipe.loss) if term.name == "cross_entropy")
    texts = [text.format(name=configuration, cross_entropy=place) for text in VARIANTS[variant]]
    return apply_settings(planned, texts)


def distinct(names: Sequence[str], planned: Plan, options: argparse.Namespace) -> list[str]:
    """Variants whose recipe differs from that of all before."""
    seen: dict[str, str] = {}
    for name in names:
        plan = variant_plan(planned, name, options.configuration)
        recipe = plan.configurations[options.configuration].recipe.model_dump_json()
        if recipe in seen.values():
            same = next(key for key, value in seen.items() if value == recipe)
            console.say(f"{planned.dataset}: {name} is the same as {same} here; not trained.")
        else:
            seen[name] = recipe
    return list(seen)


def run(paths: Paths, planned: Plan, variant: str, seed: int, options: argparse.Namespace) -> Evaluation:
    """Train one variant with one seed, or go on with it; print what it reached and return its scores."""
    plan = variant_plan(planned, variant, options.configuration)
    plan = plan.model_copy(update={"name": f"{variant}_{num_steps(options)}_seed{seed}"})
    trained, spent = train_counted(paths, plan, options, EPOCHS, num_steps(options) // EPOCHS, seed)
    line = {"name": plan.name, "dataset": planned.dataset, "dice": trained.mean_dice, "cpu_seconds": round(spent, 1)}
    print(json.dumps(line), flush=True)
    return read_record(paths.fold(plan.name, options.configuration, options.fold) / "validation.json", Evaluation)


def num_steps(options: argparse.Namespace) -> int:
    """Steps of each training: --iterations, made whole epochs of."""
    return -(-options.iterations // EPOCHS) * EPOCHS


def by_target(evaluations: Sequence[Evaluation]) -> dict[str, dict[str, float]]:
    """Target (and `MEAN`, over targets) -> case -> mean Dice over the seeds in which it is defined."""
    values: dict[str, dict[str, list[float]]] = {}
    for evaluation in evaluations:
        for case, scores in evaluation.cases.items():
            found = {target: score.dice for target, score in scores.items() if score.dice is not None}
            if found:
                found = {MEAN: sum(found.values()) / len(found), **found}
            for target, dice in found.items():
                values.setdefault(target, {}).setdefault(case, []).append(dice)
    return {target: {case: sum(v) / len(v) for case, v in cases.items()} for target, cases in values.items()}


def compare(
    with_rules: Sequence[Evaluation], without: Sequence[Evaluation], about: dict[str, object]
) -> list[dict[str, object]]:
    """A line a target: Dice with all rules and without, and their paired difference over cases."""
    ours, theirs = by_target(with_rules), by_target(without)
    lines = []
    for target in (MEAN, *with_rules[0].targets):
        cases = sorted(set(ours.get(target, {})) & set(theirs.get(target, {})))
        if not cases:
            continue
        one, other = [ours[target][case] for case in cases], [theirs[target][case] for case in cases]
        paired = compare_paired(one, other)
        mean, peer = sum(one) / len(one), sum(other) / len(other)
        difference = paired.difference.model_dump()
        lines.append(
            {
                "name": f"{about['dataset']}: {BASELINE} against {about['variant']}, {target}",
                "ours": round(mean, 5),
                "peer": round(peer, 5),
                "unit": "Dice",
                "ratio": round(mean / peer, 5) if peer else None,
                "difference": rounded(difference["mean"]),
                "low": rounded(difference["low"]),
                "high": rounded(difference["high"]),
                "cases": difference["num_cases"],
                "p_value": rounded(paired.p_value),
                **about,
            }
        )
    return lines


if __name__ == "__main__":
    main()
