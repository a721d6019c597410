"""How the training cases lie on their grids in, the range of each property out; and a new scan's unusual properties.

The one rule: a property is unusual when it lies outside the range of the training cases by more than a margin.

    spacing of each axis, mm            below the smallest / 1.25, above the largest x 1.25
    field of view of each axis, mm      likewise; the size of the box around everything nonzero
    intensity, each channel             half the range of the training cases beyond it, at least 0.1
                                        (5th, 50th and 95th percentile of the image as the network sees it, so that
                                        the unit of a scanner does not matter where the network does not see it)

Axes are those of the turned grid, so the storage order of a file does not matter. A training case is never unusual. The
axis across a 2-D image has no size and is left out.
"""

from collections.abc import Mapping, Sequence

from autoseg.records.results import PreprocessedCase
from autoseg.records.trust import KnownRange

_FACTOR = 1.25
_SHARE_OF_RANGE = 0.5
_LEAST_MARGIN = 0.1
_AXES = ("z", "y", "x")
_PERCENTILES = ("5th", "50th", "95th")


def known_ranges(cases: Sequence[PreprocessedCase]) -> dict[str, KnownRange]:
    """Range of each property that all cases have; empty without cases."""
    ranges = {}
    for properties, widen in ((_lengths, _by_factor), (_intensities, _by_share)):
        measured = [properties(case) for case in cases]
        for name in measured[0] if measured else ():
            values = [one[name] for one in measured if name in one]
            if len(values) == len(cases):
                low, high = widen(min(values), max(values))
                ranges[name] = KnownRange(low=low, high=high, smallest=min(values), largest=max(values))
    return ranges


def unusual_properties(case: PreprocessedCase, known: Mapping[str, KnownRange]) -> tuple[str, ...]:
    """A sentence for each property of a case that lies outside its range."""
    found = []
    for name, value in {**_lengths(case), **_intensities(case)}.items():
        here = known.get(name)
        if here is not None and not here.low <= value <= here.high:
            found.append(f"{name} {value:.4g} is unlike the training cases ({here.smallest:.4g} to {here.largest:.4g})")
    return tuple(found)


def _lengths(case: PreprocessedCase) -> dict[str, float]:
    values = {}
    for axis, name in enumerate(_AXES):
        if case.geometry.planar and case.axes[axis] == 0:
            continue
        start, stop = case.crop[axis]
        values[f"spacing along {name} in mm"] = case.spacing_before_mm[axis]
        values[f"field of view along {name} in mm"] = (stop - start) * case.spacing_before_mm[axis]
    return values


def _intensities(case: PreprocessedCase) -> dict[str, float]:
    return {
        f"{rank} percentile of the normalised intensity of channel {channel}": value
        for channel, percentiles in enumerate(case.intensities)
        for rank, value in zip(_PERCENTILES, percentiles, strict=True)
    }


def _by_factor(smallest: float, largest: float) -> tuple[float, float]:
    return smallest / _FACTOR, largest * _FACTOR


def _by_share(smallest: float, largest: float) -> tuple[float, float]:
    margin = max(_SHARE_OF_RANGE * (largest - smallest), _LEAST_MARGIN)
    return smallest - margin, largest + margin
