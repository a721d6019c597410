"""Decisions on components in, the scores of every case and target that they lead to out.

A decision is one bit a row: a component of the segmentation stays, a candidate is restored. Components are removed
first, target after target, then candidates are restored, later targets over earlier ones.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from autoseg.postprocessing.rows import Bools, Floats, Ints, Painting, Rows


class Outcome(NamedTuple):
    """Voxels and components after decisions."""

    true_positives: Ints
    """`c t` voxels."""
    false_positives: Ints
    """`c t` voxels."""
    reference: Ints
    """`c t` voxels of the reference."""
    present: Bools
    """`n`: rows of which something is there."""


def untouched(rows: Rows) -> Bools:
    """The decision to change nothing."""
    return rows.is_decided


def outcome(rows: Rows, how: Painting, keep: Bools) -> Outcome:
    """Voxel counts and components of every case once components are removed and candidates restored.

    Args:
        rows: the table of `n` components and candidates.
        how: which class a removed or restored voxel gets.
        keep: `n` decisions: a component stays, a candidate is restored.
    """
    num_cases, num_targets = len(rows.cases), len(how.names)
    classes = decided_classes(rows.atom_class, rows.atom_rows, rows.is_decided, how, keep)
    true, false = np.zeros((num_cases, num_targets)), np.zeros((num_cases, num_targets))
    present = np.zeros(len(rows.target), dtype=bool)
    scored = rows.atom_reference.sum(axis=1)
    for target in range(num_targets):
        inside = how.members[target][classes]
        hits = rows.atom_reference[:, how.members[target]].sum(axis=1)
        true[:, target] = np.bincount(rows.atom_case, weights=hits * inside, minlength=num_cases)
        false[:, target] = np.bincount(rows.atom_case, weights=(scored - hits) * inside, minlength=num_cases)
        own = rows.atom_rows[:, target]
        present[own[(own >= 0) & inside]] = True
    reference = np.stack([rows.reference[:, members].sum(axis=1) for members in how.members], axis=1)
    return Outcome(true.astype(np.int64), false.astype(np.int64), reference, present)


def decided_classes(
    classes: npt.NDArray[np.integer], rows_of: Ints, is_decided: Bools, how: Painting, keep: Bools
) -> Ints:
    """Class of each atom after a decision.

    Args:
        classes: `a` classes before it.
        rows_of: `a t` row of each target that the atom lies in, -1: none.
        is_decided: `n` components of the segmentation.
        how: what removing and restoring does.
        keep: `n` decision.
    """
    after = classes.astype(np.int64)
    removed, restored = is_decided & ~keep, ~is_decided & keep
    for target in range(len(how.names)):
        rows = rows_of[:, target]
        goes = (rows >= 0) & removed[rows] & how.members[target][after]
        after[goes] = how.fallback[target]
    for target in range(len(how.names)):
        rows = rows_of[:, target]
        comes = (rows >= 0) & restored[rows] & how.restorable[target][after]
        after[comes] = how.painted[target]
    return after


def dice_of(_rows: Rows, _how: Painting, found: Outcome) -> Floats:
    """Dice `c t`; NaN where neither prediction nor reference has anything."""
    total = found.true_positives + found.false_positives + found.reference
    with np.errstate(invalid="ignore"):
        return 2 * found.true_positives / total


def lesion_f1_of(rows: Rows, how: Painting, found: Outcome) -> Floats:
    """Lesion-wise F1 `c t`; NaN where there is neither a lesion nor a false component."""
    hit, lesions = lesions_found(rows, how, found)
    false = false_components(rows, how, found)
    with np.errstate(invalid="ignore"):
        return 2 * hit / (hit + lesions + false)


OBJECTIVES: dict[str, Callable[[Rows, Painting, Outcome], Floats]] = {"dice": dice_of, "lesion_f1": lesion_f1_of}


def lesions_found(rows: Rows, how: Painting, found: Outcome) -> tuple[Ints, Ints]:
    """Lesions found and lesions in all, each `c t`."""
    shape = (len(rows.cases), len(how.names))
    is_hit = np.zeros(len(rows.lesion_case), dtype=bool)
    is_hit[rows.hit_lesions[found.present[rows.hit_rows]]] = True
    return _count(rows.lesion_case, rows.lesion_target, is_hit, shape), _count(
        rows.lesion_case, rows.lesion_target, np.ones(len(is_hit), dtype=bool), shape
    )


def false_components(rows: Rows, how: Painting, found: Outcome) -> Ints:
    """False positive components `c t`."""
    return _count(rows.case, rows.target, found.present & rows.is_false, (len(rows.cases), len(how.names)))


def _count(cases: Ints, targets: Ints, chosen: Bools, shape: tuple[int, int]) -> Ints:
    codes = cases[chosen] * shape[1] + targets[chosen]
    counted: Ints = np.bincount(codes, minlength=shape[0] * shape[1]).reshape(shape)
    return counted


def mean_over_targets(scores: Floats, weights: Floats | None = None) -> float | None:
    """Mean over cases, then over targets.

    Args:
        scores: `c t`, NaN where a score is not defined; such cases leave the mean of their target.
        weights: `c` weight of each case; None: all alike.

    Returns:
        None where no target is defined in any case.
    """
    means = target_means(scores, weights)
    defined = means[np.isfinite(means)]
    return float(defined.mean()) if defined.size else None


def target_means(scores: Floats, weights: Floats | None = None) -> Floats:
    """(Weighted) mean over cases of each target, `t`; NaN where it is defined in no case."""
    given = np.ones(len(scores)) if weights is None else weights
    defined = np.isfinite(scores)
    with np.errstate(invalid="ignore"):
        return (given @ np.where(defined, scores, 0.0)) / (given @ defined)
