"""A folder of trained folds in, what it says about itself out; kept as `model.json` beside the folds.

All but the licence is read from the folds, so a copy with fewer folds, or with more, describes itself rightly.
"""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

from autoseg import console
from autoseg.errors import ModelError
from autoseg.inference.model import read_fold, weights_digest
from autoseg.records.base import read_record, write_record
from autoseg.records.model_card import FoldCard, ModelCard
from autoseg.records.results import TrainedFold
from autoseg.version import __version__

CARD = "model.json"


def write_card(folder: Path) -> None:
    """Describe the finished folds of a configuration's folder in its `model.json`; a licence that is there stays.

    A damaged fold, perhaps another one than was just trained, is a warning: nothing else hangs on the card.
    """
    try:
        card = describe_model(folder)
    except ModelError as error:
        console.warn(f"{folder / CARD} is not written: {error}")
    else:
        write_record(folder / CARD, card)


def describe_model(folder: Path) -> ModelCard:
    """The card of a configuration's folder, or of the folder of one fold (`model_folders.open_configuration`).

    Raises:
        ModelError: no fold in it is trained, the folds are of several configurations, or a file is damaged.
    """
    is_fold = (folder / "fold.json").is_file()
    folders = [folder] if is_fold else sorted(path.parent for path in folder.glob("fold_*/fold.json"))
    if not folders:
        raise ModelError(f"{folder} holds no trained fold: fold.json is in neither it nor its fold_* folders.")
    card = (folder.parent if is_fold else folder) / CARD
    licence = read_record(card, ModelCard, ModelError).licence if card.is_file() else None
    return describe_folds(folders, licence)


def describe_folds(folders: Sequence[Path], licence: str | None = None) -> ModelCard:
    """The card of some folds of one configuration; raises ModelError as `describe_model` does."""
    known = [(path, *read_fold(path)) for path in folders]
    _, plan, first = known[0]
    if others := sorted({trained.configuration for *_, trained in known} - {first.configuration}):
        where = folders[0].parent
        raise ModelError(f"{where} holds folds of {first.configuration} and of {', '.join(others)}: separate them.")
    settings = plan.configurations[first.configuration]  # type: ignore[index]
    return ModelCard(
        dataset=plan.dataset,
        plan=plan.name,
        preset=plan.preset,
        configuration=first.configuration,
        channel_names=plan.channel_names,
        labels=plan.labels,
        spacing_mm=settings.spacing_mm,
        patch_size=settings.patch_size,
        architecture=settings.network.architecture,
        num_parameters=first.num_parameters,
        previous_stage=settings.previous_stage,
        folds={trained.fold: _describe_fold(path, trained) for path, _, trained in known},
        versions={"autoseg": __version__, "torch": importlib.metadata.version("torch")},
        licence=licence,
    )


def _describe_fold(folder: Path, trained: TrainedFold) -> FoldCard:
    return FoldCard(
        num_train_cases=len(trained.train_cases),
        num_validation_cases=len(trained.validation_cases),
        epochs=trained.epochs,
        iterations_per_epoch=trained.iterations_per_epoch,
        mean_dice=trained.mean_dice,
        weights=weights_digest(folder),
        trained_from=tuple(f"{o.dataset} {o.configuration} fold {o.fold}" for o in trained.origins),
    )
