"""A dataset in, its cross-validation folds out.

Without patients the folds are nnU-Net's, so that results can be compared case by case: scikit-learn's
KFold(5, shuffle=True, random_state=12345) on the sorted ids. Where a patient has several cases, all of them
stay together: patients, those with most cases first (equal ones in an order shuffled by the same seed), go one
after the other to the fold that has the fewest cases so far (the first such fold).
"""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.console import warn
from autoseg.errors import DataError
from autoseg.records.dataset import Case, Dataset, Fold, Folds

SEED = 12345
NUM_FOLDS = 5
"""Where no other number is asked for: nnU-Net's."""

_SPLITS_NAME = "splits_final.json"


def make_folds(dataset: Dataset, patient_regex: str | None = None, num_folds: int = NUM_FOLDS) -> Folds:
    """Divide the training cases; nnU-Net's splits_final.json in the dataset's folder is obeyed before all else.

    Args:
        dataset: cases; those with a `patient` are grouped by it.
        patient_regex: expression whose first group (or whole match) in a case's id is its patient.
        num_folds: folds; fewer, with a warning, when there are fewer cases or patients.

    Returns:
        The folds; none where a single case or patient cannot be divided (then only `all` can be trained).

    Raises:
        DataError: the splits file or the expression does not fit the cases.
    """
    cases = sorted(dataset.training, key=lambda case: case.id)
    patients = _patients(cases, patient_regex)
    splits = Path(dataset.root) / _SPLITS_NAME
    if splits.is_file():
        return _from_file(splits, patients).model_copy(update={"patient_regex": patient_regex})
    groups: dict[str, list[str]] = defaultdict(list)
    for case_id, patient in patients.items():
        groups[patient].append(case_id)
    count = min(num_folds, len(groups))
    if count < num_folds:
        what = "cases" if len(groups) == len(cases) else "patients"
        instead = f"{count} folds instead of {num_folds}" if count > 1 else "no folds, only `all` can be trained"
        warn(f"{dataset.name}: {len(groups)} {what} give {instead}.")
    folds: tuple[Fold, ...] = ()
    if count < 2:
        source = "too few cases"
    elif len(groups) == len(cases):
        folds, source = _kfold(list(patients), count), "kfold"
    else:
        folds, source = _grouped(groups, count), "grouped kfold"
    return Folds(folds=folds, source=source, num_folds=num_folds, patient_regex=patient_regex)


def _patients(cases: list[Case], patient_regex: str | None) -> dict[str, str]:
    """Case id -> patient, in the order of the ids; a case without one is its own patient."""
    if patient_regex is None:
        # The prefix keeps a case that is its own patient apart from a patient of that name.
        return {case.id: f"case {case.id}" if case.patient is None else f"patient {case.patient}" for case in cases}
    try:
        expression = re.compile(patient_regex)
    except re.error as error:
        raise DataError(f"--patient-regex {patient_regex!r} is no regular expression: {error}.") from error
    matches = {case.id: expression.search(case.id) for case in cases}
    unmatched = [case_id for case_id, match in matches.items() if match is None]
    if unmatched:
        shown = ", ".join(unmatched[:20])
        raise DataError(f"--patient-regex {patient_regex!r} matches nothing in {len(unmatched)} case ids: {shown}.")
    return {case_id: str(match[1] if match.re.groups else match[0]) for case_id, match in matches.items() if match}


def _kfold(ids: list[str], count: int) -> tuple[Fold, ...]:
    from sklearn.model_selection import KFold

    divisions = KFold(count, shuffle=True, random_state=SEED).split(ids)
    return tuple(
        Fold(train=tuple(ids[i] for i in train), validation=tuple(ids[i] for i in held)) for train, held in divisions
    )


def _grouped(groups: dict[str, list[str]], count: int) -> tuple[Fold, ...]:
    names = sorted(groups)
    shuffled = [names[i] for i in np.random.default_rng(SEED).permutation(len(names))]
    held: list[list[str]] = [[] for _ in range(count)]
    for name in sorted(shuffled, key=lambda name: -len(groups[name])):
        min(held, key=len).extend(groups[name])
    everything = {case_id for ids in groups.values() for case_id in ids}
    return tuple(Fold(train=tuple(sorted(everything - set(ids))), validation=tuple(sorted(ids))) for ids in held)


def _from_file(path: Path, patients: dict[str, str]) -> Folds:
    """Read and check nnU-Net's splits; cases that no fold or several folds hold out are warned of."""
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}.") from error
    faults: list[str] = []
    folds = [
        fold
        for i, entry in enumerate(content if isinstance(content, list) else [])
        if (fold := _fold(entry, i, patients, faults))
    ]
    if not isinstance(content, list) or not content:
        faults.append('expected a list of {"train": [...], "val": [...]}')
    if faults:
        raise DataError(f"{path} does not fit this dataset:\n  " + "\n  ".join(faults))
    held = [case_id for fold in folds for case_id in fold.validation]
    never, often = sorted(set(patients) - set(held)), sorted({c for c in held if held.count(c) > 1})
    for cases, what in ((never, "are held out by no fold"), (often, "are held out by several folds")):
        if cases:
            warn(f"{path}: {len(cases)} cases {what}: {', '.join(cases[:10])}.")
    return Folds(folds=tuple(folds), source=str(path))


def _fold(entry: Any, index: int, patients: dict[str, str], faults: list[str]) -> Fold | None:
    parts: list[Any] = [entry.get(key) for key in ("train", "val")] if isinstance(entry, dict) else [None]
    if not all(isinstance(part, list) and part and all(isinstance(c, str) for c in part) for part in parts):
        faults.append(f"fold {index}: expected `train` and `val`, each a list of case ids that is not empty")
        return None
    train, held = parts
    unknown = sorted({*train, *held} - set(patients))
    if unknown:
        faults.append(f"fold {index}: no such training cases: {', '.join(unknown[:20])}")
    both = sorted(set(train) & set(held))
    if both:
        faults.append(f"fold {index}: in `train` and `val` both: {', '.join(both[:20])}")
    twice = sorted({c for part in parts for c in part if part.count(c) > 1})
    if twice:
        faults.append(f"fold {index}: listed twice: {', '.join(twice[:20])}")
    shared = {patients.get(c) for c in train} & {patients.get(c) for c in held} - {None}
    if shared and not both:
        warn(f"splits file, fold {index}: {len(shared)} patients are in training and validation both.")
    return Fold(train=tuple(sorted(train)), validation=tuple(sorted(held)))
