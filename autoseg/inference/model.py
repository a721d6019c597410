"""Folders of trained folds in, networks ready to predict out.

A fold folder is self-contained: `plan.json`, `fold.json` and the weights say all that is needed, so a model can be
copied to another machine by copying its folder. Weights are checked against their hashes as they are read. A cascade
needs its previous stage beside it: `<plan>/3d_lowres` next to `<plan>/3d_cascade_fullres`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autoseg.errors import ModelError
from autoseg.inference.temperature import Tempered
from autoseg.networks.build import build_network
from autoseg.networks.distractor import HidesDistractor
from autoseg.records.base import read_record
from autoseg.records.labels import LabelScheme
from autoseg.records.plan import Configuration, Plan
from autoseg.records.results import TrainedFold
from autoseg.storage import tensors
from autoseg.storage.hashing import sha256_file, sha256_json
from autoseg.storage.large_arrays import large_array

WEIGHTS = "weights"
"""Subfolder of a finished fold, and name of the tensors in it."""

FAST_STEP = 0.75
"""Distance of tiles in patches of a fast model: in a large volume 3.4 times fewer tiles than at one half."""


@dataclass(frozen=True)
class Model:
    """The folds of one configuration, whose logits are averaged."""

    networks: tuple[nn.Module, ...]
    plan: Plan
    configuration: str
    folders: tuple[Path, ...]
    """Fold folders, one a network."""
    digest: str
    """Changes with any weight and with the plan's recipe of prediction."""
    previous: "Model | None" = None
    """The stage whose segmentation enters (cascade)."""
    step: float = 0.5
    """Distance of tiles as a share of the patch."""

    @property
    def settings(self) -> Configuration:
        """The plan's values for this configuration."""
        return self.plan.configurations[self.configuration]  # type: ignore[index]


def previous_channels(classes: Tensor, labels: LabelScheme) -> Tensor:
    """Internal classes `Z Y X` as one channel a foreground class, `K Z Y X` float32."""
    numbers = torch.arange(1, labels.num_classes, device=classes.device, dtype=classes.dtype)
    return (classes[None] == numbers[:, None, None, None]).float()


def with_previous(image: Tensor, classes: npt.NDArray[np.integer[Any]]) -> Tensor:
    """An image `C Z Y X` (float32), behind it the previous stage's classes `Z Y X`; in a file where memory is short."""
    joined = large_array((len(image) + 1, *image.shape[1:]), np.float32)
    joined[:-1], joined[-1] = image.numpy(), classes
    return torch.from_numpy(joined)


def new_network(plan: Plan, settings: Configuration, seed: int) -> nn.Module:
    """The network of a configuration, its weights drawn from `seed`; a distractor is hidden when it predicts."""
    num_channels = len(plan.channel_names) + settings.num_previous_channels(plan.labels)
    learned = settings.learned_labels(plan.labels)
    network = build_network(settings.network, num_channels, learned.num_heads, seed)
    return network if settings.recipe.distractors is None else HidesDistractor(network, learned.has_regions)


def fold_folders(configuration_folder: Path) -> list[Path]:
    """Finished cross-validation folds of a configuration, or its model of all cases where there are none."""
    finished = [folder for folder in configuration_folder.glob("fold_*") if (folder / "fold.json").is_file()]
    numbered = [folder for folder in finished if folder.name != "fold_all"]
    return sorted(numbered or finished, key=lambda folder: (len(folder.name), folder.name))


def load_model(folders: Sequence[Path], device: torch.device, temperatures: Sequence[float] | None = None) -> Model:
    """Load folds of one configuration, and all folds of its previous stage.

    Args:
        folders: fold folders, at least one.
        device: where they shall run.
        temperatures: one a fold, by which its logits are divided (calibration); None: 1 for all. The previous stage
            is never calibrated: its segmentation enters as the cascade was trained with it.

    Raises:
        ModelError: a file is missing or damaged, the folds are not of one configuration and plan, or the previous
            stage of a cascade is not there.
    """
    plan, trained = read_fold(folders[0])
    configuration = trained.configuration
    for folder in folders[1:]:
        other_plan, other = read_fold(folder)
        if other.configuration != configuration or _predicting(other_plan, configuration) != _predicting(
            plan, configuration
        ):
            raise ModelError(f"{folders[0]} and {folder} are not folds of one configuration of one plan.")
    settings = plan.configurations[configuration]  # type: ignore[index]
    divisors = tuple(temperatures or (1.0,) * len(folders))
    networks = tuple(
        _load_network(folder, plan, settings, device, divisor)
        for folder, divisor in zip(folders, divisors, strict=True)
    )
    previous = None
    if settings.previous_stage is not None:
        earlier = fold_folders(folders[0].resolve().parent.parent / settings.previous_stage)
        if not earlier:
            raise ModelError(f"{folders[0]} needs the folds of {settings.previous_stage} beside its configuration.")
        previous = load_model(earlier, device)
    digests = [weights_digest(folder) for folder in folders]
    parts: list[object] = [digests, _predicting(plan, configuration), previous and previous.digest]
    digest = sha256_json(parts if set(divisors) == {1.0} else [*parts, divisors])
    return Model(networks, plan, configuration, tuple(folders), digest, previous)


def fast(model: Model) -> Model:
    """The same networks, without mirroring and with tiles further apart; the stage before a cascade likewise.

    What it costs in Dice stands in `docs/how-to/predict_large_images.md`.
    """
    settings = model.settings
    mirroring = settings.recipe.mirroring.model_copy(update={"in_prediction": False})
    recipe = settings.recipe.model_copy(update={"mirroring": mirroring})
    configurations = dict(model.plan.configurations)
    configurations[model.configuration] = settings.model_copy(update={"recipe": recipe})  # type: ignore[index]
    return replace(
        model,
        plan=model.plan.model_copy(update={"configurations": configurations}),
        previous=None if model.previous is None else fast(model.previous),
        step=FAST_STEP,
        digest=sha256_json([model.digest, "fast"]),
    )


def read_fold(folder: Path) -> tuple[Plan, TrainedFold]:
    """Plan and result of a finished fold; raises ModelError when the training did not finish."""
    trained = read_record(folder / "fold.json", TrainedFold, ModelError, "Finish its training first.")
    plan = read_record(folder / "plan.json", Plan, ModelError, "Copy the whole fold folder.")
    if trained.configuration not in plan.configurations:
        raise ModelError(f"{folder / 'plan.json'} has no configuration {trained.configuration}.")
    return plan, trained


def weights_digest(folder: Path) -> str:
    """Digest of the weights of a finished fold: the same where a training gave the same."""
    return sha256_file(folder / WEIGHTS / "MANIFEST.json")


def _predicting(plan: Plan, configuration: str) -> object:
    """What of a plan decides how images are prepared and predicted, as JSON-like values."""
    settings = plan.configurations[configuration]  # type: ignore[index]
    return [
        plan.labels.model_dump(mode="json"),
        plan.channel_names,
        plan.orientation,
        plan.transpose,
        {channel: values.model_dump(mode="json") for channel, values in plan.intensities.items()},
        settings.model_dump(mode="json", exclude={"recipe", "batch_size", "median_shape", "batch_dice"}),
        settings.recipe.mirroring.model_dump(mode="json"),
    ]


def _load_network(
    folder: Path, plan: Plan, settings: Configuration, device: torch.device, temperature: float
) -> nn.Module:
    content, _ = tensors.load(folder / WEIGHTS)
    network = new_network(plan, settings, seed=0)
    try:
        network.load_state_dict(content[WEIGHTS])
    except (KeyError, RuntimeError) as error:
        raise ModelError(f"{folder / WEIGHTS} does not fit the network of {folder / 'plan.json'}: {error}") from error
    return (network if temperature == 1 else Tempered(network, temperature)).to(device).eval()
