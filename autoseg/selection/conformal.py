"""Predicted and true volumes of held-out cases in, an interval around the volume of a new case out.

Split conformal prediction (Vovk et al. 2005; Lei et al. 2018) with the score |log((true + c) / (predicted + c))|,
since errors of volumes grow with the volumes. With n held-out cases the half width is the k-th smallest score, k the
smallest integer of at least (n + 1) x level: the true volume of a new case that is exchangeable with them lies inside
with at least this probability, whatever the distribution. Where k > n no finite interval does, and none is given: 90 %
needs 9 cases.

The offset c, a hundredth of the median true volume where the target is present, gives an absent target a logarithm.
Volumes of held-out cases come from models of single folds, those of new cases from all folds together, so the level is
met as far as these err alike (cross-conformal prediction; Barber et al. 2021 prove 1 - 2 x (1 - level) at worst).
"""

import math
from collections.abc import Sequence

import numpy as np

from autoseg.records.trust import VolumeInterval

LEVEL = 0.9
_OFFSET_SHARE = 0.01


def fewest_cases(level: float) -> int:
    """Held-out cases from which an interval of this level is finite."""
    return math.ceil(level / (1 - level) - 1e-9)


def fit_interval(predicted_mm3: Sequence[float], true_mm3: Sequence[float], level: float = LEVEL) -> VolumeInterval:
    """Fit the conformal interval of one target's volume.

    Args:
        predicted_mm3: volume of each held-out case as segmented.
        true_mm3: of its reference, in the same order.
        level: wanted coverage, between 0 and 1.

    Returns:
        Its `log_ratio` is the half width of log(volume + offset); None with fewer cases than `fewest_cases(level)`.
    """
    predicted, true = np.asarray(predicted_mm3, dtype=np.float64), np.asarray(true_mm3, dtype=np.float64)
    present = true[true > 0]
    offset = float(np.median(present)) * _OFFSET_SHARE if present.size else 1.0
    scores = np.sort(np.abs(np.log((true + offset) / (predicted + offset))))
    rank = math.ceil((len(scores) + 1) * level - 1e-9)
    half_width = float(scores[rank - 1]) if 0 < rank <= len(scores) else None
    return VolumeInterval(level=level, num_cases=len(scores), offset_mm3=offset, log_ratio=half_width)


def interval_around(volume_mm3: float, interval: VolumeInterval) -> tuple[float, float] | None:
    """Lower and upper end in mm3 for the true volume, given the segmented one; None where no interval was fitted."""
    if interval.log_ratio is None:
        return None
    factor = math.exp(interval.log_ratio)
    low = (volume_mm3 + interval.offset_mm3) / factor - interval.offset_mm3
    return max(0.0, low), (volume_mm3 + interval.offset_mm3) * factor - interval.offset_mm3
