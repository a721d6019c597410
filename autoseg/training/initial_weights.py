"""Folders of trained folds in, the weights that another training starts from out.

Two ways lead here. A training with distractors starts from the fold it refines, to which a head is added. Fine-tuning
(`train --from`) starts from any model with the plan's network, on other labels, channels or data; what it came from is
kept in `fold.json` with the cases that were seen, so that no case is ever called held out that an ancestor was trained
on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from autoseg import console
from autoseg.errors import ModelError, UsageError
from autoseg.inference.model import WEIGHTS, read_fold, weights_digest
from autoseg.inference.model_folders import folds_in, open_configuration
from autoseg.networks.distractor import HidesDistractor, widened
from autoseg.networks.transfer import Interface, shared, transfer
from autoseg.records.dataset import Fold
from autoseg.records.fine_tuning import Origin, matching_names
from autoseg.records.package import is_anonymous
from autoseg.records.plan import Configuration, NetworkSpec, Plan
from autoseg.records.provenance import TrainingInputs
from autoseg.storage import tensors

_WRAPPED = "network."  # before each name in a network that hides a distractor


@dataclass(frozen=True)
class Start:
    """Trained weights, and what they were trained for."""

    weights: dict[str, Tensor]
    """Parameter name -> tensor, of the network itself."""
    known: Interface | None = None
    """What that network was connected to; None: to the same but for the distractor's head, which is added."""
    origins: tuple[Origin, ...] = ()
    """Models that the weights come from, the nearest last; with distractors those of the base, which is in the same
    plan."""


def start_of_base(fold: Path) -> Start:
    """The weights of the fold that a training with distractors refines; raises UsageError when it is not trained."""
    if not (fold / "fold.json").is_file():
        raise UsageError(
            f"A training with distractors starts from the weights of {fold.parent.name} {fold.name}, which is not "
            f"trained. Train it first: autoseg train DATASET {fold.parent.name} {fold.name.removeprefix('fold_')}"
        )
    return Start(tensors.load(fold / WEIGHTS)[0][WEIGHTS], origins=read_fold(fold)[1].origins)


def find_start(model: Path, plan: Plan, configuration: str, fold: str, cases: Fold) -> Start:
    """The trained weights of `model` for one fold of a training.

    A folder of one fold gives that fold. One of a configuration gives, of the same dataset, the fold of the same name,
    whose held-out cases are the same; of another dataset, or where no case is held out, the model of all cases, else
    the fold of the same name, else the first.

    Args:
        model: a folder or a zip as `inference.model_folders` takes them; of several configurations that of the same
            name.
        plan: of the training.
        configuration: to be trained; without distractors.
        fold: number as text, or `all`.
        cases: to train on and to hold out.

    Raises:
        UsageError: its network is another one than the plan's, the fold to start from is not trained, or it has seen
            held-out cases, or may have.
        ModelError: it is no model, or its files are damaged.
    """
    with open_configuration(model, configuration) as folder:
        chosen = _choose_fold(folder, plan.dataset, fold, bool(cases.validation), model)
        model_plan, trained = read_fold(chosen)
        digest, weights = weights_digest(chosen), tensors.load(chosen / WEIGHTS)[0][WEIGHTS]
    settings, theirs = plan.configurations[configuration], model_plan.configurations[trained.configuration]  # type: ignore[index]
    _check_network(settings.network, theirs.network, model, plan, configuration)
    _report_differences(plan, settings, model_plan, theirs, model)
    known, wanted = interface(model_plan, theirs), interface(plan, settings)
    common = shared(known, wanted)
    origin = Origin(
        dataset=model_plan.dataset,
        plan=trained.plan,
        configuration=trained.configuration,
        fold=trained.fold,
        weights=digest,
        cases=trained.train_cases,
        kept_heads=common.heads,
        kept_channels=common.channels,
    )
    origins = (*trained.origins, origin)
    _check_unseen(origins, plan.dataset, cases.validation)
    if theirs.recipe.distractors is not None:
        weights = {name.removeprefix(_WRAPPED): value for name, value in weights.items()}
    return Start(weights, known, origins)


def interface(plan: Plan, settings: Configuration) -> Interface:
    """What the network of a configuration is connected to."""
    learned = settings.learned_labels(plan.labels)
    names = [region.name for region in learned.regions] or learned.class_names
    previous = plan.labels.class_names[1:] if settings.previous_stage is not None else ()
    channels = (*plan.channel_names, *(f"previous stage's {name}" for name in previous))
    return Interface(tuple(names), learned.has_regions, channels)


def slowed(configuration: Configuration, start: Start) -> Configuration:
    """The configuration with the learning rate of fine-tuning; one with distractors has a recipe of its own."""
    recipe = configuration.recipe
    if start.known is None:
        return configuration
    rate = recipe.optimizer.learning_rate * recipe.fine_tuning.learning_rate_factor
    optimizer = recipe.optimizer.model_copy(update={"learning_rate": rate})
    return configuration.model_copy(update={"recipe": recipe.model_copy(update={"optimizer": optimizer})})


def load_start(start: Start, network: nn.Module, plan: Plan, settings: Configuration, title: str) -> None:
    """Put the trained weights into a freshly drawn network; raises ModelError when they do not fit."""
    try:
        if start.known is None:
            assert isinstance(network, HidesDistractor), "a base is refined by a training with distractors alone"
            network = network.network
            weights = widened(start.weights, network, plan.labels.has_regions)
        else:
            weights = transfer(start.weights, start.known, network, settings.network, interface(plan, settings))
    except ModelError as error:
        raise ModelError(f"{title} cannot start from these weights: {error}") from error
    network.load_state_dict(weights)


def report_start(start: Start, plan: Plan, settings: Configuration, title: str) -> None:
    """Say where a fine-tuning starts and what of it is new."""
    origin, wanted = start.origins[-1], interface(plan, settings)
    new_heads = [name for name in wanted.heads if name not in origin.kept_heads]
    new_channels = [name for name in wanted.channels if name not in origin.kept_channels]
    new = ", ".join([*(f"output {name}" for name in new_heads), *(f"channel {name}" for name in new_channels)])
    console.say(
        f"{title}: starts from {origin.configuration} fold {origin.fold} of {origin.dataset}; new: {new or 'nothing'}; "
        f"learning rate times {settings.recipe.fine_tuning.learning_rate_factor:g}"
    )


def check_same_origin(folder: Path, then: TrainingInputs, now: TrainingInputs) -> None:
    """Refuse to go on with a training from another start than it was begun with."""
    if then.origin == now.origin:
        return
    if then.origin is None:
        reason = "without --from: call it without"
    else:
        reason = "from another model: name it with --from" + ("" if now.origin is None else ", as it was")
    raise UsageError(f"{folder} was begun {reason} to go on, or delete the folder to start anew.")


def _choose_fold(folder: Path, dataset: str, fold: str, holds_out: bool, model: Path) -> Path:
    """Of an opened `model`, the folder of one fold or of all folds of a configuration."""
    numbered, whole = folds_in(folder), folder / "fold_all"
    if numbered == [folder]:
        return folder
    same = folder / f"fold_{fold}"
    may_have_seen = holds_out and read_fold(numbered[0])[0].dataset == dataset
    preferred = [same] if may_have_seen else [whole, same, numbered[0]]
    for one in preferred:
        if (one / "fold.json").is_file():
            return one
    raise UsageError(
        f"{model} is of this dataset and has no trained fold {fold}; its others were trained on cases that fold {fold} "
        "holds out. Name a fold's own folder to take its weights nevertheless, or train that fold first."
    )


def _check_network(wanted: NetworkSpec, known: NetworkSpec, model: Path, plan: Plan, configuration: str) -> None:
    fields = [field for field in NetworkSpec.model_fields if getattr(wanted, field) != getattr(known, field)]
    if "kernel_sizes" in fields and len(wanted.kernel_sizes) == len(known.kernel_sizes):
        pairs = zip(sum(known.kernel_sizes, ()), sum(wanted.kernel_sizes, ()), strict=False)
        if len(wanted.strides[0]) == len(known.strides[0]) and all(small <= large for small, large in pairs):
            fields.remove("kernel_sizes")
    if fields:
        raise UsageError(
            f"{configuration} of plan {plan.name} has another network than {model} ({', '.join(fields)}), so its "
            f"weights do not fit. Plan the dataset with the model's network, spacing and normalisation:\n"
            f"  autoseg plan DATASET --like {model}"
        )


def _report_differences(plan: Plan, settings: Configuration, model: Plan, theirs: Configuration, where: Path) -> None:
    """Warn of what does not keep the weights from fitting, and makes them worth less."""
    found = [field for field in ("orientation", "transpose") if getattr(plan, field) != getattr(model, field)]
    fields = ("spacing_mm", "previous_stage")
    found += [field for field in fields if getattr(settings, field) != getattr(theirs, field)]
    sources = matching_names(model.channel_names, plan.channel_names)
    if any(
        old is not None and settings.normalization[new] != theirs.normalization[old] for new, old in enumerate(sources)
    ):
        found.append("normalization")
    if found:
        console.warn(
            f"{plan.name} prepares images otherwise than {where} was trained with ({', '.join(found)}), so less of "
            "what it learned holds; `autoseg plan DATASET --like MODEL` takes them from the model."
        )


def _check_unseen(origins: Sequence[Origin], dataset: str, held_out: Sequence[str]) -> None:
    same = [origin for origin in origins if origin.dataset == dataset]
    if held_out and any(not origin.cases or any(map(is_anonymous, origin.cases)) for origin in same):
        raise UsageError(
            f"The model was trained on {dataset} and does not say on which of its cases, as packed and imported ones "
            "do not, so it may have seen those that this fold holds out. Start from the model's folder in the "
            "workspace, or train fold `all`."
        )
    seen = sorted({case for origin in same for case in origin.cases} & {*held_out})
    if seen:
        more = f" and {len(seen) - 5} more" if len(seen) > 5 else ""
        raise UsageError(
            f"The model was trained on cases that this fold holds out: {', '.join(seen[:5])}{more}. Its score would be "
            "too good. Start from the fold that holds out the same cases, or train fold `all`."
        )
