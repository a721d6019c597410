"""Stage: held-out probabilities of a plan's configurations in, `calibration.json` and `selection.json` out.

First every fold's temperature is fitted, since it decides how much a configuration weighs in an ensemble. Then all
subsets of the trained configurations are compared on the cases that every one of them held out; the files of a case
are read once for all of them. Called again with nothing trained and no file of a case changed in between, the stage is
skipped.
"""

from collections.abc import Mapping

from autoseg import console
from autoseg.errors import UsageError
from autoseg.inference.export import uncrop
from autoseg.inference.store import read_meta
from autoseg.metrics.build import score_case, scores_from_matrix
from autoseg.metrics.tolerances import tolerance_mm
from autoseg.records.base import read_record, write_record
from autoseg.records.dataset import Dataset
from autoseg.records.plan import Plan
from autoseg.records.results import Selection
from autoseg.records.selection import Objective
from autoseg.records.workspace import Paths
from autoseg.selection.costs import case_costs
from autoseg.selection.ensembles import Classes, Members, count_ensembles
from autoseg.selection.held_out import HeldOut, common_cases, find_held_out, in_box, readers_of, reference_of
from autoseg.selection.objectives import Scores, needs_segmentations, parse_objective, scoring_of
from autoseg.selection.ranking import rank
from autoseg.selection.temperatures import calibrate
from autoseg.storage.hashing import sha256_json
from autoseg.training.provenance import digests_now, outdated_folds


def select(paths: Paths, plan: Plan, objective: str = "dice") -> Selection:
    """Choose the best configuration or ensemble of a plan and write `selection.json`.

    Args:
        paths: where the dataset's records lie.
        plan: whose configurations are compared.
        objective: by what, as `selection.objectives` describes.

    Raises:
        UsageError: no cross-validation fold is trained, the configurations share no held-out case, or the objective
            names something that is not there.
        ModelError: files of a trained fold are missing, or the configurations do not fit one another.
    """
    wanted = parse_objective(objective, plan.labels, tolerance_mm(plan.dataset))
    held_out = find_held_out(paths, plan)
    if not held_out:
        raise UsageError(
            f"No cross-validation fold of plan {plan.name} is trained, so there is nothing to choose from. "
            "Run `autoseg train` without a fold, or with a number."
        )
    cases = _comparable_cases(held_out)
    digests, files = {name: held.digest for name, held in held_out.items()}, digests_now(paths)
    scored_on = {case: files.get(case) for case in cases}
    decided_by = sha256_json([plan.name, digests, scored_on, wanted.model_dump(mode="json")])
    _warn_of_outdated(paths, plan)
    if paths.selection.is_file():
        earlier = read_record(paths.selection, Selection)
        if earlier.decided_by == decided_by and paths.calibration.is_file():
            console.say(f"selection: done already ({' + '.join(earlier.configurations)})")
            return earlier
        if earlier.plan != plan.name:
            console.warn(
                f"selection: {' + '.join(earlier.configurations)} of plan {earlier.plan} was selected before; what is "
                f"chosen from plan {plan.name} takes its place. `autoseg select --plan {earlier.plan}` brings it back."
            )
    dataset = read_record(paths.dataset, Dataset)
    write_record(paths.calibration, calibrate(plan, held_out, dataset))
    held_out = find_held_out(paths, plan)
    scores = {}
    for case in console.track(cases, len(cases), "comparing configurations"):
        geometry = read_meta(next(iter(held_out.values())).folders[case], case).geometry
        reference = reference_of(dataset, case, geometry)
        scores[case] = _score_case(case, held_out, reference, plan, wanted)
    candidates, reasons = rank(scores, plan.labels, wanted, case_costs(plan, held_out, cases))
    chosen = candidates[0].configurations
    selection = Selection(
        plan=plan.name,
        configurations=chosen,
        folds={name: held_out[name].folds for name in chosen},
        candidates=candidates,
        decided_by=decided_by,
        objective=wanted,
        reasons=reasons,
    )
    write_record(paths.selection, selection)
    return selection


def _score_case(
    case: str, held_out: Mapping[str, HeldOut], reference: Classes, plan: Plan, objective: Objective
) -> dict[Members, Scores]:
    """Every subset's scores in one case; segmentations are made only for objectives that need them."""
    labels = plan.labels
    box = in_box(case, held_out, reference, labels)
    segmentations: dict[Members, Classes] | None = {} if needs_segmentations(objective) else None
    counts = count_ensembles(readers_of(case, held_out, labels), box.shape, box.reference, labels, segmentations)
    geometry = box.meta.geometry
    scores: dict[Members, Scores] = {}
    for members, matrix in counts.items():
        if segmentations is None:
            matrix[:, 0] += box.outside  # outside the crop every prediction is background
            scores[members] = scores_from_matrix(matrix, labels, geometry.voxel_volume_mm3)
        else:
            whole = uncrop(segmentations.pop(members), box.meta)
            scores[members] = score_case(whole, reference, labels, geometry, scoring_of(objective))
    return scores


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
