"""A dataset and a list of losses in, one row a loss out: Dice and HD95 of the same network after the same steps.

Like the table of the SegLoss collection (Ma et al. 2021, "Loss odyssey in medical image segmentation"). Every loss and
seed is a plan of its own in one workspace, so that cases are preprocessed once and a training that is done already is
not done again: call the same line again after an interruption, or with more losses, seeds or steps.

The score of a case is the mean over targets and then over seeds; intervals (bootstrap, 95 %) are over cases. HD95 is
defined only where neither mask is empty, so the row says how many targets of the reference were not found at all, or
were found where there is none. Differences to the first loss are paired by case.

    python benchmarks/losses.py --losses cross_entropy+soft_dice soft_dice --seeds 1 2 --iterations 200
"""

import argparse
import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from statistics import stdev
from typing import NamedTuple

import numpy as np
from paired_trainings import add_options, mean_over_seeds, numbers, phantoms

from autoseg.datasets.pairs import on_grid_of
from autoseg.images.formats import output_ending
from autoseg.images.reading import read_label
from autoseg.metrics.build import case_mean
from autoseg.metrics.statistics import aggregate, compare_paired
from autoseg.metrics.surface import hd95, surface_distances
from autoseg.records.base import read_record
from autoseg.records.dataset import Dataset
from autoseg.records.plan import Plan
from autoseg.records.results import Evaluation, TrainedFold
from autoseg.records.workspace import Paths

PLANNED = "planned"
"""The plan's own loss: where classes are imbalanced, its cross-entropy is weighted."""

LOSSES = (
    "cross_entropy+soft_dice",
    PLANNED,
    "cross_entropy",
    "focal",
    "top_k_cross_entropy",
    "distance_penalised_cross_entropy",
    "soft_dice",
    "generalised_dice",
    "penalty_generalised_dice",
    "jaccard",
    "tversky",
    "focal_tversky",
    "asymmetric_similarity",
    "sensitivity_specificity",
    "exponential_logarithmic",
    "lovasz",
    "lovasz_hinge",
    "focal+soft_dice",
    "top_k_cross_entropy+soft_dice",
    "cross_entropy+tversky",
    "cross_entropy+lovasz",
    "cross_entropy+soft_dice+0.1*boundary",
    "cross_entropy+soft_dice+0.1*hausdorff",
    "cross_entropy+0.5*soft_dice+0.5*cl_dice",
)
STEPS_AN_EPOCH = 50
METRICS = {"dice": 4, "hd95_mm": 2}
"""Field of a result -> digits in the table."""


class Result(NamedTuple):
    """One trained loss and seed: case id -> mean over targets."""

    dice: dict[str, float | None]
    hd95_mm: dict[str, float | None]
    num_one_empty: int
    """Targets of a case of which either reference or prediction is empty."""
    cpu_seconds: float | None
    """None: trained in several calls."""
    steps: int


def autoseg(*arguments: str) -> float:
    """Run one command and return the CPU seconds that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "autoseg", *arguments, "-q"], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def train(options: argparse.Namespace, paths: Paths, loss: str, seed: int) -> Path:
    """Train one loss and seed, unless it is done; return the folder of its fold."""
    name = f"{re.sub(r'[^a-z0-9.]+', '_', loss).strip('_')}-{options.iterations}-seed{seed}"
    folder = paths.fold(name, options.configuration, options.fold)
    if (folder / "cost.json").is_file():
        return folder
    place = ["--work", str(options.work), "--device", options.device]
    setting = [] if loss == PLANNED else ["--set", f"{options.configuration}.recipe.loss={loss}"]
    dataset = str(options.dataset)
    autoseg("plan_and_preprocess", dataset, "--preset", options.preset, "--name", name, *setting, *place,
            "--configuration", options.configuration)  # fmt: skip
    epochs = max(1, options.iterations // STEPS_AN_EPOCH)
    length = ["--epochs", str(epochs), "--iterations", str(options.iterations // epochs), "--seed", str(seed)]
    is_whole = not folder.is_dir()
    seconds = autoseg("train", dataset, options.configuration, options.fold, "--plan", name, *length, *place)
    (folder / "cost.json").write_text(json.dumps({"cpu_seconds": seconds if is_whole else None}))
    return folder


def score(folder: Path, paths: Paths) -> Result:
    """Read what a training left behind; HD95 is measured once and kept."""
    trained = read_record(folder / "fold.json", TrainedFold)
    evaluation = read_record(folder / "validation.json", Evaluation)
    kept = folder / "hd95.json"
    if not kept.is_file():
        kept.write_text(json.dumps(measure_surfaces(folder, paths, trained.validation_cases)))
    surfaces: dict[str, list[float | None]] = json.loads(kept.read_text())
    found = {case: [d for d in distances if d is not None] for case, distances in surfaces.items()}
    one_empty = sum(
        (s.volume_mm3 == 0) != (s.reference_volume_mm3 == 0) for c in evaluation.cases.values() for s in c.values()
    )
    return Result(
        dice={case: case_mean(scores) for case, scores in evaluation.cases.items()},
        hd95_mm={case: sum(values) / len(values) if values else None for case, values in found.items()},
        num_one_empty=one_empty,
        cpu_seconds=json.loads((folder / "cost.json").read_text())["cpu_seconds"],
        steps=trained.epochs * trained.iterations_per_epoch,
    )


def measure_surfaces(folder: Path, paths: Paths, cases: tuple[str, ...]) -> dict[str, list[float | None]]:
    """HD95 in mm of every target of every case, None where a mask is empty."""
    dataset, labels = read_record(paths.dataset, Dataset), read_record(folder / "plan.json", Plan).labels
    entries = {entry.id: entry for entry in dataset.training}
    result = {}
    for case in cases:
        entry, root = entries[case], Path(dataset.root)
        prediction = read_label(folder / "validation" / (case + output_ending(root / entry.images[0])))
        reference = on_grid_of(prediction.geometry, read_label(root / str(entry.label)), entry)
        found, wanted = (labels.to_internal(v.array[0], case) for v in (prediction, reference))
        if labels.ignore_index is not None:
            found = np.where(wanted == labels.ignore_index, 0, found)
        spacing = prediction.geometry.spacing_mm
        result[case] = [
            hd95(surface_distances(np.isin(found, t.members), np.isin(wanted, t.members), spacing))
            for t in labels.targets
        ]
    return result


def row(loss: str, results: list[Result], reference: list[Result]) -> dict[str, object]:
    """One line of the table."""
    entry: dict[str, object] = {"loss": loss, "seeds": len(results), "steps": results[0].steps}
    for metric in METRICS:
        ours, theirs = (mean_over_seeds([getattr(r, metric) for r in side]) for side in (results, reference))
        spread = [mean for r in results if (mean := aggregate(list(getattr(r, metric).values())).mean) is not None]
        compared = compare_paired(list(ours.values()), [theirs[case] for case in ours])
        entry[metric] = numbers(aggregate(list(ours.values())))
        entry[f"{metric}_sd_over_seeds"] = round(stdev(spread), 5) if len(spread) > 1 else None
        entry[f"{metric}_difference"] = {**numbers(compared.difference), "p": compared.p_value}
    entry["targets_with_one_mask_empty"] = sum(r.num_one_empty for r in results)
    seconds = [r.cpu_seconds for r in results if r.cpu_seconds is not None]
    entry["cpu_seconds"] = round(sum(seconds) / len(seconds), 1) if seconds else None
    return entry


def as_text(entry: dict[str, object]) -> str:
    def cell(key: str, digits: int) -> str:
        n = entry[key]
        assert isinstance(n, dict)
        if n["mean"] is None:
            return "not defined"
        mean, low, high = (None if n[k] is None else f"{n[k]:.{digits}f}" for k in ("mean", "low", "high"))
        return f"{mean}" if low is None else f"{mean} [{low}, {high}]"

    cells = [cell(f"{metric}{what}", digits) for metric, digits in METRICS.items() for what in ("", "_difference")]
    return f"{entry['loss']!s:42s}" + "".join(f"{c:>28s}" for c in cells) + f"{entry['targets_with_one_mask_empty']:>6}"


def main() -> None:
    """Train what is missing, print the table and then its rows as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="phantoms", help="a dataset's folder, or `phantoms` to make some")
    parser.add_argument(
        "--losses", nargs="+", default=LOSSES, help="as in --set ...recipe.loss=; the first is compared with"
    )
    add_options(parser, "losses", iterations=1000)
    options = parser.parse_args()
    if options.dataset == "phantoms":
        options.dataset = phantoms(options, seed=0)  # those of the results that are kept
    paths = Paths(folder=options.work / Path(options.dataset).name)
    results = {}
    for loss in options.losses:
        results[loss] = [score(train(options, paths, loss, seed), paths) for seed in options.seeds]
        print(f"{loss}: done", file=sys.stderr)
    rows = [row(loss, found, results[options.losses[0]]) for loss, found in results.items()]
    heads = ("Dice", "difference", "HD95 (mm)", "difference")
    print(f"{'loss':42s}" + "".join(f"{head:>28s}" for head in heads) + " empty")
    print("\n".join(as_text(entry) for entry in rows))
    name = f"{Path(options.dataset).name} {options.configuration} fold {options.fold}"
    print("\n".join(json.dumps({"name": name, **entry}) for entry in rows))


if __name__ == "__main__":
    main()
