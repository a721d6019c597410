"""A configuration's trained folds in, the seconds that one case takes in its networks out.

Validation measures the time of every held-out case. Folds that were validated before it did have an estimate: in a
training step the backward pass computes about twice what the forward pass does, so that a forward pass of one patch
takes a third of the step over the batch size; a case takes tiles x mirrorings of them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from autoseg.errors import ModelError
from autoseg.inference.mirroring import mirror_flips
from autoseg.inference.store import read_meta
from autoseg.records.base import read_record
from autoseg.records.plan import Configuration, Plan
from autoseg.records.results import TrainedFold
from autoseg.records.selection import Cost
from autoseg.selection.held_out import HeldOut
from autoseg.training.validation import CaseScores, num_tiles

_STEP_IN_FORWARD_PASSES = 3.0


def case_costs(plan: Plan, held_out: Mapping[str, HeldOut], cases: Sequence[str]) -> dict[str, Cost | None]:
    """What one case costs each configuration in prediction: all its folds, and those of earlier stages.

    Args:
        plan: of the configurations.
        held_out: configuration -> its finished folds.
        cases: ids to average over.

    Returns:
        Configuration -> cost; None where an earlier stage has no held-out case to tell its own.
    """
    alone = {name: _own_cost(plan, name, held, cases) for name, held in held_out.items()}
    return {name: _with_stages(plan, name, alone) for name in held_out}


def _with_stages(plan: Plan, name: str, alone: Mapping[str, Cost]) -> Cost | None:
    previous = plan.configurations[name].previous_stage  # type: ignore[index]
    if previous is None or name not in alone:
        return alone.get(name)
    earlier = _with_stages(plan, previous, alone)
    if earlier is None:
        return None
    own = alone[name]
    return Cost(seconds=own.seconds + earlier.seconds, is_measured=own.is_measured and earlier.is_measured)


def _own_cost(plan: Plan, name: str, held: HeldOut, cases: Sequence[str]) -> Cost:
    """Of all folds of one configuration, without its earlier stages."""
    settings = plan.configurations[name]  # type: ignore[index]
    measured = [_measured_seconds(held.folders[case], case) for case in cases]
    known = [seconds for seconds in measured if seconds is not None]
    if len(known) == len(cases):
        return Cost(seconds=sum(known) / len(known) * len(held.folds), is_measured=True)
    estimated = [_estimated_seconds(held.folders[case], case, settings) for case in cases]
    return Cost(seconds=sum(estimated) / len(estimated) * len(held.folds), is_measured=False)


def _measured_seconds(validation: Path, case: str) -> float | None:
    path = validation / f"{case}.scores.json"
    return read_record(path, CaseScores, ModelError).seconds if path.is_file() else None


def _estimated_seconds(validation: Path, case: str, settings: Configuration) -> float:
    trained = read_record(validation.parent / "fold.json", TrainedFold, ModelError)
    step_seconds = trained.seconds / max(1, trained.epochs * trained.iterations_per_epoch)
    patch_seconds = step_seconds / _STEP_IN_FORWARD_PASSES / settings.batch_size
    tiles = num_tiles(read_meta(validation, case), settings.patch_zyx)
    return patch_seconds * tiles * len(mirror_flips(settings.recipe.mirroring, settings.patch_zyx))
