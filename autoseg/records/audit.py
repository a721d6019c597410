"""What an audit of the reference labels found: suspicions, ranked, each with the sentence that says why."""

from typing import Literal

from autoseg.records.base import Record
from autoseg.records.geometry import IntTriple

SuspicionKind = Literal[
    "swapped",
    "mirrored",
    "shifted",
    "too_small",
    "too_large",
    "missing_class",
    "missed_part",
    "extra_part",
    "outlying_volume",
    "swapped_sides",
]


class Suspicion(Record):
    """One thing about one case's reference that is probably wrong."""

    case: str
    kind: SuspicionKind
    """What the reference looks like; `swapped_sides` and `outlying_volume` come from the labels alone."""
    targets: tuple[str, ...]
    """Classes or regions concerned."""
    score: float
    """How unusual what was measured is in this dataset, in robust standard deviations; larger is more suspicious."""
    why: str
    """One plain sentence."""
    gain: float | None
    """Soft Dice with the held-out prediction that correcting the reference would add, mean over `targets` (those on
    which the model is steadier weigh more); None: seen in the labels alone."""
    volume_mm3: float | None
    """Of a part, or of a class that is missing or outlying; None where the whole label is concerned."""
    voxel: IntTriple | None
    """Where to look, z y x in the voxel order of the image file; None: nowhere in particular."""


class AuditedCase(Record):
    """One case of the ranking."""

    case: str
    score: float
    """Of its most suspicious measurement, also where that is below the threshold and so no suspicion."""
    has_prediction: bool
    """Whether a trained fold held it out, so that a prediction spoke for or against its reference."""
    suspicions: tuple[Suspicion, ...]
    """Most suspicious first."""


class Audit(Record):
    """The training cases of a dataset, the one whose reference is most probably wrong first."""

    dataset: str
    plan: str | None
    """Plan of the held-out predictions; None: nothing is trained, the labels alone were looked at."""
    configurations: tuple[str, ...] = ()
    """Whose held-out probabilities were used, averaged."""
    tolerance_mm: float
    """Disagreement within this distance of the border (or within a voxel's diagonal, if that is longer) is fuzz."""
    threshold: float
    """Score from which something measured is a suspicion."""
    cases: tuple[AuditedCase, ...]
    """Most suspicious first; all that could be read."""
    notes: tuple[str, ...] = ()
    """What was not looked at and why, in plain sentences."""
    failed: dict[str, str] = {}
    """Case id -> why it could not be audited."""

    @property
    def suspicions(self) -> tuple[Suspicion, ...]:
        """All suspicions of all cases, the largest score first."""
        found = [suspicion for case in self.cases for suspicion in case.suspicions]
        return tuple(sorted(found, key=lambda suspicion: -suspicion.score))
