"""What a model folder says about itself to whoever it is given: no patient data, no case names, no paths."""

from autoseg.records.base import Record
from autoseg.records.labels import LabelScheme


class FoldCard(Record):
    """One trained fold."""

    num_train_cases: int
    num_validation_cases: int
    epochs: int
    iterations_per_epoch: int
    mean_dice: float | None
    """Mean foreground Dice over the whole volumes of the held-out cases; None: none were held out."""
    weights: str
    """Digest."""
    trained_from: tuple[str, ...] = ()
    """Models that its weights come from, the nearest last: dataset, configuration and fold of each."""


class ModelCard(Record):
    """The folds of one configuration."""

    dataset: str
    """Name of the dataset that it was trained on."""
    plan: str
    preset: str
    configuration: str
    channel_names: tuple[str, ...]
    """Images that it needs, in this order."""
    labels: LabelScheme
    """What it segments, and the values that it writes."""
    spacing_mm: tuple[float, ...]
    """Resolution that it sees, z y x or y x, on its own axes."""
    patch_size: tuple[int, ...]
    """Voxels that it sees at once, likewise."""
    architecture: str
    num_parameters: int
    """Of one fold."""
    previous_stage: str | None
    """Configuration whose folder it needs beside its own (cascade)."""
    folds: dict[str, FoldCard]
    """Number as text, or `all` -> fold."""
    versions: dict[str, str]
    """Package -> version that wrote this."""
    licence: str | None = None
    """On what terms the model is given away, written into the file by whoever gives it; None: not stated."""
