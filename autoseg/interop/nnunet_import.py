"""A results folder of nnU-Net v2, or a zip of one or several, in; ordinary model folders of autoseg out.

    <out>/<configuration>/fold_<k>/{plan.json, weights/, fold.json}
    <out>/<configuration>/model.json, postprocessing.json

nnU-Net keeps a trained configuration in `<Trainer>__<Plans>__<Configuration>/` with `plans.json`, `dataset.json` and
`fold_<k>/checkpoint_final.pth`; archives of `nnUNetv2_export_model_to_zip` hold several. The plan keeps nnU-Net's
orientation, transpose, normalisation and mirroring, so predictions are its own. What it chose as post-processing comes
with the model (`nnunet_postprocessing`), what it chose among several as the dataset's selection (`nnunet_choice`).
"""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from autoseg import console
from autoseg.errors import ModelError, UsageError
from autoseg.inference.model import WEIGHTS, new_network
from autoseg.inference.model_card import write_card
from autoseg.interop.checkpoints import CheckpointFacts, read_checkpoint
from autoseg.interop.nnunet_choice import INFORMATION, Member, read_choice
from autoseg.interop.nnunet_files import read_json
from autoseg.interop.nnunet_names import nnunet_names
from autoseg.interop.nnunet_plans import import_plan
from autoseg.interop.nnunet_postprocessing import import_postprocessing
from autoseg.records.base import read_record, write_record
from autoseg.records.plan import ConfigurationName, Plan
from autoseg.records.results import PostprocessingRule, TrainedFold
from autoseg.records.workspace import POSTPROCESSING, Paths
from autoseg.storage import tensors
from autoseg.storage.archives import unpacked
from autoseg.storage.atomic import filled_folder

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
"""The first that a fold has is taken, as `nnUNetv2_predict` does by default."""
_ITERATIONS = 250  # of an epoch of nnU-Net's trainer


class Found(NamedTuple):
    """A trained configuration in nnU-Net's layout."""

    folder: Path
    plans: dict[str, Any]
    dataset: dict[str, Any]
    folds: dict[str, Path]
    """Number as text, or `all` -> its checkpoint."""


Planned = dict[Path, tuple[Found, Plan, ConfigurationName]]
"""Folder that a configuration is written to -> what it comes from, its plan and its name among ours."""


def import_nnunet(
    source: Path, workspace: Path, output: Path | None = None, name: str | None = None, checkpoint: str | None = None
) -> list[Path]:
    """Import every trained configuration of a results folder or zip.

    Args:
        source: folder of one configuration or any folder above it, or a zip file of such.
        workspace: where models go without `output`: `<workspace>/<Dataset>/models/<plan>/<configuration>`.
        output: folder for the configurations' folders instead; no other model may be there.
        name: of the plan; default: nnU-Net's.
        checkpoint: file name of the checkpoints; default: the first of `CHECKPOINTS` that a fold has.

    Returns:
        The folders of the configurations, then those of datasets for which nnU-Net's choice was taken over, all as
        `predict --model` takes them.

    Raises:
        UsageError: `source` holds no model, or a target is there already.
        ModelError: a file is damaged, not to be trusted, or of a network that is not nnU-Net's own.
        ResourceError: the disk is full.
    """
    names = CHECKPOINTS if checkpoint is None else (checkpoint,)
    scratch = workspace if output is None else output
    if not source.exists():
        raise UsageError(f"{source} does not exist; give a results folder of nnU-Net or a zip of one.")
    with nullcontext(source) if source.is_dir() else unpacked(source, scratch) as folder:
        models = [_found(path.parent, names) for path in sorted(folder.rglob("plans.json"))]
        models = [model for model in models if model.folds]
        if not models:
            raise UsageError(
                f"{source} holds no model of nnU-Net v2: a folder with plans.json, dataset.json and "
                f"fold_*/{' or '.join(names)}."
            )
        planned = _import_all(models, scratch, output, name)
        choices = sorted({model.folder.parent / INFORMATION for model in models if len(planned) > 1})
        chosen = [_take_choice(path, planned, scratch, output) for path in choices if path.is_file()]
        return [*planned, *(dataset for dataset in chosen if dataset is not None)]


def _import_all(models: Sequence[Found], scratch: Path, output: Path | None, name: str | None) -> Planned:
    """Plans of all first, so that what cannot be imported is known before anything is written."""
    planned: Planned = {}
    for model in models:
        facts, _ = read_checkpoint(next(iter(model.folds.values())), scratch)
        plan, configuration = import_plan(model.plans, model.dataset, facts, model.folder, name)
        paths = Paths(folder=scratch / _folder_name(plan.dataset))
        target = paths.configuration(plan.name, configuration) if output is None else output / configuration
        if target in planned or target.exists():
            raise UsageError(f"{model.folder} would become {target}, which is there already: use --name or -o.")
        planned[target] = (model, plan, configuration)
    for target, (_, plan, configuration) in planned.items():
        previous = plan.configurations[configuration].previous_stage
        beside = None if previous is None else target.parent / previous
        if beside is not None and beside not in planned and not beside.exists():
            raise UsageError(f"{configuration} needs the model of {previous}, which is not there: import both at once.")
    for target, (model, plan, configuration) in planned.items():
        _write(model, plan, configuration, target)
    return planned


def _take_choice(information: Path, planned: Planned, scratch: Path, output: Path | None) -> Path | None:
    """Write nnU-Net's choice among the imported models as a selection; its dataset's folder, or None, which is told."""
    known = {
        model.folder.name: Member(
            plan, configuration, tuple(model.folds), read_record(target / POSTPROCESSING, PostprocessingRule)
        )
        for target, (model, plan, configuration) in planned.items()
        if model.folder.parent == information.parent
    }
    try:
        if output is not None:
            raise ModelError("the models go to a folder of their own; without -o they would go to the workspace")
        selection, rule = read_choice(information, known)
        paths = Paths(folder=scratch / _folder_name(next(iter(known.values())).plan.dataset))
        if paths.selection.exists():
            raise ModelError(f"{paths.selection} is there already")
    except ModelError as error:
        console.warn(f"nnU-Net's choice among its models is not taken over: {str(error).removesuffix('.')}.")
        return None
    write_record(paths.postprocessing, rule)
    write_record(paths.selection, selection)
    for reason in (*selection.reasons, *rule.reasons):
        console.say(f"{paths.folder.name}: {reason}")
    return paths.folder


def _folder_name(dataset: str) -> str:
    name = Path(dataset).name
    if name != dataset or name in ("", ".", ".."):
        raise ModelError(f"dataset_name {dataset!r} in plans.json is no name of a folder.")
    return name


def _found(folder: Path, names: Sequence[str]) -> Found:
    checkpoints, left_out = {}, []
    for fold in sorted(folder.glob("fold_*")):
        known = [fold / name for name in names if (fold / name).is_file()]
        number = fold.name.removeprefix("fold_")
        if known and (number == "all" or number.isdecimal()):
            checkpoints[number] = known[0]
        elif number.isdecimal():
            left_out.append(fold.name)
    if not checkpoints:
        return Found(folder, {}, {}, {})
    if left_out:
        console.warn(f"{folder.name}: no {' or '.join(names)} in {', '.join(left_out)}; imported without.")
    return Found(folder, read_json(folder / "plans.json"), read_json(folder / "dataset.json"), checkpoints)


def _write(model: Found, plan: Plan, configuration: ConfigurationName, target: Path) -> None:
    with filled_folder(target) as folder:
        for number, checkpoint in console.track(model.folds.items(), len(model.folds), f"importing {configuration}"):
            facts, theirs = read_checkpoint(checkpoint, folder.parent)
            own, _ = import_plan(model.plans, model.dataset, facts, model.folder, plan.name)
            if own != plan:
                raise ModelError(f"{checkpoint} is of another configuration or trainer than the other folds.")
            fold = folder / f"fold_{number}"
            tensors.save(fold / WEIGHTS, {WEIGHTS: _our_weights(theirs, plan, configuration, checkpoint)}, {})
            write_record(fold / "plan.json", plan)
            write_record(fold / "fold.json", _trained(plan, configuration, number, facts, theirs))
        rule = import_postprocessing(model.folder, model.folds, plan.labels)
        write_record(folder / POSTPROCESSING, rule)
        write_card(folder)


def _our_weights(
    theirs: dict[str, Tensor], plan: Plan, configuration: ConfigurationName, where: Path
) -> dict[str, Tensor]:
    """Weights under our names; the network is built without memory first, so that no plan can ask for more."""
    settings = plan.configurations[configuration]
    with torch.device("meta"):
        expected = new_network(plan, settings, seed=0).state_dict()
    names = nnunet_names(expected, settings.network)
    if differing := sorted(set(theirs) ^ set(names.values())):
        raise ModelError(f"{where}: its parameters are not those of the network in plans.json: {_few(differing)}.")
    if differing := [n for n, their_name in names.items() if theirs[their_name].shape != expected[n].shape]:
        raise ModelError(f"{where}: parameters have other shapes than the network in plans.json: {_few(differing)}.")
    return {ours: theirs[their_name] for ours, their_name in names.items()}


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _trained(
    plan: Plan, configuration: ConfigurationName, fold: str, facts: CheckpointFacts, weights: dict[str, Tensor]
) -> TrainedFold:
    """What is known of a training elsewhere: neither its cases nor its time."""
    return TrainedFold(
        plan=plan.name,
        configuration=configuration,
        fold=fold,
        train_cases=(),
        validation_cases=(),
        epochs=facts.epochs,
        iterations_per_epoch=_ITERATIONS,
        seconds=0.0,
        num_parameters=sum(value.numel() for value in weights.values()),
        device="unknown (imported)",
    )
