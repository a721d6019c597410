"""A workspace with trained folds in, how high the audit ranks errors planted into the dataset's labels out.

For each seed four cases with a held-out prediction get one error each (exchanged sides, a shift, a missing class, an
eroded one; without a left/right pair the first is left out), in copies of the label files: neither the dataset nor the
workspace is changed. The models were trained on the labels as they are. With `--train BUDGET` a model is trained on
the planted labels instead, as it would be by someone who does not know of them.

Real references have real errors, which may rightly stand above planted ones: `rank_among_unsuspected` leaves out the
cases that the audit of the unchanged labels suspects.

    python benchmarks/audit.py Task14_OpenKBP --work autoseg_work --seeds 1 2 3
    python benchmarks/audit.py Task14_OpenKBP --work autoseg_work --seeds 1 --train 45m --out planted
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from planted import ERRORS, plant

from autoseg.images.reading import read_label
from autoseg.images.writing import write_label
from autoseg.pipeline.audit import audit
from autoseg.pipeline.plan import choose_plan
from autoseg.planning.symmetry import left_right_pairs
from autoseg.records.audit import Audit
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Dataset
from autoseg.records.workspace import Paths


def plant_errors(dataset: Dataset, cases: list[str], seed: int, root: Path) -> tuple[Dataset, dict[str, str]]:
    """The dataset copied to `root` with errors in some labels, and case -> error."""
    errors = [e for e in ERRORS if e != "swapped" or left_right_pairs(dataset.labels.class_names)]
    chosen = np.random.default_rng(seed).permutation(sorted(cases))[: len(errors)]
    planted = {str(case): error for case, error in zip(chosen, errors, strict=True)}
    for case in dataset.training:
        for name in (*case.images, str(case.label)):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            if name != case.label or case.id not in planted:
                shutil.copyfile(Path(dataset.root) / name, root / name)
        if case.id in planted:
            source = Path(dataset.root) / str(case.label)
            label = read_label(source)
            classes = dataset.labels.to_internal(label.array[0], str(source))
            wrong = plant(planted[case.id], classes, dataset.labels, label.geometry.spacing_mm)  # type: ignore[arg-type]
            write_label(root / str(case.label), dataset.labels.to_file(wrong), label.geometry, like=source)
    return dataset.model_copy(update={"root": str(root)}), planted


def with_models_of(paths: Paths, dataset: Dataset, folder: Path) -> Paths:
    """A workspace folder that has the trained folds of another one as a link, and `dataset` as its dataset."""
    copied = Paths(folder=folder)
    folder.mkdir(parents=True)
    write_record(copied.dataset, dataset)
    for name in ("models", "plans", "selection.json"):
        if (paths.folder / name).exists():
            (folder / name).symlink_to((paths.folder / name).resolve())
    return copied


def train_on(dataset: Dataset, original: Path, root: Path, work: Path, configuration: str, budget: str) -> Paths:
    """Everything from a folder with planted labels to trained folds, as a user does it."""
    content = (original / "dataset.json").read_text()
    (root / "dataset.json").write_text(content)
    common = ["--work", str(work), "-q"]
    for arguments in (["plan_and_preprocess", str(root)], ["train", str(root), configuration, "--budget", budget]):
        subprocess.run([sys.executable, "-m", "autoseg", *arguments, *common], check=True, stdout=subprocess.DEVNULL)
    return Paths(folder=work / dataset.name)


def measure(clean: Audit, found: Audit, planted: dict[str, str], seed: int, seconds: float) -> list[dict[str, object]]:
    """One line an error, and one for the seed."""
    ranked = [case.case for case in found.cases if case.has_prediction]
    suspected = {case.case for case in clean.cases if case.suspicions and case.case not in planted}
    unsuspected = [case for case in ranked if case not in suspected]
    first_tenth = max(1, round(len(ranked) / 10))
    by_case = {case.case: case for case in found.cases}
    lines: list[dict[str, object]] = [
        {
            "name": f"{found.dataset}, seed {seed}, {error}",
            "case": case,
            "rank": ranked.index(case) + 1,
            "rank_among_unsuspected": unsuspected.index(case) + 1,
            "called": by_case[case].suspicions[0].kind if by_case[case].suspicions else None,
            "score": round(by_case[case].score, 1),
        }
        for case, error in planted.items()
    ]
    ranks = [(ranked.index(case) + 1, unsuspected.index(case) + 1) for case in planted]
    lines.append(
        {
            "name": f"{found.dataset}, seed {seed}",
            "cases": len(ranked),
            "planted": len(planted),
            "first_tenth": first_tenth,
            "found": sum(rank <= first_tenth for rank, _ in ranks),
            "found_among_unsuspected": sum(rank <= first_tenth for _, rank in ranks),
            "suspected_before_planting": len(suspected),
            "cpu_seconds_a_case": round(seconds / len(ranked), 2),
        }
    )
    return lines


def main() -> None:
    """Plant, audit and print a JSON line for each error and each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="name of a dataset in the workspace")
    parser.add_argument("--work", type=Path, required=True, help="workspace with trained folds")
    parser.add_argument("--plan", default=None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--train", metavar="BUDGET", default=None, help="train on the planted labels for this long")
    parser.add_argument("--configuration", default="3d_fullres", help="what --train trains")
    parser.add_argument(
        "--out", type=Path, default=None, help="folder for what --train makes; default: a temporary one"
    )
    options = parser.parse_args()
    paths = Paths(folder=options.work.resolve() / options.dataset)
    dataset, plan = read_record(paths.dataset, Dataset), choose_plan(paths, options.plan)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.out or temporary).resolve()
        clean_paths = with_models_of(paths, dataset, Path(temporary) / "clean" / dataset.name)
        clean = audit(clean_paths, plan, num_pictures=0)
        cases = [case.case for case in clean.cases if case.has_prediction]
        print(json.dumps({"name": f"{dataset.name}, unchanged", "suspicions": [s.why for s in clean.suspicions]}))
        for seed in options.seeds:
            root = folder / f"seed_{seed}" / dataset.name
            changed, planted = plant_errors(dataset, cases, seed, root)
            if options.train is None:
                where, used = with_models_of(paths, changed, Path(temporary) / f"work_{seed}" / dataset.name), plan
            else:
                work = folder / f"seed_{seed}" / "work"
                where = train_on(dataset, Path(dataset.root), root, work, options.configuration, options.train)
                used = choose_plan(where, None)
            started = time.process_time()
            found = audit(where, used, num_pictures=0)
            seconds = time.process_time() - started
            print("\n".join(json.dumps(line) for line in measure(clean, found, planted, seed, seconds)), flush=True)


if __name__ == "__main__":
    main()
