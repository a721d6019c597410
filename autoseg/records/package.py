"""What a packed model says about itself to whoever it is given: no patient data, no case names, no paths."""

from autoseg.records.base import Record
from autoseg.records.model_card import ModelCard
from autoseg.records.results import Aggregate
from autoseg.records.trust import KnownRange

PACKAGE = "package.json"
"""File in the packed model."""

_UNNAMED = "unnamed_"

DEFAULT_LIMITS = (
    "For research. It is no medical device, and nobody has shown that it is safe to decide on patients by it.",
    "Its scores hold for scans like those it was trained on; on others it may be wrong without any sign of it.",
)


class Package(Record):
    """The content of `package.json`, also written for people as `README.md`."""

    dataset: str
    """Name of the dataset that it was trained on."""
    predicts: tuple[str, ...]
    """Configurations whose probabilities are averaged."""
    configurations: dict[str, ModelCard]
    """All that are inside, the stages before a cascade too."""
    num_held_out: int
    """Cases that the scores are about."""
    scores: dict[str, dict[str, Aggregate]]
    """Target name -> metric name -> mean over held-out cases with its 95 % interval, post-processing included; empty:
    nothing was selected, see the folds' own figures."""
    has_postprocessing: bool
    """Whether learned or chosen post-processing is inside."""
    has_trust: bool
    """Whether it says how good its segmentations may be."""
    known: dict[str, KnownRange] = {}
    """Property of a scan -> its range over the training cases; empty: nothing was learned about it."""
    limits: tuple[str, ...] = DEFAULT_LIMITS
    """What it must not be used for, and where it is known to fail."""
    licence: str | None = None
    """On what terms it is given away; None: not stated."""
    citation: str | None = None
    """What to cite; None: not stated."""
    versions: dict[str, str] = {}
    """Package -> version that packed it."""


def anonymous_case(number: int) -> str:
    """What stands for a case's name in a packed model."""
    return f"{_UNNAMED}{number:05d}"


def is_anonymous(case: str) -> bool:
    """Whether this stands for a case's name, so that nobody can tell which case it is."""
    return case.startswith(_UNNAMED)
