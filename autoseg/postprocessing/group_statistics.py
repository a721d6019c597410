"""Values of many groups, one group after another, in; one number a group out, without a loop over groups.

`offsets` has one entry more than there are groups: group i owns `values[offsets[i]:offsets[i + 1]]`. No group is empty.
"""

import numpy as np
import numpy.typing as npt

Offsets = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.floating] | npt.NDArray[np.integer]

_GOLDEN = (5**0.5 - 1) / 2


def owners(offsets: Offsets) -> Index:
    """Group of each value."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def sums(values: npt.NDArray[np.generic], offsets: Offsets) -> Values:
    """Sum of each group in float64."""
    if len(offsets) < 2:
        return np.zeros(0)
    return np.add.reduceat(values, offsets[:-1], dtype=np.float64)


def means(values: npt.NDArray[np.generic], offsets: Offsets) -> Values:
    """Mean of each group."""
    return sums(values, offsets) / np.diff(offsets)


def deviations(values: npt.NDArray[np.floating], offsets: Offsets) -> Values:
    """Population standard deviation of each group."""
    centred = values - means(values, offsets)[owners(offsets)]
    return np.sqrt(means(centred * centred, offsets))


def largest(values: Numbers, offsets: Offsets) -> Values:
    """Maximum of each group."""
    return np.maximum.reduceat(values, offsets[:-1]).astype(np.float64) if len(offsets) > 1 else np.zeros(0)


def smallest(values: Numbers, offsets: Offsets) -> Values:
    """Minimum of each group."""
    return np.minimum.reduceat(values, offsets[:-1]).astype(np.float64) if len(offsets) > 1 else np.zeros(0)


def quantiles(values: npt.NDArray[np.floating], offsets: Offsets, at: tuple[float, ...]) -> Values:
    """Quantiles `groups x len(at)`, linear between order statistics (numpy's default)."""
    ordered = values[np.lexsort((values, owners(offsets)))].astype(np.float64)
    last = np.diff(offsets) - 1
    columns = []
    for share in at:
        position = share * last
        low = np.floor(position).astype(np.int64)
        below, above = ordered[offsets[:-1] + low], ordered[offsets[:-1] + np.minimum(low + 1, last)]
        columns.append(below + (above - below) * (position - low))
    return np.stack(columns, axis=1) if columns else np.zeros((len(last), 0))


def spread(offsets: Offsets, limit: int) -> tuple[Index, Offsets]:
    """At most `limit` positions of each group, all of a smaller one; and the offsets of these.

    One of each stretch of equal length, at a place in it that runs by the golden ratio: even, the same every time, and
    out of step with the rows of a volume, which every k-th voxel would follow.
    """
    sizes = np.diff(offsets)
    taken = np.minimum(sizes, limit)
    new = np.concatenate([[0], np.cumsum(taken)])
    group = owners(new)
    step = np.arange(new[-1]) - new[group]
    place = np.where(sizes[group] > taken[group], step * _GOLDEN % 1.0, 0.0)
    within = ((step + place) * (sizes[group] / taken[group])).astype(np.int64)
    return offsets[group] + np.minimum(within, sizes[group] - 1), new
