"""One number a case in, how unusual each is among them out.

Errors of labels are rare and what a model gets wrong is not, so the scale is what nine tenths of the cases
scatter: the tenth furthest from the median may be what is looked for and must not widen the scale that
measures it. The scale is the larger of the standard deviation of those nine tenths and the median absolute deviation
(x 1.4826, a normal distribution's standard deviation), and never below a floor under which differences do not matter.
The first sees habits of a minority, such as a false positive in every fourth case, which the second does not.
"""

from collections.abc import Collection, Mapping

import numpy as np

THRESHOLD = 3.5
"""Iglewicz and Hoaglin 1993, How to Detect and Handle Outliers: modified z scores beyond it are outliers."""
_KEPT_SHARE = 0.9
_MAD_TO_SIGMA = 1.4826


def scatter(values: Collection[float]) -> float:
    """Robust standard deviation about the median; 0 without values."""
    if not len(values):
        return 0.0
    array = np.array(list(values))
    sizes = np.sort(np.abs(array - np.median(array)))
    num_kept = max(1, min(int(np.ceil(_KEPT_SHARE * len(sizes))), len(sizes) - 1))  # one is left out in any case
    trimmed = float(np.sqrt(np.mean(sizes[:num_kept] ** 2)))
    return max(trimmed, _MAD_TO_SIGMA * float(np.median(sizes)))


def unusualness(values: Mapping[str, float], floor: float) -> dict[str, float]:
    """Signed robust z of each value.

    Args:
        values: case -> value.
        floor: smallest scale, in the unit of the values.

    Returns:
        Case -> (value - median) / scale.
    """
    if not values:
        return {}
    middle = float(np.median(list(values.values())))
    scale = max(floor, scatter(list(values.values())))
    return {case: (value - middle) / scale for case, value in values.items()}
