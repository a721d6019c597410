"""Components and one model's probabilities in, how sure it is of each of them out, inside and on the border.

Of a large component an even sample of voxels is read. `p` is the probability of the component's own target. Entropy
is of all heads (regions: of the target's own), as a share of the largest possible one; the margin is `p` minus the
largest probability of another head (regions: minus 1 - p). Probabilities are read slab by slab.
"""

import numpy as np
import numpy.typing as npt

from autoseg.inference.export import slabs
from autoseg.inference.probability_reader import ProbabilityReader
from autoseg.postprocessing.component_list import ComponentList
from autoseg.postprocessing.group_statistics import (
    Index,
    Offsets,
    deviations,
    largest,
    means,
    owners,
    quantiles,
    spread,
)
from autoseg.postprocessing.target_classes import head_of
from autoseg.records.labels import LabelScheme

Column = npt.NDArray[np.float64]

_SAMPLE = 4096
_TINY = 1e-7


def probability_features(
    found: ComponentList,
    probabilities: ProbabilityReader,
    disagreement: npt.NDArray[np.uint8] | None,
    labels: LabelScheme,
) -> dict[str, Column]:
    """Confidence in each component.

    Args:
        found: `n` rows.
        probabilities: `H z y x` of one model (a fold, or the mean of several configurations).
        disagreement: `z y x` of its mirrorings, 255 for 1; None: it does not mirror, so the columns are not defined.
        labels: scheme of the heads.

    Returns:
        Name -> `n` values.
    """
    taken, offsets = spread(found.offsets, _SAMPLE)
    rim, rim_offsets = border(found)
    rows = np.concatenate([owners(offsets), owners(rim_offsets)])
    known = _confidence(found, probabilities, np.concatenate([taken, rim]), rows, labels)
    (own, rim_own), (entropy, rim_entropy), (margin, rim_margin) = (np.split(one, [len(taken)]) for one in known)
    middle = quantiles(own, offsets, (0.1, 0.5, 0.9))
    columns = {
        "probability_mean": means(own, offsets),
        "probability_max": largest(own, offsets),
        "probability_p10": middle[:, 0],
        "probability_p50": middle[:, 1],
        "probability_p90": middle[:, 2],
        "probability_std": deviations(own, offsets),
        "entropy_mean": means(entropy, offsets),
        "margin_mean": means(margin, offsets),
        "border_probability": means(rim_own, rim_offsets),
        "border_entropy": means(rim_entropy, rim_offsets),
        "border_margin": means(rim_margin, rim_offsets),
    }
    if disagreement is None:
        nothing = np.full(len(found.targets), np.nan)
        return {**columns, "mirror_mean": nothing, "mirror_max": nothing, "border_mirror": nothing}
    flat = disagreement.reshape(-1)
    inside, outside = flat[found.voxels[taken]] / 255.0, flat[found.voxels[rim]] / 255.0
    return {
        **columns,
        "mirror_mean": means(inside, offsets),
        "mirror_max": largest(inside, offsets),
        "border_mirror": means(outside, rim_offsets),
    }


def border(found: ComponentList, limit: int = _SAMPLE) -> tuple[Index, Offsets]:
    """At most `limit` voxels of each row that have a face on its surface: positions in `voxels`, and offsets."""
    rim = np.flatnonzero(found.faces)
    taken, offsets = spread(np.searchsorted(rim, found.offsets), limit)
    return rim[taken], offsets


def _confidence(
    found: ComponentList, probabilities: ProbabilityReader, positions: Index, rows: Index, labels: LabelScheme
) -> tuple[Column, Column, Column]:
    """Probability of the own target, entropy and margin of the voxels at `positions`, which belong to `rows`."""
    voxels = found.voxels[positions]
    heads = np.array([head_of(labels, t) for t in range(len(labels.targets))], dtype=np.int64)
    own_head = heads[found.targets[rows]]
    own, entropy, margin = (np.empty(len(voxels)) for _ in range(3))
    order = np.argsort(voxels, kind="stable")
    rising, plane = voxels[order], found.shape[1] * found.shape[2]
    for where in slabs(probabilities.shape):
        first, last = np.searchsorted(rising, [where.start * plane, where.stop * plane])
        if first == last:
            continue
        at = np.unravel_index(rising[first:last] - where.start * plane, (where.stop - where.start, *found.shape[1:]))
        values = probabilities.read(where)[:, *at].astype(np.float64)
        chosen = order[first:last]
        own[chosen], entropy[chosen], margin[chosen] = _judged(values, own_head[chosen], labels)
    return own, entropy, margin


def _judged(values: Column, own_head: Index, labels: LabelScheme) -> tuple[Column, Column, Column]:
    """The same of voxels whose probabilities `H n` are given; `values` is used up."""
    columns = np.arange(len(own_head))
    own = values[own_head, columns]
    if labels.has_regions:
        return own, _bits(own) + _bits(1 - own), 2 * own - 1
    entropy = sum(_bits(row) for row in values) / np.log2(max(len(values), 2))
    values[own_head, columns] = -1
    return own, np.asarray(entropy, dtype=np.float64), own - values.max(axis=0)


def _bits(p: Column) -> Column:
    """-p log2 p; 0 at 0."""
    bits: Column = -p * np.log2(np.maximum(p, _TINY))
    return bits
