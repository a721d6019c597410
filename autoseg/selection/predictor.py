"""A dataset's workspace or folders of trained folds in, what turns a new image into a segmentation out.

What predicts is what was selected, with its temperatures, its post-processing and what was learned about it; before a
selection, all trained folds of the best configuration.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from autoseg import console
from autoseg.datasets.pairs import read_case_image
from autoseg.images.volume import Volume
from autoseg.inference.model import Model, fast, load_model
from autoseg.inference.model_folders import open_model
from autoseg.inference.predictor import OnGrid, needed_configurations
from autoseg.preprocessing.prepare import crop_case, onto_grid
from autoseg.records.dataset import Case
from autoseg.records.results import PostprocessingRule
from autoseg.records.trust import Trust
from autoseg.records.workspace import Paths
from autoseg.selection.sources import find_sources
from autoseg.storage.hashing import sha256_json

Grids = dict[str, OnGrid]


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
    def rule_needs_folds(self) -> bool:
        """Whether post-processing scores components by the probabilities of each fold."""
        return self.rule.components is not None and self.rule.components.needs_probabilities

    @property
    def predicts_per_fold(self) -> bool:
        """Whether the logits of each fold are wanted, not only their mean."""
        return self.saves_probabilities or self.rule_needs_folds

    @property
    def digest(self) -> str:
        """Changes with anything that could change a segmentation or its judgement."""
        rule = self.rule.model_dump(mode="json", exclude={"reasons"})
        parts: list[object] = [[model.digest for model in self.models], rule]
        if self.trust is not None:
            parts.append(self.trust.inputs)
        return sha256_json([*parts, "probabilities"] if self.saves_probabilities else parts)


def load_predictor(where: Paths | Path, plan_name: str | None, device: torch.device) -> Predictor:
    """The model to predict with.

    Args:
        where: a dataset in the workspace; or a path: its folder, what `autoseg pack` made of it (a zip, or the
            folder it was unpacked to), or the folder of a fold, of a configuration, or of several configurations.
        plan_name: of a dataset, another plan's models than the selected ones.
        device: where it shall run.

    Raises:
        ModelError: none is trained, or a file is damaged.
    """
    with open_model(where) as folder:
        sources = find_sources(folder, plan_name)
        models = tuple(
            load_model(folds, device, temperatures)
            for folds, temperatures in zip(sources.folds, sources.temperatures, strict=True)
        )
    return Predictor(models, sources.rule, device, trust=sources.trust)


def fast_predictor(predictor: Predictor) -> Predictor:
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
    channels = len(predictor.models[0].plan.channel_names)
    return prepare_volume(predictor, case.id, read_case_image(root, case, channels))


def prepare_volume(predictor: Predictor, case_id: str, volume: Volume) -> Grids:
    """Bring an image that was read already onto the grid of every configuration that is needed; raises likewise."""
    needed = needed_configurations(predictor.models)
    cropped = crop_case(case_id, volume, None, predictor.models[0].plan)  # turning and cropping are the same for all
    grids = {}
    for name, plan in needed:
        ready = onto_grid(cropped, plan, name)
        grids[name] = OnGrid(torch.from_numpy(ready.image), ready.meta)
    return grids
