"""A mean over cases in, its text with its interval out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line imports this module at once, and records take longer than `--help` may
    from autoseg.records.results import Aggregate


def mean_text(aggregate: Aggregate, digits: int = 3, *, signed: bool = False, undefined: str = "-") -> str:
    """A mean with its 95 % interval: `0.884 [0.872, 0.895]`.

    Args:
        aggregate: of scores or differences.
        digits: after the point.
        signed: whether a plus sign is shown too, as for differences.
        undefined: text where there is no mean; where there is no interval, the mean stands alone.
    """
    if aggregate.mean is None:
        return undefined
    form = f"{'+' if signed else ''}.{digits}f"
    if aggregate.low is None or aggregate.high is None:
        return f"{aggregate.mean:{form}}"
    return f"{aggregate.mean:{form}} [{aggregate.low:{form}}, {aggregate.high:{form}}]"
