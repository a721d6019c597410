"""Foreground intensities of all cases in, cases out whose channels look exchanged or whose scale is another one.

Two rules, each against the other cases' median and spread (1.4826 times the median absolute deviation, at least a
tenth of the median), so that the case itself does not hide what it is. They are meant to miss rather than to cry wolf:

* Exchanged channels: both of a pair lie more than `FAR` spreads from their own channel's mean intensity, and both
  within `NEAR` of the other's, in mean and in standard deviation. Channels that overlap are never reported.
* Other scale, CT alone, since only its values have a unit: the mean lies more than `GROSS` spreads away (and 200 HU at
  least), or the standard deviation is 8 times larger or smaller, as when values were stored with an offset or turned
  into grey values. Other channels are normalised case by case, and MR has no scale that a case could leave.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from statistics import median
from typing import NamedTuple

from autoseg.datasets.findings import Finding, warning

FEWEST_CASES = 5
"""Cases with foreground below which nothing is said."""
FAR, NEAR = 6.0, 3.0
GROSS, LEAST_DIFFERENCE_HU, STD_RATIO = 8.0, 200.0, 8.0
ENOUGH_VOXELS = 1000
"""Foreground voxels from which on a standard deviation says something of the scale."""
_SPREAD_SHARE = 0.1


class Level(NamedTuple):
    """Intensities of one channel in the foreground of one case."""

    mean: float
    std: float
    num_voxels: int


class _Typical(NamedTuple):
    """Centre and spread over cases."""

    centre: float
    spread: float

    def distance(self, value: float) -> float:
        return abs(value - self.centre) / self.spread


def check_intensities(cases: Mapping[str, Sequence[Level]], channel_names: Sequence[str]) -> list[Finding]:
    """Warnings for cases whose intensities do not fit the others'.

    Args:
        cases: case id -> one level a channel, of the cases with foreground.
        channel_names: of the dataset.
    """
    if len(cases) < FEWEST_CASES:
        return []
    findings = []
    for case, levels in cases.items():
        others = [found for name, found in cases.items() if name != case]
        exchanged = list(_exchanged(levels, others))
        for one, other in exchanged:
            names = f"{channel_names[one]!r} and {channel_names[other]!r}"
            message = (
                f"channels {one} and {other} ({names}) look exchanged: each has the intensities of the other in all "
                "other cases. Look at the files and their order."
            )
            findings.append(warning("swapped_channels", message, case))
        explained = {channel for pair in exchanged for channel in pair}
        for channel, name in enumerate(channel_names):
            if name.strip().casefold() == "ct" and channel not in explained:
                findings += _other_scale(case, levels[channel], [found[channel] for found in others], channel)
    return findings


def _exchanged(levels: Sequence[Level], others: Sequence[Sequence[Level]]) -> Iterator[tuple[int, int]]:
    """Pairs of channels that have changed places."""
    means = [_typical([found[channel].mean for found in others]) for channel in range(len(levels))]
    stds = [_typical([found[channel].std for found in others]) for channel in range(len(levels))]
    for pair in combinations(range(len(levels)), 2):
        are_far = all(means[channel].distance(levels[channel].mean) > FAR for channel in pair)
        crossed = ((pair[0], pair[1]), (pair[1], pair[0]))
        if are_far and all(
            means[there].distance(levels[here].mean) <= NEAR and stds[there].distance(levels[here].std) <= NEAR
            for here, there in crossed
        ):
            yield pair


def _other_scale(case: str, level: Level, others: Sequence[Level], channel: int) -> list[Finding]:
    typical = _typical([found.mean for found in others])
    difference = level.mean - typical.centre
    if abs(difference) > max(GROSS * typical.spread, LEAST_DIFFERENCE_HU):
        message = (
            f"channel {channel} (CT): the foreground's mean is {level.mean:.4g}, in the other cases it is about "
            f"{typical.centre:.4g}. Look whether its values are Hounsfield units like theirs."
        )
        return [warning("intensity_outlier", message, case)]
    usual = median(found.std for found in others)
    is_other = level.std * STD_RATIO < usual or level.std > usual * STD_RATIO
    if level.num_voxels >= ENOUGH_VOXELS and usual > 0 and is_other:
        message = (
            f"channel {channel} (CT): the foreground's standard deviation is {level.std:.3g}, in the other cases it is "
            f"about {usual:.3g}. Look whether its values are Hounsfield units like theirs."
        )
        return [warning("intensity_outlier", message, case)]
    return []


def _typical(values: Sequence[float]) -> _Typical:
    centre = median(values)
    deviation = 1.4826 * median(abs(value - centre) for value in values)
    return _Typical(centre, max(deviation, _SPREAD_SHARE * abs(centre), 1e-6))
