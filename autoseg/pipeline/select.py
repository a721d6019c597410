"""Stage: held-out probabilities of a plan's configurations in, `selection.json` out.

All subsets of the trained configurations are compared on the cases that every one of them held out. The files of a
case are read once. Called again with nothing trained and no file of a case changed in between, the stage is skipped.
"""

from autoseg import console
from autoseg.errors import UsageError
from autoseg.inference.store import read_meta
from autoseg.metrics.overlap import Matrix
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Dataset
from autoseg.records.plan import Plan
from autoseg.records.results import Selection
from autoseg.records.workspace import Paths
from autoseg.selection.ensembles import Members, rank
from autoseg.selection.held_out import HeldOut, common_cases, count_case, find_held_out, reference_of
from autoseg.storage.hashing import sha256_json
from autoseg.training.inputs import digests_now, outdated_folds


def select(paths: Paths, plan: Plan) -> Selection:
    """Choose the best configuration or ensemble of a plan and write `selection.json`.

    Raises:
        UsageError: no cross-validation fold is trained, or the configurations share no held-out case.
        ModelError: files of a trained fold are missing, or the configurations do not fit one another.
    """
    held_out = find_held_out(paths, plan)
    if not held_out:
        raise UsageError(
            f"No cross-validation fold of plan {plan.name} is trained, so there is nothing to choose from. "
            "Run `autoseg train` without a fold, or with a number."
        )
    cases = _comparable_cases(held_out)
    files = digests_now(paths)
    scored_on = {case: files.get(case) for case in cases}
    decided_by = sha256_json([plan.name, {name: held.digest for name, held in held_out.items()}, scored_on])
    _warn_of_outdated(paths, plan)
    if paths.selection.is_file():
        earlier = read_record(paths.selection, Selection)
        if earlier.decided_by == decided_by:
            console.say(f"selection: done already ({' + '.join(earlier.configurations)})")
            return earlier
        if earlier.plan != plan.name:
            console.warn(
                f"selection: {' + '.join(earlier.configurations)} of plan {earlier.plan} was selected before; what is "
                f"chosen from plan {plan.name} takes its place. `autoseg select --plan {earlier.plan}` brings it back."
            )
    dataset = read_record(paths.dataset, Dataset)
    counts: dict[str, dict[Members, Matrix]] = {}
    volumes: dict[str, float] = {}
    for case in console.track(cases, len(cases), "comparing configurations"):
        geometry = read_meta(next(iter(held_out.values())).folders[case], case).geometry
        counts[case] = count_case(case, held_out, reference_of(dataset, case, geometry), plan.labels)
        volumes[case] = geometry.voxel_volume_mm3
    candidates = rank(counts, plan.labels, volumes)
    chosen = candidates[0].configurations
    selection = Selection(
        plan=plan.name,
        configurations=chosen,
        folds={name: held_out[name].folds for name in chosen},
        candidates=candidates,
        decided_by=decided_by,
    )
    write_record(paths.selection, selection)
    return selection


def _warn_of_outdated(paths: Paths, plan: Plan) -> None:
    """Name the folds that know the data only as they were."""
    for (configuration, fold), changes in outdated_folds(paths, plan).items():
        folder = paths.fold(plan.name, configuration, fold)
        console.warn(
            f"{configuration} fold {fold} was trained on other data than there is now: {changes}. It is compared on "
            f"the references of now; delete {folder} and train it again if the change matters."
        )


def _comparable_cases(held_out: dict[str, HeldOut]) -> list[str]:
    """Cases held out by all configurations; says so when some have more."""
    cases = common_cases(held_out)
    counts = ", ".join(f"{name} {len(held.folders)}" for name, held in held_out.items())
    if not cases:
        raise UsageError(f"The trained configurations share no held-out case ({counts}): train the same folds of each.")
    if any(len(held.folders) > len(cases) for held in held_out.values()):
        console.warn(f"Compared on the {len(cases)} cases that all configurations held out (of {counts}).")
    return cases
