"""Ways of reducing false positives side by side: what each leaves, finds and costs on held-out cases."""

from typing import Literal

from autoseg.records.base import Record
from autoseg.records.detection import FrocCurve, LesionRule

Method = Literal["none", "rule", "cascade", "second_label", "learned"]
"""`none`: a configuration's segmentations as they are; `rule`: components removed by one number; `cascade`: a second
stage at full resolution; `second_label`: fine-tuned with its false positives as a class; `learned`: components judged
by a classifier."""


class Change(Record):
    """A paired difference with its bootstrap 95 % interval over patients; None: not defined."""

    mean: float | None
    low: float | None
    high: float | None


Measure = Literal["dice", "lesion_f1", "cpm", "false_positives"]


class Advantage(Record):
    """What a way is better by than the simple rule that is best in one measure."""

    rule: str
    """The rule."""
    change: Change
    """Positive is better, also for false positives a case (fewer)."""


class TargetDetection(Record):
    """How one target is found. None: not defined."""

    false_positives_per_case: float
    """Components that find no lesion and lie in none."""
    lesion_sensitivity: float | None
    """Lesions found of all lesions of all cases."""
    dice: float | None
    """Mean over cases."""
    froc: FrocCurve
    """Of the components, by the score that the method gives them."""


class MethodRow(Record):
    """One way, over all targets. All numbers None: it does not apply or is not trained, and `note` says why."""

    method: Method
    variant: str = ""
    """Which rule or classifier."""
    configuration: str = ""
    """Whose held-out segmentations these are."""
    false_positives_per_case: float | None = None
    """Summed over targets."""
    lesion_sensitivity: float | None = None
    """Over the lesions of all targets."""
    dice: float | None = None
    """Mean over targets of the mean over cases."""
    lesion_f1: float | None = None
    """Mean over targets of the mean over cases."""
    cpm: float | None = None
    """Mean over targets of the FROC curve's mean sensitivity at 1/8 to 8 false positives a case."""
    false_positives_change: Change | None = None
    """To `none`."""
    dice_change: Change | None = None
    """To `none`."""
    over_best_rule: dict[Measure, Advantage] = {}
    """Of classifiers: for each measure that is defined, the paired difference to the rule that is best in it."""
    targets: dict[str, TargetDetection] = {}
    """Target name -> its own numbers."""
    note: str = ""
    """What has to be known of the numbers, or why there are none."""

    @property
    def is_measured(self) -> bool:
        """Whether there are numbers."""
        return self.false_positives_per_case is not None

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.method} ({self.variant})" if self.variant else self.method


def mean_sensitivities(row: MethodRow) -> tuple[float, ...]:
    """Sensitivity at each rate of the FROC curves, mean over the targets that have lesions; empty without any."""
    read = [t.froc.sensitivity_at for t in row.targets.values() if t.froc.sensitivity_at is not None]
    return tuple(sum(column) / len(column) for column in zip(*read, strict=True))


class FalsePositiveComparison(Record):
    """All ways on the same held-out cases."""

    plan: str
    configuration: str
    """The one whose false positives are to be reduced."""
    num_cases: int
    num_patients: int
    objective: Literal["dice", "lesion_f1"] = "dice"
    """By what thresholds were chosen."""
    lesions: LesionRule
    """When a component finds a lesion, and when it is a false positive."""
    rows: tuple[MethodRow, ...]
    """`none` first."""
    verdict: str
    """In words."""
