"""What lies beside a network that was written as one file for other programs."""

from autoseg.records.base import Record
from autoseg.records.plan import ConfigurationName, Plan


class TracedModel(Record):
    """How to use the file."""

    file: str
    """Name of the file."""
    configuration: ConfigurationName
    """Which of the plan's it is."""
    num_folds: int
    """Networks whose logits it averages."""
    plan: Plan
    """How images are prepared, the patch, the mirroring, the labels."""
