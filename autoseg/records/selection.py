"""By what the best candidate is chosen, and what a candidate costs."""

from pydantic import Field

from autoseg.records.base import Record
from autoseg.records.scoring import DEFAULT_TOLERANCE_MM


class ObjectiveTerm(Record):
    """One score that counts."""

    metric: str
    """Name in the table `metrics.build.METRICS`."""
    target: str | None = None
    """Class or region; None: mean over the targets in which the score is defined."""
    weight: float = Field(default=1.0, gt=0)
    """Against the other terms."""


class Objective(Record):
    """A case's value is the weighted mean of those terms that are defined in it."""

    terms: tuple[ObjectiveTerm, ...] = (ObjectiveTerm(metric="dice"),)
    tolerance_mm: float = Field(default=DEFAULT_TOLERANCE_MM, ge=0)
    """Of the surface and the boundary Dice, where they are terms."""

    @property
    def name(self) -> str:
        """As typed on the command line."""
        parts = []
        for term in self.terms:
            weight = "" if term.weight == 1 else f"={term.weight:g}"
            parts.append(term.metric + ("" if term.target is None else f":{term.target}") + weight)
        return ",".join(parts)


class Cost(Record):
    """What one case costs a candidate."""

    seconds: float
    """Time in its networks, all folds and earlier stages of a cascade, mean over cases, on the training's device."""
    is_measured: bool
    """False: estimated from the time of a training step, for folds that were validated before it was measured."""
