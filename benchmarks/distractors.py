"""What teaching false positives as a class is worth: fine-tuning with them, against the same fine-tuning without.

    python benchmarks/distractors.py [--work FOLDER] [--cases 30] [--rates 0.1 0.3 1.0] [--epochs 2] [--seed 1]

Draws 2-D images of bright spots, half of which are lesions (darker in the middle) and half look alike (darker at the
rim), trains a small network on three folds too briefly to tell them apart, and fine-tunes it from these weights, each
time in two ways: with its out-of-fold false positives as a class, and (the peer) with none, everything else alike.

Prints a JSON line for the base and one for each rate (factor of the base's learning rate): `ours` and `peer` are
false-positive components a case over all held-out cases, beside them lesion sensitivity and Dice.
"""

import argparse
import contextlib
import json
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import nibabel
import numpy as np
from scipy import ndimage

from autoseg import console
from autoseg.pipeline import compare_fp, flow
from autoseg.planning import distractors as planning
from autoseg.records.base import write_record
from autoseg.records.false_positives import MethodRow
from autoseg.records.plan import Plan
from autoseg.records.workspace import Paths
from autoseg.training import distractors as training

SIZE, SPOTS, ITERATIONS, BASE_EPOCHS = 96, 12, 40, 5
SETTINGS = ("2d.patch_size=[48,48]", "2d.batch_size=4")


def draw_case(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Image and label `Y X`."""
    image = ndimage.gaussian_filter(rng.normal(0, 1, (SIZE, SIZE)), 2) * 0.8
    label, grid = np.zeros((SIZE, SIZE), np.uint8), np.mgrid[:SIZE, :SIZE]
    spots: list[tuple[np.ndarray, float]] = []
    while len(spots) < SPOTS:
        centre, radius = rng.uniform(8, SIZE - 8, 2), rng.uniform(3, 6)
        if any(np.hypot(*(centre - other)) <= radius + size + 4 for other, size in spots):
            continue
        spots.append((centre, radius))
        distance = np.hypot(*(grid - centre[:, None, None])) / radius
        is_lesion = len(spots) % 2 == 1
        profile = distance if is_lesion else 1 - distance
        image = np.where(distance < 1, image + 1.2 + 0.9 * profile, image)
        label[(distance < 1) & is_lesion] = 1
    return image + rng.normal(0, 0.35, image.shape), label


def write_spots(folder: Path, num_cases: int) -> None:
    """A dataset in Decathlon's layout."""
    rng, names = np.random.default_rng(7), [f"spots_{number:03d}" for number in range(num_cases)]
    for name in names:
        for room, array in zip(("imagesTr", "labelsTr"), draw_case(rng), strict=True):
            (folder / room).mkdir(parents=True, exist_ok=True)
            kind = np.float32 if room == "imagesTr" else np.uint8
            nibabel.save(
                nibabel.Nifti1Image(array.astype(kind)[..., None], np.eye(4)), folder / room / f"{name}.nii.gz"
            )
    content = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "lesion"},
        "numTraining": num_cases,
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(content))


def prepared(work: Path, options: argparse.Namespace) -> tuple[Paths, Plan]:
    """The dataset with its base trained on all folds."""
    if not (work / "Spots" / "dataset.json").is_file():
        write_spots(work / "Spots", options.cases)
    wanted = flow.PrepareOptions(preset="small", settings=SETTINGS, configurations=("2d",), num_folds=3)
    paths, plan = flow.prepare(str(work / "Spots"), work / "base", wanted)
    flow.train_jobs(paths, plan, jobs(paths, "2d"), request("2d", BASE_EPOCHS, options.seed))
    return paths, plan


def fine_tuned(base: Paths, plan: Plan, rate: float, is_taught: bool, options: argparse.Namespace) -> MethodRow:
    """The fine-tuned configuration's row of the comparison."""
    name = f"{rate:g}_{options.epochs}_{'taught' if is_taught else 'plain'}"
    paths = Paths(folder=base.folder.parent.parent / name / base.folder.name)
    if not paths.folder.exists():
        shutil.copytree(base.folder, paths.folder)
    with mock.patch.object(planning, "RATE_FACTOR", rate):
        changed, configuration = planning.plan_distractors(plan, "2d")
    write_record(paths.plan(plan.name), changed)
    nothing = mock.patch.object(training, "false_positives", lambda found, *_: np.zeros(found.shape, dtype=bool))
    with contextlib.nullcontext() if is_taught else nothing:
        asked = request(configuration, options.epochs, options.seed)
        flow.train_jobs(paths, changed, jobs(paths, configuration), asked)
    return compare_fp.compare_false_positives(paths, changed, configuration).rows[0]


def jobs(paths: Paths, configuration: str) -> list[tuple[str, str]]:
    return [(configuration, fold) for fold in flow.fold_names(paths)]


def request(configuration: str, epochs: int, seed: int) -> flow.TrainRequest:
    return flow.TrainRequest(configuration=configuration, epochs=epochs, iterations=ITERATIONS, seed=seed, device="cpu")


def numbers(row: MethodRow) -> list[float | None]:
    return [
        None if value is None else round(value, 4)
        for value in (row.false_positives_per_case, row.lesion_sensitivity, row.dice)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder to keep everything in, and to go on from; default: a new one")
    parser.add_argument("--cases", type=int, default=30)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.1, 0.3, 1.0])
    parser.add_argument("--epochs", type=int, default=2, help=f"of {ITERATIONS} steps of fine-tuning")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    console.configure(quiet=True)
    paths, plan = prepared(options.work or Path(tempfile.mkdtemp()), options)
    base = numbers(compare_fp.compare_false_positives(paths, plan, "2d").rows[0])
    steps = f"{BASE_EPOCHS * ITERATIONS} steps"
    print(json.dumps({"name": f"base, {steps}", "ours": base[0], "lesion_sensitivity": base[1], "dice": base[2]}))
    for rate in options.rates:
        ours, peer = (numbers(fine_tuned(paths, plan, rate, is_taught, options)) for is_taught in (True, False))
        line = {
            "name": f"rate {rate:g}, {options.epochs * ITERATIONS} steps",
            "ours": ours[0],
            "peer": peer[0],
            "unit": "false positives a case",
            "lesion_sensitivity": [ours[1], peer[1]],
            "dice": [ours[2], peer[2]],
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
