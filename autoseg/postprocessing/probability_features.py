"""Components and one model's probabilities in, how sure it is of each of them out, inside and on the border.

Of a large component an even sample of voxels is read. `p` is the probability of the component's own target. Entropy
is of all heads (regions: of the target's own), as a share of the largest possible one; the margin is `p` minus the
largest probability of another head (regions: minus 1 - p).
"""

import numpy as np
import numpy.typing as npt

from autoseg.postprocessing.find import Found, head_of
from autoseg.postprocessing.segments import Index, Offsets, deviations, largest, means, owners, quantiles, spread
from autoseg.records.labels import LabelScheme

Column = npt.NDArray[np.float64]
Probabilities = npt.NDArray[np.float16]

_SAMPLE = 4096
_TINY = 1e-7


def probability_features(
    found: Found, probabilities: Probabilities, disagreement: npt.NDArray[np.uint8] | None, labels: LabelScheme
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
    own, entropy, margin = _confidence(found, probabilities, taken, offsets, labels)
    middle = quantiles(own, offsets, (0.1, 0.5, 0.9))
    rim, rim_offsets = border(found)
    rim_own, rim_entropy, rim_margin = _confidence(found, probabilities, rim, rim_offsets, labels)
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


def border(found: Found, limit: int = _SAMPLE) -> tuple[Index, Offsets]:
    """At most `limit` voxels of each row that have a face on its surface: positions in `voxels`, and offsets."""
    rim = np.flatnonzero(found.faces)
    taken, offsets = spread(np.searchsorted(rim, found.offsets), limit)
    return rim[taken], offsets


def _confidence(
    found: Found, probabilities: Probabilities, taken: Index, offsets: Offsets, labels: LabelScheme
) -> tuple[Column, Column, Column]:
    """Probability of the own target, entropy and margin of each of the voxels at `taken`."""
    num_heads = len(probabilities)
    voxels = found.voxels[taken]
    values = np.empty((num_heads, len(voxels)), dtype=np.float64)
    for head, volume in enumerate(probabilities.reshape(num_heads, -1)):
        values[head] = volume[voxels]
    heads = np.array([head_of(labels, t) for t in range(len(labels.targets))], dtype=np.int64)
    own_head = heads[found.targets[owners(offsets)]]
    columns = np.arange(len(voxels))
    own = values[own_head, columns]
    if labels.has_regions:
        return own, _bits(own) + _bits(1 - own), 2 * own - 1
    entropy = sum(_bits(row) for row in values) / np.log2(max(num_heads, 2))
    values[own_head, columns] = -1
    return own, np.asarray(entropy, dtype=np.float64), own - values.max(axis=0)


def _bits(p: Column) -> Column:
    """-p log2 p; 0 at 0."""
    bits: Column = -p * np.log2(np.maximum(p, _TINY))
    return bits
