"""A dataset's workspace, a model folder or a packed model in, the folders and records that predict together out.

Nothing of it needs the weights in memory: `selection.predictor` loads them, `pipeline.pack` copies them.
"""

from dataclasses import dataclass, field
from pathlib import Path

from autoseg import console
from autoseg.errors import ModelError
from autoseg.inference.model import fold_folders, read_fold
from autoseg.inference.model_folders import configurations_in
from autoseg.records.base import read_record
from autoseg.records.results import PostprocessingRule, Selection
from autoseg.records.trust import Trust
from autoseg.records.workspace import MODELS, POSTPROCESSING, Paths
from autoseg.selection.case_quality import read_trust
from autoseg.selection.temperatures import stored_temperatures

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


def find_sources(where: Paths | Path, plan_name: str | None) -> Sources:
    """What predicts.

    Args:
        where: as `inference.model_folders.open_model` yields it: a dataset's folder, or that of one fold, of the folds
            of a configuration, or of several configurations, which are averaged.
        plan_name: of a dataset, another plan's models than the selected ones.

    Raises:
        ModelError: none is trained, or a file is damaged.
    """
    if isinstance(where, Path):
        return _uncalibrated(configurations_in(where))
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


def _selected_folds(paths: Paths, selection: Selection, name: str) -> list[Path]:
    """Fold folders of a selected configuration; names that lead out of the models' folder are refused."""
    folds = selection.folds.get(name, ())
    if not folds or any(Path(part).name != part or "\\" in part for part in (selection.plan, name, *folds)):
        raise ModelError(f"{paths.selection} names no folds of {name}, or folds outside {paths.folder / MODELS}.")
    return [paths.fold(selection.plan, name, fold) for fold in folds]


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
