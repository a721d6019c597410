"""How confident the folds of a plan's configurations were, and by what their logits are divided."""

from autoseg.records.base import Record
from autoseg.records.results import Aggregate


class FoldTemperature(Record):
    """The temperature of one fold's network."""

    weights_sha256: str
    """Digest of the weights it was fitted for; other weights are used as they are."""
    temperature: float
    """Divides the network's logits, in prediction. Fitted on all cases the fold held out."""
    held_out: dict[str, float]
    """Held-out case -> temperature fitted on the other half of the fold's held-out cases, in which this case is not:
    divides its stored logits wherever something is chosen or scored out of fold. 1 where there is no other half."""


class Reliability(Record):
    """How far probabilities and frequencies agree, over held-out cases; each case weighs the same."""

    ece: Aggregate
    """Expected calibration error with 15 bins (`metrics.calibration`), 0 to 1; regions: mean over them."""
    brier: Aggregate
    """Mean squared error of the probabilities, summed over classes; regions: mean over them."""
    nll: Aggregate
    """Mean negative log-likelihood in nats a voxel (regions: summed over them)."""


class ConfigurationCalibration(Record):
    """All calibrated folds of one configuration."""

    folds: dict[str, FoldTemperature]
    before: Reliability
    """Of the stored probabilities."""
    after: Reliability
    """With each case's own `held_out` temperature, which that case did not help to fit."""
    num_cases: int
    """Cases with another half: those that both figures are about."""


class Calibration(Record):
    """The content of `calibration.json`."""

    plan: str
    configurations: dict[str, ConfigurationCalibration]
