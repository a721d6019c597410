"""Stage: folders of several raters' labels in, how far they agree and one fused folder of labels out.

Files belong together when they have one name up to the format's ending; a case needs two raters at least. All labels
of a case must lie on one grid; those whose voxels run in another order are turned first. What cannot be fused is
listed with its reason, all of it, and everything else is fused.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autoseg import console
from autoseg.datasets.label_files import label_files, scheme_from_values, scheme_of, turn_onto
from autoseg.errors import DataError, UsageError
from autoseg.images.formats import output_ending
from autoseg.images.fusion import majority, staple
from autoseg.images.reading import read_label
from autoseg.images.volume import Volume
from autoseg.images.writing import write_label
from autoseg.metrics.overlap import confusion_matrix, dice, target_counts
from autoseg.metrics.statistics import aggregate
from autoseg.records.base import write_record
from autoseg.records.labels import LabelScheme, smallest_integer_type
from autoseg.records.raters import FusionMethod, RaterPair, Raters, TieRule
from autoseg.spatial.orientation import turn
from autoseg.storage.atomic import write_text
from autoseg.storage.tables import csv_text

Classes = npt.NDArray[np.int16]


def raters(
    folders: Sequence[Path],
    out: Path,
    method: FusionMethod = "majority",
    ties: TieRule = "first",
    dataset_json: Path | None = None,
) -> Raters:
    """Compare and fuse the labels of several raters.

    Args:
        folders: one a rater, at least two; the order matters for `ties` alone.
        out: folder of the fused labels, `raters.json` and `raters.csv`.
        method: `majority` counts raters, `staple` weighs them.
        ties: what decides a voxel without a winner.
        dataset_json: names of the values; default: a `dataset.json` in or above the first folder, else each value
            found in any file is a class.

    Returns:
        Agreement; what could not be fused is in `failed`, which the command line turns into exit code 5.

    Raises:
        UsageError: there are fewer than two raters, a folder is missing, empty or the same as `out`, or ties shall be
            ignored and the labels have no ignore value.
    """
    names = _rater_names(folders, out)
    files = {name: label_files(folder) for name, folder in zip(names, folders, strict=True)}
    cases = sorted({case for of_rater in files.values() for case in of_rater})
    labels = scheme_of(folders[0], dataset_json) or _scheme_of_all(files)
    if ties == "ignore" and labels.ignore_index is None:
        raise UsageError("--ties ignore needs an ignore label in dataset.json; use --ties first or background.")
    agreement: dict[tuple[str, str], dict[str, dict[str, float | None]]] = {}
    sensitivity: dict[str, dict[str, list[float | None]]] = {name: {} for name in names}
    undecided: dict[str, int] = {}
    failed: dict[str, str] = {}
    for case in console.track(cases, len(cases), "fusing raters"):
        of_case = {name: files[name][case] for name in names if case in files[name]}
        try:
            first, classes = _read(case, of_case, labels)
        except DataError as error:
            failed[case] = str(error)
            continue
        for pair in itertools.combinations(classes, 2):
            agreement.setdefault(pair, {})[case] = _dice(classes[pair[0]], classes[pair[1]], labels)
        given = list(classes.values())
        if method == "majority":
            fused, tied = majority(given)
        else:
            fused, tied, reliable = staple(given)
            _note_sensitivity(sensitivity, list(classes), fused, reliable, labels)
        undecided[case] = int(tied.sum())
        _break_ties(fused, tied, given, ties, labels)
        path = next(iter(of_case.values()))
        target = out / (case + output_ending(path))
        write_label(target, _to_file(fused, labels), first.geometry, like=path)
    record = Raters(
        raters=names,
        method=method,
        ties=ties,
        pairs=tuple(
            _pair(*pair, agreement[pair], labels) for pair in itertools.combinations(names, 2) if pair in agreement
        ),
        undecided_voxels=undecided,
        sensitivity={
            name: {of: aggregate(values) for of, values in classes_of.items()}
            for name, classes_of in sensitivity.items()
            if classes_of
        },
        failed=failed,
    )
    write_record(out / "raters.json", record)
    write_text(out / "raters.csv", to_csv(record))
    return record


def to_csv(record: Raters) -> str:
    """One row a pair of raters, case and target; a Dice that is not defined is an empty cell."""
    rows = (
        [pair.first, pair.second, case, target, value]
        for pair in record.pairs
        for case, targets in pair.cases.items()
        for target, value in targets.items()
    )
    return csv_text(["first", "second", "case", "target", "dice"], rows)


def _rater_names(folders: Sequence[Path], out: Path) -> tuple[str, ...]:
    """The folders' names, with as many of their parents' as tell them apart; raises UsageError."""
    resolved = [folder.resolve() for folder in folders]
    if len(set(resolved)) < 2 or len(set(resolved)) < len(resolved):
        raise UsageError("Name the folders of at least two raters, each once.")
    if out.resolve() in resolved:
        raise UsageError(f"{out} is a rater's own folder; name another one for the fused labels.")
    for depth in range(1, max(len(folder.parts) for folder in resolved) + 1):
        names = tuple("/".join(folder.parts[-depth:]) for folder in resolved)
        if len(set(names)) == len(names):
            return names
    raise AssertionError("different folders have different paths")


def _scheme_of_all(files: Mapping[str, Mapping[str, Path]]) -> LabelScheme:
    """The scheme of all values in all files that can be read; the others are reported when they are fused."""
    values = [np.zeros(1, dtype=np.int16)]
    paths = [path for of_rater in files.values() for path in of_rater.values()]
    for path in console.track(paths, len(paths), "finding label values"):
        try:
            values.append(np.unique(read_label(path).array))
        except DataError:
            continue
    return scheme_from_values(*values)


def _read(case: str, files: Mapping[str, Path], labels: LabelScheme) -> tuple[Volume, dict[str, Classes]]:
    """The first rater's volume, and every rater's classes in its voxel order; raises DataError."""
    if len(files) < 2:
        raise DataError(f"case {case}: only {next(iter(files))} has it; two raters are needed.")
    first_path = next(iter(files.values()))
    first = read_label(first_path)
    classes = {}
    for name, path in files.items():
        label = first if path == first_path else read_label(path)
        values = turn(label.array, turn_onto(label, path, first, first_path, "second label", "first label"))[0]
        classes[name] = labels.to_internal(values, str(path))
    return first, classes


def _dice(first: Classes, second: Classes, labels: LabelScheme) -> dict[str, float | None]:
    if labels.ignore_index is not None:
        first = np.where(second == labels.ignore_index, labels.ignore_index, first)
        second = np.where(first == labels.ignore_index, 0, second)
    matrix = confusion_matrix(second, first, labels)
    return {target.name: dice(target_counts(matrix, target)) for target in labels.targets}


def _pair(first: str, second: str, cases: dict[str, dict[str, float | None]], labels: LabelScheme) -> RaterPair:
    means = []
    for of_case in cases.values():
        defined = [value for value in of_case.values() if value is not None]
        means.append(sum(defined) / len(defined) if defined else None)
    return RaterPair(
        first=first,
        second=second,
        cases=cases,
        targets={t.name: aggregate([of_case[t.name] for of_case in cases.values()]) for t in labels.targets},
        foreground_mean=aggregate(means),
    )


def _note_sensitivity(
    sensitivity: dict[str, dict[str, list[float | None]]],
    names: Sequence[str],
    fused: Classes,
    reliable: npt.NDArray[np.float64],
    labels: LabelScheme,
) -> None:
    """Add a case's estimates for the foreground classes that the fused label has."""
    for number in range(1, min(labels.num_classes, reliable.shape[1])):
        if (fused == number).any():
            for name, estimate in zip(names, reliable[:, number], strict=True):
                sensitivity[name].setdefault(labels.class_names[number], []).append(float(estimate))


def _break_ties(
    fused: Classes, tied: npt.NDArray[np.bool_], given: Sequence[Classes], ties: TieRule, labels: LabelScheme
) -> None:
    """Fill the tied voxels of `fused` in place."""
    if ties == "ignore":
        assert labels.ignore_index is not None
        fused[tied] = labels.ignore_index
    elif ties == "first":
        votes = np.stack([rater[tied] for rater in given])  # R N
        supporters = (votes[:, None] == votes[None]).sum(axis=0)  # R N: raters that say what this one says
        fused[tied] = np.take_along_axis(votes, supporters.argmax(axis=0)[None], axis=0)[0]


def _to_file(fused: Classes, labels: LabelScheme) -> npt.NDArray[np.integer]:
    """File values, those of voxels to ignore among them."""
    values = (*labels.class_values, *(() if labels.ignore_value is None else (labels.ignore_value,)))
    table: npt.NDArray[np.integer] = np.array(values, dtype=smallest_integer_type(values))
    return table[fused]
