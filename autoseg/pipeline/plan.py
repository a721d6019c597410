"""Stage plan: the records of dataset and fingerprint in, `plans/<name>.json` out.

A plan on disk belongs to its user. It is written anew only when there is none or `overwrite` says so; otherwise it
stays as it is, settings are applied to it, and a difference from what would be planned now is reported.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from autoseg import console
from autoseg.datasets.description import parse_dataset_json
from autoseg.errors import UsageError
from autoseg.planning.build import make_plan
from autoseg.planning.distractors import plan_distractors, without_distractors
from autoseg.planning.like import plan_like
from autoseg.planning.presets import Orientation, resolve_preset
from autoseg.planning.settings import apply_settings, orientation_setting
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Dataset
from autoseg.records.fingerprint import Fingerprint
from autoseg.records.plan import Plan
from autoseg.records.workspace import Paths

_MOST_WATCHED, _CASES_A_WATCHED = 4, 10
"""Cases that are set aside to watch a training until its plateau: one for so many of the dataset. A fixed share, not as
many as are predicted in some share of the time, since what is trained on must not depend on a machine's speed."""


def plateau_settings(num_cases: int) -> tuple[str, ...]:
    """What a training until its plateau needs: a constant rate, cases to watch, and a bound that it hardly reaches.

    Args:
        num_cases: training cases of the dataset.
    """
    watched = min(_MOST_WATCHED, math.ceil(num_cases / _CASES_A_WATCHED))
    return (
        "all.recipe.schedule.name=wsd",
        "all.recipe.schedule.epochs=1000",
        f"all.recipe.watch.cases={watched}",
        "all.recipe.watch.every_epochs=2",
    )


def plateau_name(preset: str, gpu_memory_gib: float | None, device_kind: str) -> str:
    """Of the plan that `plateau_settings` make of a preset's: the preset's own plan stays as it is."""
    return f"{resolve_preset(preset, device_kind, gpu_memory_gib)}_plateau"


@dataclass(frozen=True)
class PlanOptions:
    """What a plan is asked to be."""

    preset: str = "auto"
    """Key of `planning.presets.PRESETS`, or `auto`."""
    name: str | None = None
    """File name in `plans/`, without ending; None: the preset's name."""
    settings: Sequence[str] = ()
    """Fields to set, `3d_fullres.batch_size=4`."""
    gpu_memory_gib: float | None = None
    """Memory of the card to plan for; None: the preset's own."""
    device_kind: str = "cpu"
    """`cpu` or `cuda`; decides what `auto` means."""


def plan(
    paths: Paths, options: PlanOptions = PlanOptions(), *, overwrite: bool = False, like: Path | None = None
) -> Plan:
    """The plan that is asked for, made if there is none of its name yet.

    Args:
        paths: of the dataset.
        options: preset, name, settings, memory.
        overwrite: whether an existing plan is replaced.
        like: model (a folder or a zip, as `inference.model_folders` takes them) whose networks are planned so that it
            can be fine-tuned; the plan is called `like_<its plan>` then.

    Raises:
        UsageError: unknown preset or field, or an invalid value; fingerprint or dataset are missing; a preset or
            memory was named beside a model, or that holds several.
        ModelError: `like` is no model.
        DataError: fingerprint or dataset are faulty.
    """
    dataset = read_record(paths.dataset, Dataset, remedy="Name the dataset's folder once, it is remembered then.")
    fingerprint = read_record(paths.fingerprint, Fingerprint, remedy="Run `autoseg fingerprint` first.")
    settings = options.settings
    if like is None:
        fresh = _make(fingerprint, dataset, options, None)
    elif options.preset != "auto" or options.gpu_memory_gib is not None or orientation_setting(settings) is not None:
        raise UsageError("--like takes preset, memory and orientation from the model: leave them out.")
    else:
        fresh = apply_settings(_make_like(fingerprint, dataset, like, options.name), settings)
    path = paths.plan(fresh.name)
    if overwrite or not path.is_file():
        write_record(path, fresh)
        console.say(f"plan {fresh.name}: written to {path}")
        return fresh
    kept = _read_plan(path)
    if orientation_setting(settings) is not None and kept.orientation != fresh.orientation:
        raise UsageError(
            f"{path} was planned for {kept.orientation} axes, on which its spacings and shapes hang: "
            "use --overwrite to plan it anew, or --name for another plan."
        )
    changed = apply_settings(kept, settings)
    if changed != kept:
        write_record(path, changed)
        console.say(f"plan {fresh.name}: {', '.join(settings)} set in {path}")
    planned = without_distractors(changed)
    if planned != fresh:
        console.warn(
            f"plan {fresh.name}: {path} is kept, though planning now would give "
            f"{_differences(planned, fresh)}; --overwrite replaces it, --name makes another one beside it."
        )
    elif changed == kept:
        console.say(f"plan {fresh.name}: unchanged, skipped")
    return changed


def plan_from_files(fingerprint_file: Path, dataset_json: Path, options: PlanOptions) -> Plan:
    """A plan from a fingerprint (ours or nnU-Net's) and a dataset.json alone; nothing is written.

    Raises:
        UsageError: as `plan`.
        DataError: one of the files is missing or faulty.
    """
    dataset, num_training = parse_dataset_json(dataset_json)
    fingerprint = read_record(fingerprint_file, Fingerprint)
    return _make(fingerprint, dataset, options, num_training)


def add_distractors(paths: Paths, plan: Plan, configuration: str) -> tuple[Plan, str]:
    """Put the configuration that fine-tunes `configuration` with distractors into the plan's file, unless it is there.

    Returns:
        The plan and the name of that configuration.

    Raises:
        UsageError: the plan has no such configuration.
    """
    changed, name = plan_distractors(plan, configuration)
    if changed is not plan:
        write_record(paths.plan(plan.name), changed)
        console.say(f"plan {plan.name}: {name} added to {paths.plan(plan.name)}")
    return changed, name


def choose_plan(paths: Paths, name: str | None, device_kind: str = "cpu") -> Plan:
    """The named plan; without a name the only one there is, else the one that `auto` stands for here.

    Raises:
        UsageError: there is no such plan, or several and none of them is meant; all are listed.
    """
    known = sorted(path.stem for path in paths.plans.glob("*.json"))
    usual = resolve_preset("auto", device_kind, None)
    if name is None:
        name = known[0] if len(known) == 1 else usual
        if len(known) > 1 and usual not in known:
            raise UsageError(f"{paths.folder.name} has several plans, name one of them: {', '.join(known)}.")
    if name not in known:
        listed = f"there are {', '.join(known)}" if known else "there is none yet: run `autoseg plan_and_preprocess`"
        raise UsageError(f"{paths.folder.name} has no plan {name!r}; {listed}.")
    return _read_plan(paths.plan(name))


def _read_plan(path: Path) -> Plan:
    found = read_record(path, Plan, UsageError)
    if found.name != path.stem:
        raise UsageError(f"{path}: its name is {found.name!r}; a plan is called like its file, so put {path.stem!r}.")
    return found


def _make(fingerprint: Fingerprint, dataset: Dataset, options: PlanOptions, num_training: int | None) -> Plan:
    wanted = orientation_setting(options.settings)
    orientation: Orientation | None = next((known for known in get_args(Orientation) if known == wanted), None)
    planned = make_plan(
        fingerprint,
        dataset,
        options.preset,
        name=options.name,
        gpu_memory_gib=options.gpu_memory_gib,
        device_kind=options.device_kind,
        orientation=orientation,
        num_training=num_training,
    )
    return apply_settings(planned, options.settings)


def _make_like(fingerprint: Fingerprint, dataset: Dataset, model: Path, name: str | None) -> Plan:
    from autoseg.inference.model import read_fold  # torch, which planning does without otherwise
    from autoseg.inference.model_folders import folds_in, open_configuration

    with open_configuration(model) as folder:
        known, trained = read_fold(folds_in(folder)[0])
    configuration = next(key for key in known.configurations if key == trained.configuration)
    return plan_like(known, configuration, fingerprint, dataset, name or f"like_{known.name}"[:64])


def _differences(kept: Plan, fresh: Plan) -> str:
    """The fields that differ, shortly."""
    fields = [field for field in Plan.model_fields if field not in ("configurations", "reasons")]
    found = [field for field in fields if getattr(kept, field) != getattr(fresh, field)]
    for name in sorted({*kept.configurations, *fresh.configurations}):
        one, other = kept.configurations.get(name), fresh.configurations.get(name)
        if one is None or other is None:
            found.append(name)
        else:
            found += [f"{name}.{f}" for f in type(one).model_fields if getattr(one, f) != getattr(other, f)]
    return "other values of " + ", ".join(found) if found else "other reasons"
