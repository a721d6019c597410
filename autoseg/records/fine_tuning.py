"""What fine-tuning changes in a recipe, and what a trained fold remembers of the models that it comes from."""

from collections.abc import Sequence

from pydantic import Field

from autoseg.records.base import Record


class FineTuning(Record):
    """How a training differs that starts from another model (`train --from`)."""

    learning_rate_factor: float = Field(default=0.3, gt=0)
    """Of the optimiser's rate. The full rate forgets what was learned in its first epochs; a tenth changed too little
    in as many steps where it was measured, in fine-tuning with distractors (docs/experiments.md)."""


class Origin(Record):
    """A trained fold whose weights another one started from."""

    dataset: str
    """Name."""
    plan: str
    configuration: str
    fold: str
    """Number as text, or `all`."""
    weights: str
    """Digest."""
    cases: tuple[str, ...]
    """Ids of the cases that it was trained on, so that none of them is held out later as if it had not been seen."""
    kept_heads: tuple[str, ...] = ()
    """Classes or regions that kept their output."""
    kept_channels: tuple[str, ...] = ()
    """Input channels that kept their weights."""


def matching_names(known: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """For each wanted name its position in `known`, the second of a name for its second; None: it is not there."""
    places = {(name, known[:position].count(name)): position for position, name in enumerate(known)}
    return [places.get((name, wanted[:position].count(name))) for position, name in enumerate(wanted)]
