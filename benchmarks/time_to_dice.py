"""A dataset, a time budget and published per-case Dice values in; our Dice within the budget beside them, paired, out.

Every seed has a workspace of its own, so that the budget is spent as a new user would spend it:
`plan_and_preprocess`, then `train DATASET 3d_fullres FOLD --budget`. A seed that is trained already is not trained
again. The interval is over cases, of the mean over seeds of each case's difference.

    python benchmarks/time_to_dice.py Task04_Hippocampus Dataset004_Hippocampus.json --budget 15m --seeds 1 2 3
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from autoseg.metrics.statistics import compare_paired
from autoseg.records.base import read_record
from autoseg.records.results import Aggregate, Evaluation, TrainedFold
from autoseg.selection.comparison import MEAN, compare_with_reference, parse_reference


def autoseg(*arguments: str) -> float:
    """Run one command and return its wall time in seconds."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "autoseg", *arguments, "-q"], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def run_seed(options: argparse.Namespace, seed: int) -> Path:
    """Prepare and train one seed; return the folder of the fold, with the wall times beside its records."""
    work = options.work / options.budget / f"seed_{seed}"
    found = list(work.glob(f"*/models/*/{options.configuration}/fold_{options.fold}/fold.json"))
    if found:
        return found[0].parent
    name, common = options.dataset.name, ["--work", str(work), "--device", options.device]
    seconds = {"prepare_seconds": autoseg("plan_and_preprocess", str(options.dataset), *common)}
    length = ["--budget", options.budget, "--seed", str(seed)]
    seconds["train_seconds"] = autoseg("train", name, options.configuration, options.fold, *length, *common)
    folder = next(work.glob(f"*/models/*/{options.configuration}/fold_{options.fold}/fold.json")).parent
    (folder / "wall.json").write_text(json.dumps(seconds))
    return folder


def case_means(evaluation: Evaluation) -> dict[str, float]:
    """Mean Dice over targets of every case."""
    means = {}
    for case, scores in evaluation.cases.items():
        values = [score.dice for score in scores.values() if score.dice is not None]
        if values:
            means[case] = sum(values) / len(values)
    return means


def main() -> None:
    """Train the seeds, print a line for each and one for their mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--method", default="nnunetv2_default")
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--fold", default="0")
    parser.add_argument("--budget", default="15m")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--work", type=Path, default=Path("autoseg_work/time_to_dice"))
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    label = f"{options.dataset.name} {options.configuration} fold {options.fold}, {options.budget}"
    by_case: dict[str, list[float]] = {}
    lines = []
    for seed in options.seeds:
        folder = run_seed(options, seed)
        evaluation = read_record(folder / "validation.json", Evaluation)
        trained = read_record(folder / "fold.json", TrainedFold)
        content = json.loads(options.reference.read_text())
        reference = parse_reference(content, list(evaluation.targets), str(options.reference))[options.method]
        rows = compare_with_reference(evaluation, reference, options.dataset.name, options.configuration, "")
        row = next(row for row in rows if row.target == MEAN)
        for case, mean in case_means(evaluation).items():
            by_case.setdefault(case, []).append(mean)
        wall = folder / "wall.json"
        steps = trained.epochs * trained.iterations_per_epoch
        about = {"steps": steps, **(json.loads(wall.read_text()) if wall.is_file() else {})}
        lines.append(line(f"{label}, seed {seed}", row.ours, row.theirs, row.difference, about))
    theirs = {case: sum(values.values()) / len(values) for case, values in reference.cases.items() if case in by_case}
    cases = sorted(theirs)
    ours = [sum(by_case[case]) / len(by_case[case]) for case in cases]
    paired = compare_paired(ours, [theirs[case] for case in cases])
    mean_theirs = sum(theirs.values()) / len(theirs)
    lines.append(
        line(f"{label}, mean of {len(options.seeds)} seeds", sum(ours) / len(ours), mean_theirs, paired.difference)
    )
    print("\n".join(json.dumps(entry) for entry in lines))


def line(
    name: str, ours: float, peer: float, difference: Aggregate, about: dict[str, float] | None = None
) -> dict[str, object]:
    """One result; `ratio` above 1: we win."""
    interval = {
        "difference": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "cases": difference.num_cases,
    }
    rounded = {key: round(value, 5) if isinstance(value, float) else value for key, value in interval.items()}
    extra = {key: round(value, 1) for key, value in (about or {}).items()}
    result = {
        "name": name,
        "ours": round(ours, 5),
        "peer": round(peer, 5),
        "unit": "Dice",
        "ratio": round(ours / peer, 5),
    }
    return {**result, **rounded, **extra}


if __name__ == "__main__":
    main()
