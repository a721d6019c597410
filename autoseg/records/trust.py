"""What can be said about a prediction without its reference: quality, volumes, and whether the scan is unusual."""

from autoseg.records.base import Record
from autoseg.records.results import Aggregate


class Curve(Record):
    """How the mean risk (1 - Dice) grows as less certain cases are included (risk-coverage curve)."""

    area: float
    """Mean over coverages 1/n, 2/n, ... 1 of the mean risk of the cases covered; smaller is better."""
    risks: tuple[float, ...]
    """Mean risk of the k cases that come first, k = 1 ... n."""


class QualityScores(Record):
    """How well held-out cases are ordered by what is predicted for them, in nested cross-validation."""

    num_cases: int
    predicted: Curve
    """Ordered by the predicted Dice of the model that is stored."""
    mean_probability: Curve
    """Ordered by the mean probability of the answer in the foreground: what one would do without a model."""
    random: Curve
    """In no order: the mean risk at every coverage."""
    perfect: Curve
    """Ordered by the true Dice: what cannot be beaten."""
    gain: Aggregate
    """Area by mean probability minus area by the model with all features, whichever was stored: where the interval does
    not lie above zero, the stored one knows the mean probability alone."""
    mean_absolute_error: float
    """Of the predicted Dice."""


class QualityModel(Record):
    """A linear model: intercept + sum of coefficient x (feature - centre) / scale, limited to 0 ... 1, is the Dice."""

    features: tuple[str, ...]
    """Keys of what `selection.features` measures."""
    centres: tuple[float, ...]
    scales: tuple[float, ...]
    """Standard deviation over the held-out cases."""
    coefficients: tuple[float, ...]
    intercept: float
    ridge: float
    """Penalty of the squared coefficients."""
    flag_below: float | None
    """Predicted Dice below which a person should look at a case; None: held-out cases are ordered no better than by
    chance, so that nothing is flagged."""
    scores: QualityScores


class VolumeInterval(Record):
    """Conformal interval of the volume of one target."""

    level: float
    """Share of new cases, exchangeable with the held-out ones, whose true volume lies inside."""
    num_cases: int
    """Held-out cases it was made from."""
    offset_mm3: float
    """Added to volumes before their logarithm, so that an absent target has one."""
    log_ratio: float | None
    """Half width of the interval of log((true + offset) / (predicted + offset)). None: too few cases for the level."""


class KnownRange(Record):
    """The values of one property over the training cases."""

    low: float
    """Smallest value that is not unusual: the smallest of training, with a margin."""
    high: float
    smallest: float
    """Of the training cases."""
    largest: float


class Trust(Record):
    """The content of `trust.json`: all that judges a prediction of the selected candidate."""

    decided_by: str
    """The selection's digest; what belongs to another selection is not used."""
    inputs: str
    """Digest of all it was learned from."""
    quality: QualityModel | None
    """None: too few held-out cases; `notes` says so."""
    volumes: dict[str, VolumeInterval]
    """Target name -> interval."""
    known: dict[str, KnownRange]
    """Property of a scan -> its range over the training cases."""
    notes: tuple[str, ...] = ()
    """What could not be made, and why."""


class VolumeEstimate(Record):
    """The volume of one target in a new case."""

    volume_mm3: float
    """As segmented; mm2 for a 2-D image."""
    low_mm3: float | None
    """Lower end of the conformal interval; None where there is none."""
    high_mm3: float | None


class Judgement(Record):
    """Predicted quality, volumes and warnings of one prediction."""

    predicted_dice: float | None
    """Mean over targets, 0 to 1; None: there is no model, or nothing was segmented."""
    reasons: tuple[str, ...]
    """Why a person should look at this case; empty: no reason."""
    volumes: dict[str, VolumeEstimate]
    """Target name -> volume."""
    features: dict[str, float]
    """What the quality was predicted from."""
