"""A label volume in, some voxels of each target out: where training centres its foreground patches.

With an ignore label some of all annotated voxels are kept too, as in nnU-Net: a patch of nothing but voxels to
ignore teaches nothing, so patches that need not show foreground are centred on those.

nnU-Net keeps the larger of 10000 voxels and 1 % of each class. A fixed number is enough to draw patches from,
takes the same memory for a liver as for a lesion, and is read once. The draw depends on case and target
alone, not on workers or on the order of cases.
"""

import hashlib
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg.records.labels import LabelScheme

MAX_LOCATIONS = 10_000
_SEED = 1234  # nnU-Net's

FlatIndices = npt.NDArray[np.signedinteger[Any]]


def draw_locations(
    case_id: str, labels: npt.NDArray[np.integer], scheme: LabelScheme
) -> tuple[dict[int, FlatIndices], tuple[int, ...]]:
    """Draw up to `MAX_LOCATIONS` voxels of each target without replacement.

    Args:
        case_id: decides the draw, with the target's number.
        labels: internal classes on the network's grid, Z Y X; voxels to ignore are in no target.
        scheme: its targets are the foreground classes, or the regions.

    Returns:
        For each target its flat indices into `labels` (C order), sorted: int32, or int64 for volumes of more
        than 2^31 voxels, and under the next number, with an ignore label, those of the annotated voxels, background
        included; and the number of voxels of each target.
    """
    by_class = _voxels_by_class(labels, scheme.num_classes)
    found = [np.concatenate([by_class[member] for member in target.members]) for target in scheme.targets]
    counts = tuple(len(voxels) for voxels in found)
    if scheme.ignore_index is not None:
        found.append(np.flatnonzero(labels < scheme.num_classes))
    kind: type[np.signedinteger[Any]] = np.int32 if labels.size < 2**31 else np.int64
    locations = {number: draw_voxels(voxels, case_id, number).astype(kind) for number, voxels in enumerate(found)}
    return locations, counts


def draw_voxels(voxels: FlatIndices, case_id: str, number: int) -> FlatIndices:
    """Up to `MAX_LOCATIONS` of `voxels`, sorted; which ones depends on the case and the target's number alone."""
    kept: FlatIndices = np.sort(voxels)  # the draw must not depend on how they were gathered
    if len(kept) > MAX_LOCATIONS:
        kept = _generator(case_id, number).choice(kept, MAX_LOCATIONS, replace=False, shuffle=False)
        kept.sort()
    return kept


def _voxels_by_class(labels: npt.NDArray[np.integer], num_classes: int) -> list[npt.NDArray[np.int64]]:
    """Flat indices of the voxels of each class; the background's entry is empty. One pass, whatever their number."""
    flat = labels.ravel()
    where = np.flatnonzero((flat > 0) & (flat < num_classes))
    values = flat[where]
    order = np.argsort(values, kind="stable")
    bounds = np.searchsorted(values[order], np.arange(1, num_classes + 1))
    return [np.empty(0, np.int64), *(where[order[a:b]] for a, b in pairwise(bounds))]


def _generator(case_id: str, target: int) -> np.random.Generator:
    digest = hashlib.sha256(case_id.encode()).digest()
    return np.random.default_rng([_SEED, target, *np.frombuffer(digest, np.uint32).tolist()])
