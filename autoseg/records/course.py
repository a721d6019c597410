"""What happens in the course of a training beside the rate: how its patch grows, and which cases it is watched on."""

from pydantic import Field, model_validator

from autoseg.records.base import Record


class PatchStage(Record):
    """A part of a training that sees a smaller patch."""

    until: float = Field(gt=0, lt=1)
    """Share of all planned steps at which it ends."""
    fraction: float = Field(gt=0, le=1)
    """Edge of its patch as a share of the plan's, on every axis; rounded to what the network's strides divide."""


class PatchGrowth(Record):
    """Small patches first (Fischer et al. 2024, arXiv:2407.07853): cheap steps, and a higher share of foreground."""

    stages: tuple[PatchStage, ...] = ()
    """In their order; after the last one, and in every cooldown, the patch is the plan's. Empty: it always is."""
    keeps_voxels: bool = False
    """Whether smaller patches come in larger batches, so that a step sees about as many voxels; false: the batch is
    the plan's, and the steps are cheaper."""

    @model_validator(mode="after")
    def _in_order(self) -> "PatchGrowth":
        ends = [stage.until for stage in self.stages]
        if ends != sorted(set(ends)):
            raise ValueError(f"stages must end one after the other, got until = {ends}")
        return self


class Watch(Record):
    """Whole cases that are predicted in the course of a training, and when their Dice has stopped rising.

    The cases are set aside from the training cases, so the held-out cases of the fold stay untouched by it.
    """

    cases: int = Field(default=0, ge=0)
    """How many of the fold's training cases are set aside and not trained on; 0: none, nothing is watched."""
    every_epochs: int = Field(default=5, ge=1)
    """Epochs from one look to the next; there is one more at the end."""
    window: int = Field(default=3, ge=1)
    """Looks that are averaged before they are compared, since the Dice of few cases is noisy."""
    patience: int = Field(default=5, ge=1)
    """Looks without a gain after which the Dice counts as risen to its end."""
    min_gain: float = Field(default=0.002, ge=0)
    """Rise of the averaged Dice over its best so far that counts as a gain."""
