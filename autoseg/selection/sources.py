"""A dataset's workspace, a model folder or a packed model in, the folders and records that predict together out.

Nothing of it needs the weights in memory: `selection.predictor` loads them, `pipeline.pack` copies them.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from autoseg import console
from autoseg.errors import ModelError
from autoseg.inference.model import fold_folders, read_fold
from autoseg.records.base import read_record
from autoseg.records.results import PostprocessingRule, Selection
from autoseg.records.trust import Trust
from autoseg.records.workspace import POSTPROCESSING, Paths
from autoseg.selection.judging import read_trust
from autoseg.selection.temperatures import stored_temperatures
from autoseg.storage.archives import is_archive, unpacked

MODELS = "models"
"""Folder of all trained folds in that of a dataset."""

UNCOMPARED = "3d_fullres"
"""Predicts where nothing was held out, so that nothing could be compared: nnU-Net's usual first choice."""


@dataclass(frozen=True)
class Sources:
    """All that predicts together."""

    folds: tuple[tuple[Path, ...], ...]
    """Fold folders, of each configuration that is averaged."""
    temperatures: tuple[tuple[float, ...], ...]
    """What divides the logits of each fold."""
    rule: PostprocessingRule = field(default_factory=PostprocessingRule)
    trust: Trust | None = None
    selection: Selection | None = None
    """By what these folds were chosen; None: nothing was compared."""
    paths: Paths | None = None
    """The dataset's folder; None: the folds lie elsewhere."""


@contextmanager
def opened(where: Paths | Path) -> Iterator[Paths | Path]:
    """Yield the folder of a model; that of a zip is there until the block ends."""
    if isinstance(where, Path) and is_archive(where):
        with unpacked(where, Path(tempfile.gettempdir())) as folder:
            yield _folder(_only_folder(folder))
    else:
        yield _folder(where) if isinstance(where, Path) else where


def find_sources(where: Paths | Path, plan_name: str | None) -> Sources:
    """What predicts.

    Args:
        where: as `opened` yields it: a dataset's folder, or that of one fold, of the folds of a configuration, or of
            several configurations, which are averaged.
        plan_name: of a dataset, another plan's models than the selected ones.

    Raises:
        ModelError: none is trained, or a file is damaged.
    """
    if isinstance(where, Path):
        return _uncalibrated(_configurations_in(where))
    selection = read_record(where.selection, Selection) if where.selection.is_file() else None
    if selection is None or plan_name not in (None, selection.plan):
        return _uncalibrated([_best_configuration(where, plan_name)], where)
    folds = tuple(tuple(_selected_folds(where, selection, name)) for name in selection.configurations)
    return Sources(
        folds=folds,
        temperatures=tuple(
            tuple(stored_temperatures(where.calibration, selection.plan, name, own))
            for name, own in zip(selection.configurations, folds, strict=True)
        ),
        rule=_rule_of(where, selection),
        trust=read_trust(where.trust, selection),
        selection=selection,
        paths=where,
    )


def _uncalibrated(configurations: list[list[Path]], paths: Paths | None = None) -> Sources:
    folds = tuple(tuple(own) for own in configurations)
    temperatures = tuple((1.0,) * len(own) for own in folds)
    return Sources(folds=folds, temperatures=temperatures, rule=_own_rule(configurations), paths=paths)


def _own_rule(configurations: list[list[Path]]) -> PostprocessingRule:
    """The rule beside the folds of an imported configuration; it is not for an average with others."""
    path = configurations[0][0].parent / POSTPROCESSING
    if len(configurations) == 1 and path.is_file():
        return read_record(path, PostprocessingRule, ModelError)
    return PostprocessingRule()


def _folder(path: Path) -> Paths | Path:
    """A folder laid out like a dataset's in the workspace, as a packed model is, as its paths; any other as it is."""
    return Paths(folder=path) if (path / MODELS).is_dir() else path


def _only_folder(folder: Path) -> Path:
    """The folder itself, or the one that holds everything in it, as where a folder was zipped by hand."""
    inside = [path for path in folder.iterdir() if path.name != "__MACOSX" and not path.name.startswith(".")]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() and inside[0].name != MODELS else folder


def _selected_folds(paths: Paths, selection: Selection, name: str) -> list[Path]:
    """Fold folders of a selected configuration; names that lead out of the models' folder are refused."""
    folds = selection.folds.get(name, ())
    if not folds or any(Path(part).name != part or "\\" in part for part in (selection.plan, name, *folds)):
        raise ModelError(f"{paths.selection} names no folds of {name}, or folds outside {paths.folder / MODELS}.")
    return [paths.fold(selection.plan, name, fold) for fold in folds]


def _configurations_in(folder: Path) -> list[list[Path]]:
    """Fold folders of each configuration of a model folder.

    A stage before a cascade that lies beside it speaks through the cascade alone.

    Raises:
        ModelError: no trained fold is there.
    """
    if (folder / "fold.json").is_file():
        return [[folder]]
    if folds := fold_folders(folder):
        return [folds]
    beside = [folds for path in sorted(folder.glob("*")) if path.is_dir() and (folds := fold_folders(path))]
    if not beside:
        raise ModelError(f"{folder} holds no trained fold: fold.json is in neither it nor its fold_* folders.")
    earlier = {previous_stage(folds[0]) for folds in beside}
    return [folds for folds in beside if read_fold(folds[0])[1].configuration not in earlier]


def previous_stage(fold: Path) -> str | None:
    """Configuration whose segmentation enters that of a fold's folder; None: it is no cascade."""
    plan, trained = read_fold(fold)
    return plan.configurations[trained.configuration].previous_stage  # type: ignore[index]


def _rule_of(paths: Paths, selection: Selection) -> PostprocessingRule:
    """The selection's own post-processing; one that was chosen for another selection must not touch its answers."""
    if paths.postprocessing.is_file():
        rule = read_record(paths.postprocessing, PostprocessingRule)
        if rule.decided_by == selection.decided_by:
            return rule
    console.warn("No post-processing was chosen for this selection; predicting without. `autoseg select` chooses one.")
    return PostprocessingRule()


def _best_configuration(paths: Paths, plan_name: str | None) -> list[Path]:
    """All trained folds of the configuration with the highest mean Dice over its folds; without any, the usual one."""
    models = paths.folder / MODELS
    candidates = []
    for folder in sorted(models.glob(f"{plan_name or '*'}/*")):
        folds = fold_folders(folder)
        if folds:
            scores = [score for fold in folds if (score := read_fold(fold)[1].mean_dice) is not None]
            mean = sum(scores) / len(scores) if scores else -1.0
            candidates.append(((mean, folder.name == UNCOMPARED), folds))
    if not candidates:
        wanted = f"plan {plan_name}" if plan_name else "any plan"
        raise ModelError(f"No fold of {wanted} is trained in {models}. Run `autoseg train` first.")
    return max(candidates, key=lambda candidate: candidate[0])[1]
