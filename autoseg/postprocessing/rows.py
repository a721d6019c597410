"""Components of many cases, matched with their references, in one table: what changing any of them would do.

A component's features say how it looks; its *effects* say what removing or restoring it does to every score. Voxels
that lie in the same components are one atom: its class now and how its voxels are labelled in the reference tell the
counts of every target after any decision, exactly, also where regions are nested, without touching an image again.

Groups are patients: whatever is learned, a patient is never on both sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from autoseg.postprocessing.component_list import DECIDED, Classes, ComponentList
from autoseg.postprocessing.group_statistics import owners
from autoseg.postprocessing.target_classes import fallback_class, painted_class, restorable_classes
from autoseg.records.labels import LabelScheme

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

UNKNOWN = -1
"""Truth of a component of which more than half is to be ignored and that touches nothing of its target."""


@dataclass(frozen=True)
class Painting:
    """What decisions on `t` targets do to voxels of `k` classes."""

    names: tuple[str, ...]
    """`t`."""
    members: Bools
    """`t k`: whether a class belongs to a target."""
    fallback: Ints
    """`t`: class of a removed component's voxels."""
    painted: Ints
    """`t`: class of a restored candidate's voxels."""
    restorable: Bools
    """`t k`: whether a voxel of this class may be restored to a target."""


@dataclass(frozen=True)
class Rows:
    """`n` components and candidates of `c` cases; `a` atoms, `m` lesions, `t` targets, `k` classes."""

    cases: tuple[str, ...]
    """`c`: case ids."""
    groups: tuple[str, ...]
    """`c`: patient of each case."""
    voxel_mm3: Floats
    """`c`: volume of a voxel."""
    reference: Ints
    """`c k`: voxels of each class in the whole reference, those to ignore left out."""
    names: tuple[str, ...]
    """Of the features."""
    features: Floats
    """`n f`, NaN where not defined."""
    case: Ints
    """`n`: position of its case."""
    target: Ints
    """`n`: position of its target."""
    levels: Floats
    """`n`: threshold of a candidate; `find.DECIDED`: a component of the segmentation."""
    in_largest: Bools
    """`n`: whether it lies in the largest component of all foreground."""
    sizes: Ints
    """`n`: voxels."""
    overlap: Ints
    """`n`: of them in the reference of its target."""
    centres_mm: Floats
    """`n 3`: world x y z."""
    truth: Ints
    """`n`: 1 true, 0 false, `UNKNOWN`; by `TruthRule`."""
    is_false: Bools
    """`n`: finds no lesion and lies in none, by `LesionRule`: what is counted as a false positive."""
    hit_rows: Ints
    """Pairs of a component and a lesion that it finds: row."""
    hit_lesions: Ints
    """Pairs of a component and a lesion that it finds: lesion."""
    lesion_case: Ints
    """`m`"""
    lesion_target: Ints
    """`m`"""
    atom_case: Ints
    """`a`"""
    atom_class: Ints
    """`a`: class of its voxels in the segmentation."""
    atom_rows: Ints
    """`a t`: row of each target that it lies in; -1: none."""
    atom_reference: Ints
    """`a k`: its voxels of each class in the reference, those to ignore left out."""

    @property
    def is_decided(self) -> Bools:
        """`n`: components of the segmentation; the others are candidates."""
        decided: Bools = self.levels == DECIDED
        return decided

    def column(self, name: str) -> Floats:
        """One feature, `n`."""
        return self.features[:, self.names.index(name)]


_SHIFTED = {"case": "cases", "hit_rows": "rows", "hit_lesions": "lesions", "lesion_case": "cases",
            "atom_case": "cases", "atom_rows": "rows"}  # fmt: skip


def painting(labels: LabelScheme) -> Painting:
    """What a label scheme makes of decisions on its targets."""
    count, numbers = labels.num_classes, range(len(labels.targets))
    return Painting(
        names=tuple(target.name for target in labels.targets),
        members=np.array([np.isin(np.arange(count), target.members) for target in labels.targets]),
        fallback=np.array([fallback_class(labels, t) for t in numbers]),
        painted=np.array([painted_class(labels, t) for t in numbers]),
        restorable=np.array([np.isin(np.arange(count), restorable_classes(labels, t)) for t in numbers]),
    )


def joined(tables: Sequence[Rows]) -> Rows:
    """Tables of single cases as one."""
    shift = {"cases": 0, "rows": 0, "lesions": 0}
    columns: dict[str, list[npt.NDArray[np.generic]]] = {}
    for table in tables:
        for field in fields(Rows):
            values = getattr(table, field.name)
            if isinstance(values, tuple):
                continue
            if field.name in _SHIFTED:
                values = np.where(values >= 0, values + shift[_SHIFTED[field.name]], values)
            columns.setdefault(field.name, []).append(values)
        shift["cases"] += len(table.cases)
        shift["rows"] += len(table.case)
        shift["lesions"] += len(table.lesion_case)
    return Rows(
        cases=tuple(case for table in tables for case in table.cases),
        groups=tuple(group for table in tables for group in table.groups),
        names=tables[0].names,
        **{name: np.concatenate(parts) for name, parts in columns.items()},
    )


def related(how: Painting) -> list[list[int]]:
    """Targets whose decisions can touch one another's voxels, as groups: each class alone, nested regions together."""
    groups: list[list[int]] = []
    for target in range(len(how.names)):
        touching = [g for g in groups if any((how.members[target] & how.members[other]).any() for other in g)]
        merged = sorted([target, *(other for g in touching for other in g)])
        groups = [g for g in groups if g not in touching] + [merged]
    return sorted(groups)


def restricted(rows: Rows, how: Painting, targets: Sequence[int]) -> tuple[Rows, Painting, Ints]:
    """The table of some targets alone, and which rows of the whole table these are."""
    chosen = np.flatnonzero(np.isin(rows.target, targets))
    new_row = np.full(len(rows.target) + 1, -1)
    new_row[chosen] = np.arange(len(chosen))
    lesions = np.flatnonzero(np.isin(rows.lesion_target, targets))
    new_lesion = np.full(len(rows.lesion_target), -1)
    new_lesion[lesions] = np.arange(len(lesions))
    hits = np.isin(rows.target[rows.hit_rows], targets)
    atoms = (rows.atom_rows[:, targets] >= 0).any(axis=1)
    new_target = {old: new for new, old in enumerate(targets)}
    part = replace(
        rows,
        features=rows.features[chosen],
        case=rows.case[chosen],
        target=np.array([new_target[int(t)] for t in rows.target[chosen]], dtype=np.int64),
        levels=rows.levels[chosen],
        in_largest=rows.in_largest[chosen],
        sizes=rows.sizes[chosen],
        overlap=rows.overlap[chosen],
        centres_mm=rows.centres_mm[chosen],
        truth=rows.truth[chosen],
        is_false=rows.is_false[chosen],
        hit_rows=new_row[rows.hit_rows[hits]],
        hit_lesions=new_lesion[rows.hit_lesions[hits]],
        lesion_case=rows.lesion_case[lesions],
        lesion_target=np.array([new_target[int(t)] for t in rows.lesion_target[lesions]], dtype=np.int64),
        atom_case=rows.atom_case[atoms],
        atom_class=rows.atom_class[atoms],
        atom_rows=new_row[rows.atom_rows[atoms][:, targets]],
        atom_reference=rows.atom_reference[atoms],
    )
    paint = Painting(
        names=tuple(how.names[t] for t in targets),
        members=how.members[targets],
        fallback=how.fallback[targets],
        painted=how.painted[targets],
        restorable=how.restorable[targets],
    )
    return part, paint, chosen


def atoms_of(
    found: ComponentList, classes: Classes, reference: Classes, labels: LabelScheme
) -> tuple[Ints, Ints, Ints]:
    """Class, rows and reference of each atom of one case (`Rows.atom_class`, `atom_rows`, `atom_reference`).

    Args:
        found: components of `classes`.
        classes: segmentation `z y x`.
        reference: internal class numbers in the same box.
        labels: their scheme.
    """
    ids = np.zeros(classes.size, dtype=np.int32)
    combined = np.full((1, len(labels.targets)), -1, dtype=np.int64)  # atom -> row of each target
    row_of = owners(found.offsets)
    for target in range(len(labels.targets)):
        low, high = np.searchsorted(found.targets, [target, target + 1])
        where = slice(found.offsets[low], found.offsets[high])
        voxels, rows = found.voxels[where], row_of[where]
        before = ids[voxels]
        alone = before == 0
        ids[voxels[alone]] = len(combined) + rows[alone] - low
        fresh = np.full((high - low, combined.shape[1]), -1, dtype=np.int64)
        fresh[:, target] = np.arange(low, high)
        combined = np.concatenate([combined, fresh])
        if not alone.all():  # voxels that lie in a component of an earlier target too
            codes = before[~alone].astype(np.int64) * len(row_of) + rows[~alone]
            pairs, which = np.unique(codes, return_inverse=True)
            ids[voxels[~alone]] = len(combined) + which
            both = combined[pairs // len(row_of)].copy()
            both[:, target] = pairs % len(row_of)
            combined = np.concatenate([combined, both])
    covered = np.flatnonzero(ids)
    count = labels.num_classes
    codes = ids[covered].astype(np.int64) * count + classes.reshape(-1)[covered]
    used = np.flatnonzero(np.bincount(codes, minlength=len(combined) * count))
    dense = np.searchsorted(used, codes)
    pairs = dense * (count + 1) + reference.reshape(-1)[covered]
    histogram = np.bincount(pairs, minlength=len(used) * (count + 1)).reshape(-1, count + 1)[:, :count]
    return used % count, combined[used // count], histogram
