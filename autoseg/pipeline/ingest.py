"""A dataset folder (or the name of one ingested before) in, its records in the workspace out: dataset.json, folds.json.

Called again on an unchanged folder it does nothing; folds.json, which may have been edited by hand, is made
anew only when the cases or the rule that divides them changed.
"""

from pathlib import Path

from autoseg.console import say, warn
from autoseg.datasets.description import FILE_NAME
from autoseg.datasets.findings import Finding, describe, raise_faults
from autoseg.datasets.folds import make_folds
from autoseg.datasets.opening import inspect_dataset, safe_name
from autoseg.errors import UsageError
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Dataset
from autoseg.records.workspace import Paths


def ingest(
    source: str,
    workspace: Path,
    patient_regex: str | None = None,
    splits_file: Path | None = None,
    num_folds: int = 5,
) -> Paths:
    """Open a dataset and write its records.

    Args:
        source: dataset folder, or the name of a dataset that is in the workspace already (its folder is then
            not looked at: everything after the preprocessing works without it).
        workspace: folder that holds one folder a dataset.
        patient_regex: expression that finds the patient in a case's id (`make_folds`).
        splits_file: nnU-Net's splits_final.json to be used instead of folds of our own.
        num_folds: cross-validation folds, for a dataset that has none yet.

    Raises:
        UsageError: there is no such folder or name, or the name is taken by another folder.
        DataError: the folder is faulty; all faults are named.
    """
    paths = locate(source, workspace)
    if _is_name(source, workspace):
        dataset = read_record(paths.dataset, Dataset)
        if patient_regex is not None or splits_file is not None or not paths.folds.is_file():
            write_record(paths.folds, make_folds(dataset, splits_file, patient_regex, num_folds))
        return paths
    folder = Path(source).expanduser()
    found, findings = inspect_dataset(folder)
    raise_faults(findings, f"{folder} cannot be opened as a dataset")
    if found is None:
        raise AssertionError("a dataset without faults must exist")
    _say_warnings(findings)
    known = read_record(paths.dataset, Dataset) if paths.dataset.is_file() else None
    if known != found:
        write_record(paths.dataset, found)
    is_other = known is None or known.training != found.training
    if is_other or patient_regex is not None or splits_file is not None or not paths.folds.is_file():
        write_record(paths.folds, make_folds(found, splits_file, patient_regex, num_folds))
    elif known == found:
        say(f"{found.name}: unchanged since it was opened, {found.num_training} training cases.")
    return paths


def locate(source: str, workspace: Path) -> Paths:
    """Where the records of `source` (folder or name) lie or will lie; raises UsageError as `ingest` does."""
    folder = Path(source).expanduser()
    if _is_name(source, workspace):
        return Paths(folder=workspace / source)
    if folder.is_dir():
        paths = Paths(folder=workspace / safe_name(folder.resolve().name))
        if paths.dataset.is_file():
            root = Path(read_record(paths.dataset, Dataset).root)
            if root != folder.resolve() and root.is_dir():  # a folder that is gone was moved or renamed
                message = f"The workspace {workspace} has a dataset {paths.folder.name} from {root} already."
                raise UsageError(f"{message} Rename {folder} or choose another --work.")
        return paths
    names = sorted(path.parent.name for path in workspace.glob("*/dataset.json"))
    known = f"; the workspace {workspace} has {', '.join(names)}" if names else f"; the workspace {workspace} is empty"
    raise UsageError(f"{source} is neither a dataset folder nor a dataset of the workspace{known}.")


def _is_name(source: str, workspace: Path) -> bool:
    """Whether `source` names a dataset of the workspace; a dataset folder of that name where we stand comes first."""
    if Path(source).name != source or safe_name(source) != source or not (workspace / source / FILE_NAME).is_file():
        return False
    here = Path(source)
    return not (here / FILE_NAME).is_file() or here.resolve() == (workspace / source).resolve()


def _say_warnings(findings: list[Finding]) -> None:
    for finding in findings:
        warn(describe([finding]).removeprefix("warning "))
