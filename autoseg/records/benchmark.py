"""What a benchmark found: held-out scores of our own cross-validation beside published ones."""

from autoseg.records.base import Record
from autoseg.records.results import Aggregate


class BenchmarkRow(Record):
    """One target of one configuration on one dataset."""

    dataset: str
    plan: str
    planned_for: str
    """Device and memory of the plan."""
    configuration: str
    target: str
    """Name, or `mean of targets`."""
    folds: tuple[str, ...]
    """Folds whose held-out cases were scored."""
    dice: Aggregate
    nsd: Aggregate
    tolerance_mm: float
    """Of the surface Dice."""
    published_dice: dict[str, float] = {}
    """Method -> its published mean Dice on the full dataset; not the same cases as ours."""


class PairedRow(Record):
    """Our Dice minus a method's published Dice, case by case, on the cases that both have."""

    dataset: str
    configuration: str
    method: str
    target: str
    """Name, or `mean of targets`."""
    ours: float
    """Mean Dice over the paired cases."""
    theirs: float
    difference: Aggregate
    """Ours minus theirs, with its bootstrap 95 % interval."""
    p_value: float | None
    """Two-sided Wilcoxon signed-rank test."""


class TrainingCost(Record):
    """What one configuration cost."""

    dataset: str
    configuration: str
    seconds: float
    """Training time of all its folds."""
    devices: tuple[str, ...]


class Benchmark(Record):
    """A whole benchmark."""

    made: str
    """Date, UTC."""
    budget_seconds: float
    """For each dataset: all configurations and folds together."""
    versions: dict[str, str]
    """Package -> version."""
    rows: tuple[BenchmarkRow, ...]
    paired: tuple[PairedRow, ...] = ()
    costs: tuple[TrainingCost, ...] = ()
    sources: tuple[str, ...] = ()
    """Where the published values come from."""
    remarks: tuple[str, ...] = ()
    """What a reader must know to compare: folds that were trained for another time than stated."""
