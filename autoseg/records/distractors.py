"""False positives as a second label: how they are taken from held-out segmentations, and how many there were."""

from pydantic import Field

from autoseg.records.base import Record

DISTRACTOR = "distractor"
"""Name of the class that only the network knows: in labels, scores and segmentations it is background."""

SUFFIX = "_distractors"
"""Ending of the name of a configuration that learns distractors; what stands before it is its base."""


class Distractors(Record):
    """Where the distractors of a training come from, and where its weights start."""

    base: str
    """Configuration whose held-out segmentations are searched for false positives, and whose weights are fine-tuned."""
    max_overlap: float = Field(default=0.0, ge=0, lt=1)
    """Largest share of a component's voxels on labelled foreground with which it still is a false positive; 0: it must
    share no voxel with the reference."""


class DistractorCount(Record):
    """What was found in one case, on the network's grid."""

    components: int
    """26-connected."""
    voxels: int


class DistractorCensus(Record):
    """The distractors that a fold was trained with."""

    decided_by: str
    """Digest of the folds of the base, of the preprocessed cases and of the rule."""
    cases: dict[str, DistractorCount]
    """Training case -> what was found in it."""

    @property
    def num_components(self) -> int:
        """Over all cases."""
        return sum(case.components for case in self.cases.values())
