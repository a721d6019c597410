"""A dataset's workspace or folders of trained folds in, what turns a new image into a segmentation out.

What predicts is what was selected, with its temperatures, its post-processing and what was learned about it; before a
selection, all trained folds of the best configuration.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from autoseg import console
from autoseg.datasets.pairs import read_case_image
from autoseg.errors import ModelError
from autoseg.inference.model import Model, fast, fold_folders, load_model, read_fold
from autoseg.inference.predictor import OnGrid, needed_configurations
from autoseg.preprocessing.prepare import crop_case, onto_grid
from autoseg.records.base import read_record
from autoseg.records.dataset import Case
from autoseg.records.results import PostprocessingRule, Selection
from autoseg.records.trust import Trust
from autoseg.records.workspace import Paths
from autoseg.selection.judging import read_trust
from autoseg.selection.temperatures import stored_temperatures
from autoseg.storage.hashing import sha256_json

Grids = dict[str, OnGrid]

UNCOMPARED = "3d_fullres"
"""Predicts where nothing was held out, so that nothing could be compared: nnU-Net's usual first choice."""


@dataclass(frozen=True)
class Predictor:
    """Everything that turns an image into a segmentation."""

    models: tuple[Model, ...]
    """One a configuration; the probabilities of several are averaged."""
    rule: PostprocessingRule
    device: torch.device
    saves_probabilities: bool = False
    """Whether the ensemble's probabilities are written beside the segmentations."""
    trust: Trust | None = None
    """What judges the segmentations; None: nothing was learned about this model."""

    @property
    def digest(self) -> str:
        """Changes with anything that could change a segmentation or what is said about it."""
        rule = self.rule.model_dump(mode="json", exclude={"reasons"})
        parts: list[object] = [[model.digest for model in self.models], rule]
        if self.trust is not None:
            parts.append(self.trust.inputs)
        return sha256_json([*parts, "probabilities"] if self.saves_probabilities else parts)


def load_predictor(where: Paths | Path, plan_name: str | None, device: torch.device) -> Predictor:
    """The model to predict with; raises ModelError when none is trained or a file is damaged."""
    if isinstance(where, Path):
        folders = [where] if (where / "fold.json").is_file() else fold_folders(where)
        if not folders:
            raise ModelError(f"{where} holds no trained fold: fold.json is in neither it nor its fold_* folders.")
        return Predictor((load_model(folders, device),), PostprocessingRule(), device)
    selection = read_record(where.selection, Selection) if where.selection.is_file() else None
    if selection is not None and plan_name in (None, selection.plan):
        chosen = [
            [where.fold(selection.plan, name, fold) for fold in selection.folds[name]]
            for name in selection.configurations
        ]
        models = tuple(
            load_model(folders, device, stored_temperatures(where.calibration, selection.plan, name, folders))
            for name, folders in zip(selection.configurations, chosen, strict=True)
        )
        return Predictor(models, _rule_of(where, selection), device, trust=read_trust(where.trust, selection))
    return Predictor((load_model(_best_configuration(where, plan_name), device),), PostprocessingRule(), device)


def hastened(predictor: Predictor) -> Predictor:
    """The same models without mirroring and with fewer tiles (`inference.model.fast`).

    What was learned from the probabilities of full predictions does not hold for them and is left out with a warning:
    rules of components that judge by probabilities, and what judges the segmentations.
    """
    rule, left_out = predictor.rule, []
    if rule.components is not None and rule.components.needs_probabilities:
        rule, left_out = rule.model_copy(update={"components": None}), ["no post-processing of components"]
    if predictor.trust is not None:
        left_out.append("no predicted quality")
    if left_out:
        console.warn(f"--fast: {' and '.join(left_out)}, since these were learned from full predictions.")
    models = tuple(fast(model) for model in predictor.models)
    return replace(predictor, models=models, rule=rule, trust=None)


def prepare(predictor: Predictor, root: Path, case: Case) -> Grids:
    """Read a case and bring it onto the grid of every configuration that is needed.

    Raises:
        DataError: a file is damaged, a channel is missing, or a value is not finite.
        ModelError: the models are of plans that do not go together.
    """
    needed = needed_configurations(predictor.models)
    shared = predictor.models[0].plan  # turning and cropping are the same for all
    cropped = crop_case(case.id, read_case_image(root, case, len(shared.channel_names)), None, shared)
    grids = {}
    for name, plan in needed:
        ready = onto_grid(cropped, plan, name)
        grids[name] = OnGrid(torch.from_numpy(ready.image), ready.meta)
    return grids


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
    models = paths.folder / "models"
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
