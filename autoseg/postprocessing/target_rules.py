"""A target's rule and its components in, which of them are there afterwards out; alike in learning and applying."""

import numpy as np

from autoseg.postprocessing.models import rule_scores
from autoseg.postprocessing.rows import Bools, Floats
from autoseg.records.postprocessing import TargetRule


def apply_target_rule(
    rule: TargetRule, is_decided: Bools, in_largest: Bools, features: Floats, names: tuple[str, ...]
) -> tuple[Bools, Floats]:
    """Decision and score of each row.

    Args:
        rule: of the rows' target.
        is_decided: `n` components of the segmentation; the others are candidates to be restored.
        in_largest: `n` whether it lies in the largest component of all foreground.
        features: `n f`, NaN where not defined.
        names: of the features.

    Returns:
        `n` whether it is there afterwards; `n` scores, NaN for a rule without one.
    """
    keep, scores = is_decided.copy(), np.full(len(is_decided), np.nan)
    if rule.keep_largest is not None:
        first = features[:, names.index("volume_rank")] == 1
        return keep & (in_largest if rule.keep_largest == "foreground" else first), scores
    given = rule_scores(rule, features, names)
    if given is None:
        return keep, scores
    if rule.minimum is not None:
        keep &= given >= rule.minimum
    if rule.restore_from is not None:
        keep |= ~is_decided & (given >= rule.restore_from)
    return keep, given
