"""What nnU-Net chose among the configurations of a dataset in, our selection and its post-processing out.

`nnUNetv2_find_best_configuration` leaves `inference_information.json` beside the models' folders: the one or two that
predict together, and the folds that it compared. The post-processing of two lies in
`ensembles/ensemble___<model>___<model>___<k>_<k>/postprocessing.json`. nnU-Net averages the probabilities of both, and
so does a selection of ours.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from autoseg.errors import ModelError
from autoseg.interop.nnunet_files import read_json
from autoseg.interop.nnunet_postprocessing import FILE, rule_in
from autoseg.records.plan import ConfigurationName, Plan
from autoseg.records.results import PostprocessingRule, Selection
from autoseg.storage.hashing import sha256_json

INFORMATION = "inference_information.json"


class Member(NamedTuple):
    """A configuration that was imported."""

    plan: Plan
    configuration: ConfigurationName
    folds: tuple[str, ...]
    rule: PostprocessingRule
    """nnU-Net's for the configuration alone."""


def read_choice(information: Path, known: Mapping[str, Member]) -> tuple[Selection, PostprocessingRule]:
    """The choice that nnU-Net left in a file.

    Args:
        information: `inference_information.json`.
        known: name of nnU-Net's folder beside it -> what was imported of it.

    Raises:
        ModelError: the file is damaged, or a model or fold of the choice was not imported; the reason is named.
    """
    content = read_json(information)
    try:
        names = [_folder_name(model) for model in content["best_model_or_ensemble"]["selected_model_or_models"]]
        folds = tuple(str(fold) for fold in content["folds"])
    except (KeyError, TypeError) as error:
        raise ModelError(f"{INFORMATION} is not as nnU-Net writes it: {error!r}") from error
    if not names or not folds or len(set(names)) < len(names):
        raise ModelError(f"{INFORMATION} names no models, or no folds")
    if missing := [name for name in names if name not in known]:
        raise ModelError(f"of the models that nnU-Net chose {', '.join(missing)} is not imported")
    members = [known[name] for name in names]
    if any(set(folds) - set(member.folds) for member in members):
        raise ModelError(f"nnU-Net chose on the folds {', '.join(folds)}, of which some are not imported")
    if len({(member.plan.dataset, member.plan.name) for member in members}) > 1:
        raise ModelError(f"the models that nnU-Net chose are of different plans; import them with one --name: {names}")
    rule = members[0].rule if len(members) == 1 else _rule_of_both(information.parent, names, folds, members[0].plan)
    digest = sha256_json(["nnU-Net", names, folds, rule.keep_largest_together])
    selection = Selection(
        plan=members[0].plan.name,
        configurations=tuple(member.configuration for member in members),
        folds={member.configuration: folds for member in members},
        candidates=(),
        decided_by=digest,
        reasons=(f"nnU-Net's choice: {' + '.join(names)}",),
    )
    return selection, rule.model_copy(update={"decided_by": digest})


def _folder_name(model: Mapping[str, Any]) -> str:
    return f"{model['trainer']}__{model['plans_identifier']}__{model['configuration']}"


def _rule_of_both(beside: Path, names: list[str], folds: tuple[str, ...], plan: Plan) -> PostprocessingRule:
    folder = beside / "ensembles" / "___".join(("ensemble", *names, "_".join(folds)))
    if not (folder / FILE).is_file():
        raise ModelError(f"nnU-Net's post-processing of the ensemble is not there: ensembles/{folder.name}/{FILE}")
    return rule_in(folder, plan.labels)
