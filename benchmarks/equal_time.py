"""A dataset and a time in, held-out Dice of our training and of three peers after that same time out, paired by case.

    AUTOSEG_PEER_PYTHON=../peer/bin/python python benchmarks/equal_time.py Task04_Hippocampus --budget 20m --seeds 1 2 3

Ours is `autoseg train --budget`, which counts everything: measuring, loading, validation. The peers
(`equal_time_peer.py`) train for the whole time, and preparing and predicting come on top. All run one after another on
`--threads` CPU threads; with `--clock cpu` the time is the CPU time of one thread, which other jobs do not shorten. A
side and seed that is done already is not done again. All segmentations are scored by our `metrics`, on the files' own
grids; the interval is over cases, of the mean over seeds of each case's difference.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoseg.cli.options import parse_duration
from autoseg.datasets.pairs import on_grid_of
from autoseg.images.reading import read_label
from autoseg.metrics.build import case_mean, score_case
from autoseg.metrics.statistics import compare_paired
from autoseg.records.base import read_record
from autoseg.records.dataset import Dataset, Folds
from autoseg.records.plan import Plan
from autoseg.records.results import ReferenceScores
from autoseg.records.workspace import Paths
from autoseg.selection.comparison import parse_reference

SIDES = ("ours", "nnunet", "nnunet_small", "monai")
CONFIGURATION = "3d_fullres"


def prepare(options: argparse.Namespace) -> Paths:
    """Our workspace with folds and plan; and the task as a file that the peers read."""
    paths = Paths(folder=options.work / "autoseg_work" / options.dataset.name)
    plan_file = paths.plan("small")
    if not plan_file.is_file():
        place = ["--work", str(paths.folder.parent), "--device", "cpu"]
        run([sys.executable, "-m", "autoseg", "plan_and_preprocess", str(options.dataset), "-c", CONFIGURATION, *place])
    plan, dataset = read_record(plan_file, Plan), read_record(paths.dataset, Dataset)
    fold = read_record(paths.folds, Folds).folds[options.fold]
    root = Path(dataset.root).resolve()
    values = zip(dataset.labels.class_names, dataset.labels.class_values, strict=True)
    task: dict[str, Any] = {
        "cases": {
            c.id: {"image": str(root / c.images[0]), "label": str(root / str(c.label))} for c in dataset.training
        },
        "channels": dataset.channel_names,
        "labels": dict(values),
        "train": fold.train,
        "validation": fold.validation,
        "configuration": plan.configurations[CONFIGURATION].model_dump(mode="json"),
    }
    if plan.configurations[CONFIGURATION].normalization[0] == "ct":
        statistics = plan.intensities["0"]
        task["window"] = (statistics.percentile_00_5, statistics.percentile_99_5)
    (options.work / "task.json").write_text(json.dumps(task))
    return paths


def train(options: argparse.Namespace, side: str, seed: int, paths: Paths) -> dict[str, Any]:
    """Train a side and seed, unless that is done; what it did."""
    folder = options.work / f"{side}_{options.budget}_seed{seed}"
    done = folder / "done.json"
    if done.is_file():
        return dict(json.loads(done.read_text()))
    seconds = parse_duration(options.budget)
    started = time.monotonic()
    if side == "ours":
        out = folder / paths.folder.name
        if not out.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-r", str(paths.folder), str(out)], check=True)
        length = ["--budget", options.budget, "--seed", str(seed), "--device", "cpu", "--work", str(folder)]
        trained_by = [*clock(options), "-m", "autoseg", "train", paths.folder.name, CONFIGURATION, str(options.fold)]
        run([sys.executable, *trained_by, *length])
        fold = Paths(folder=out).fold("small", CONFIGURATION, str(options.fold))
        trained = json.loads((fold / "fold.json").read_text())
        steps = trained["epochs"] * trained["iterations_per_epoch"]
        found = {"steps": steps, "folder": str(fold / "validation")}
    else:
        script = str(Path(__file__).with_name("equal_time_peer.py"))
        peer = [os.environ["AUTOSEG_PEER_PYTHON"], *clock(options), script]
        where = ["--shared", str(options.work), "--out", str(folder / "validation")]
        text = run(
            [*peer, str(options.work / "task.json"), side, "--seconds", str(seconds), "--seed", str(seed), *where]
        )
        found = {**json.loads(text.strip().splitlines()[-1]), "folder": str(folder / "validation")}
    found["wall_seconds"] = round(time.monotonic() - started, 1)
    done.write_text(json.dumps(found))
    return found


def clock(options: argparse.Namespace) -> list[str]:
    """What stands before a program whose time is to be its CPU time; nothing where it is the wall's."""
    return [str(Path(__file__).with_name("cpu_clock.py"))] if options.clock == "cpu" else []


def run(command: list[str]) -> str:
    """Run a command and return what it printed; what it says of its progress passes through."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def score(folder: Path, dataset: Dataset) -> dict[str, float | None]:
    """Case -> mean Dice over targets, of all segmentations in a folder, on the grid of the reference file."""
    by_id, found = {case.id: case for case in dataset.training}, {}
    for file in sorted(folder.glob("*.nii.gz")):
        case = by_id[file.name.removesuffix(".nii.gz").removesuffix("_0000")]
        reference = read_label(Path(dataset.root) / str(case.label))
        predicted = on_grid_of(reference.geometry, read_label(file), case)
        ours, theirs = (dataset.labels.to_internal(volume.array[0], str(file)) for volume in (predicted, reference))
        found[case.id] = case_mean(score_case(ours, theirs, dataset.labels, reference.geometry))
    return found


def main() -> None:
    """Train every side and seed, print a JSON line a peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--budget", default="20m")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: beside other jobs, one thread")
    parser.add_argument("--reference", type=Path, help="published values a case, as `time_to_dice.py` takes them")
    parser.add_argument("--work", type=Path, default=Path("autoseg_work/equal_time"))
    options = parser.parse_args()
    if options.clock == "cpu" and options.threads != 1:
        parser.error("--clock cpu counts the seconds of every thread: give --threads 1 with it")
    options.work = (options.work / options.dataset.name).resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    os.environ.update(OMP_NUM_THREADS=str(options.threads), MKL_NUM_THREADS=str(options.threads))
    paths = prepare(options)
    dataset = read_record(paths.dataset, Dataset)
    dice: dict[str, dict[str, float]] = {}
    about: dict[str, list[dict[str, Any]]] = {}
    for side in options.sides:
        values: dict[str, list[float]] = {}
        for seed in options.seeds:
            about.setdefault(side, []).append(train(options, side, seed, paths))
            for case, value in score(Path(about[side][-1]["folder"]), dataset).items():
                if value is not None:
                    values.setdefault(case, []).append(value)
        dice[side] = {case: sum(given) / len(given) for case, given in values.items()}
    published = {}
    if options.reference is not None:
        found = parse_reference(
            json.loads(options.reference.read_text()), [t.name for t in dataset.labels.targets], "--reference"
        )
        published = {f"published {name}": case_means(values) for name, values in found.items()}
    for side, theirs in {**{name: dice[name] for name in options.sides if name != "ours"}, **published}.items():
        if "ours" in dice:
            print(json.dumps(line(options, side, dice["ours"], theirs, about)))


def case_means(values: ReferenceScores) -> dict[str, float]:
    """Case -> mean Dice over targets."""
    return {case: sum(given.values()) / len(given) for case, given in values.cases.items()}


def line(
    options: argparse.Namespace,
    side: str,
    ours: Mapping[str, float],
    theirs: Mapping[str, float],
    about: Mapping[str, list[dict[str, Any]]],
) -> dict[str, Any]:
    """One result: means over the cases of both, the difference paired by case, and what each training took."""
    cases = sorted(set(ours) & set(theirs))
    mine, other = ([values[case] for case in cases] for values in (ours, theirs))
    difference = compare_paired(mine, other).difference
    budget = f"{options.budget}{' of CPU time' * (options.clock == 'cpu')}"
    return {
        "name": f"{options.dataset.name} fold {options.fold}, {budget} on {options.threads} threads: {side}",
        "ours": round(sum(mine) / len(mine), 5),
        "peer": round(sum(other) / len(other), 5),
        "unit": "Dice",
        "ratio": round(sum(mine) / sum(other), 4) if sum(other) else None,
        "difference": [None if v is None else round(v, 5) for v in (difference.mean, difference.low, difference.high)],
        "cases": len(cases),
        "seeds": options.seeds,
        "steps_ours": [entry["steps"] for entry in about["ours"]],
        "steps_peer": [entry["steps"] for entry in about.get(side, [])],
        "wall_seconds_ours": [entry["wall_seconds"] for entry in about["ours"]],
        "wall_seconds_peer": [entry["wall_seconds"] for entry in about.get(side, [])],
    }


if __name__ == "__main__":
    main()
