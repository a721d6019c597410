"""A risk and a confidence of each case in, the risk-coverage curve and its area out (Geifman and El-Yaniv 2017).

Cases are included from the most to the least confident; the curve is the mean risk of those included. A confidence
that knows nothing gives, on average, the mean risk everywhere; one that orders cases by their risk gives the lowest
curve there is. Cases of equal confidence stand in no order: each gets the mean risk of its equals, which is what the
curve is on average over their orders.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def risk_coverage(risks: Sequence[float] | FloatArray, confidences: Sequence[float] | FloatArray) -> FloatArray:
    """Mean risk of the k most confident cases, k = 1 ... n.

    Args:
        risks: one a case, at least one.
        confidences: likewise; any scale.

    Raises:
        ValueError: the sequences differ in length, or are empty.
    """
    risk, confidence = np.asarray(risks, dtype=np.float64), np.asarray(confidences, dtype=np.float64)
    if risk.shape != confidence.shape or risk.size == 0:
        raise ValueError(
            f"expected as many confidences as risks and at least one, got {confidence.size} and {risk.size}"
        )
    _, group = np.unique(-confidence, return_inverse=True)
    shared = np.bincount(group, weights=risk) / np.bincount(group)
    ordered = shared[group][np.argsort(group, kind="stable")]
    curve: FloatArray = np.cumsum(ordered) / np.arange(1, risk.size + 1)
    return curve


def area(curve: FloatArray) -> float:
    """Mean of the curve over its coverages; smaller is better."""
    return float(curve.mean())
