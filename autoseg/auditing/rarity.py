"""One number a case in, how unusual each is among them out.

The scale is a robust standard deviation: the larger of the median absolute deviation (x 1.4826, a normal distribution's
standard deviation) and the root mean square of the deviations nearest to the median. How many of them enter decides
what may be wrong in how many cases. Errors of labels must not widen the scale that measures them, and may be a good
part of the cases, as when one of five people labelled the wrong side: three quarters enter. A model's own errors may
be a minority's habit, such as a false positive in every fourth case, and must widen it: nine tenths enter. No scale is
below a floor under which differences do not matter.
"""

from collections.abc import Collection, Mapping

import numpy as np

THRESHOLD = 3.5
"""Iglewicz and Hoaglin 1993, How to Detect and Handle Outliers: modified z scores beyond it are outliers."""
_KEPT_OF_ERRORS, _KEPT_OF_HABITS = 0.75, 0.9
_MAD_TO_SIGMA = 1.4826


def scatter(values: Collection[float], has_habits: bool = False) -> float:
    """Robust standard deviation about the median; 0 without values.

    Args:
        values: one a case.
        has_habits: whether the model's own errors are among what is measured.
    """
    if not len(values):
        return 0.0
    array = np.array(list(values))
    sizes = np.sort(np.abs(array - np.median(array)))
    share = _KEPT_OF_HABITS if has_habits else _KEPT_OF_ERRORS
    num_kept = max(1, min(int(np.ceil(share * len(sizes))), len(sizes) - 1))  # one is left out in any case
    nearest = float(np.sqrt(np.mean(sizes[:num_kept] ** 2)))
    return max(nearest, _MAD_TO_SIGMA * float(np.median(sizes)))


def unusualness(values: Mapping[str, float], floor: float, has_habits: bool = False) -> dict[str, float]:
    """Signed robust z of each value.

    Args:
        values: case -> value.
        floor: smallest scale, in the unit of the values.
        has_habits: as for `scatter`.

    Returns:
        Case -> (value - median) / scale.
    """
    if not values:
        return {}
    middle = float(np.median(list(values.values())))
    scale = max(floor, scatter(list(values.values()), has_habits))
    return {case: (value - middle) / scale for case, value in values.items()}
