"""A dataset folder (or the name of one ingested before) in, its records in the workspace out: dataset.json, folds.json.

Called again on an unchanged folder it does nothing; folds.json, which may have been edited by hand, is made
anew only when the cases or the patients changed, then by the rule and into the number of folds it was made with.
"""

from pathlib import Path

from autoseg.console import say, warn
from autoseg.datasets.description import FILE_NAME
from autoseg.datasets.findings import Finding, describe, raise_faults
from autoseg.datasets.folds import NUM_FOLDS, make_folds
from autoseg.datasets.layouts import inspect_dataset, safe_name
from autoseg.errors import UsageError
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Dataset, Folds
from autoseg.records.workspace import Paths


def ingest(source: str, workspace: Path, patient_regex: str | None = None, num_folds: int | None = None) -> Paths:
    """Open a dataset and write its records.

    Args:
        source: dataset folder, or the name of a dataset that is in the workspace already (its folder is then
            not looked at: everything after the preprocessing works without it).
        workspace: folder that holds one folder a dataset.
        patient_regex: expression that finds the patient in a case's id (`make_folds`); None: the one used before.
            Another one than before divides the cases anew.
        num_folds: cross-validation folds; None: as many as before, at first 5. A dataset that is divided already
            keeps its number with a warning, since folds may be trained.

    Raises:
        UsageError: there is no such folder or name, or the name is taken by another folder.
        DataError: the folder is faulty; all faults are named.
    """
    paths = locate(source, workspace)
    if _is_name(source, workspace):
        _divide(paths, read_record(paths.dataset, Dataset), patient_regex, num_folds, is_changed=False)
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
    is_changed = known is None or known.training != found.training
    if not _divide(paths, found, patient_regex, num_folds, is_changed) and known == found:
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


def _divide(paths: Paths, dataset: Dataset, patient_regex: str | None, num_folds: int | None, is_changed: bool) -> bool:
    """Write folds.json where there is none, or the cases or the patients changed; returns whether it was written."""
    if not paths.folds.is_file():
        write_record(paths.folds, make_folds(dataset, patient_regex, num_folds or NUM_FOLDS))
        return True
    before = read_record(paths.folds, Folds)
    if num_folds is not None and before.num_folds not in (None, num_folds):
        warn(
            f"{dataset.name}: the cases were divided for {before.num_folds} folds, which stay; --folds {num_folds} "
            f"changes nothing. Delete {paths.folds} and the trained folds to divide them anew."
        )
    regex = before.patient_regex if patient_regex is None else patient_regex
    if not is_changed and regex == before.patient_regex:
        return False
    after = make_folds(dataset, regex, before.num_folds or NUM_FOLDS)
    write_record(paths.folds, after)
    if after.folds != before.folds:
        why = "the training cases changed" if is_changed else f"--patient-regex {regex!r} is new"
        warn(f"{dataset.name}: {why}, so they were divided anew ({after.source}). Folds trained before do not fit.")
    return True


def _say_warnings(findings: list[Finding]) -> None:
    for finding in findings:
        warn(describe([finding]).removeprefix("warning "))
