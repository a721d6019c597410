"""What is learned about false-positive components: how they are found, measured, judged, and why it was accepted."""

from typing import Literal

from pydantic import Field, model_validator

from autoseg.records.base import Record
from autoseg.records.detection import LesionRule


class TruthRule(Record):
    """When a predicted component counts as true, which is what a classifier learns."""

    measure: Literal["voxels", "share", "iou"] = "voxels"
    """`voxels`: voxels it shares with the reference of its target; `share`: those over its own voxels; `iou`: the best
    intersection over union with one component of the reference."""
    minimum: float = Field(default=1.0, gt=0)
    """True when the measure is at least this."""


class ComponentSettings(Record):
    """How components of a prediction are found and measured; the same when learning and when applying."""

    restore_thresholds: tuple[float, ...] = (0.3, 0.1)
    """Probabilities below which a target is not decided for: a component of voxels with at least this probability
    that holds no voxel decided for the target, nor such a component of a higher threshold, may be restored."""
    max_candidates: int = Field(default=100, ge=0)
    """Candidates kept a case and target, those with the largest sum of probabilities: a bound for unsure networks."""
    ring_mm: float = Field(default=2.5, gt=0)
    """Distance from a component's surface, along the normals of its voxel faces, at which its surrounding is read."""

    @model_validator(mode="after")
    def _between_0_and_1(self) -> "ComponentSettings":
        if not all(0 < t < 1 for t in self.restore_thresholds):
            raise ValueError(f"restore_thresholds must lie between 0 and 1, got {self.restore_thresholds}")
        return self


class LearningSettings(Record):
    """How candidates of post-processing are compared."""

    objective: Literal["dice", "lesion_f1"] = "dice"
    """`dice`: mean over targets of the mean Dice over cases (nnU-Net's); `lesion_f1`: the same of the lesion F1."""
    truth: TruthRule = TruthRule()
    lesions: LesionRule = LesionRule()
    """When a lesion counts as found, for lesion-wise scores."""
    dice_margin: float = Field(default=0.002, ge=0)
    """No target's mean score may fall by more than this."""
    sensitivity_margin: float = Field(default=0.02, ge=0)
    """No target's lesion sensitivity over all cases may fall by more than this."""
    num_folds: int = Field(default=5, ge=2)
    """Parts of the cases in the outer and in the inner loop."""
    leave_one_out_below: int = Field(default=10, ge=2)
    """With fewer patients than this each is a part of its own."""
    min_groups: int = Field(default=3, ge=3)
    """With fewer patients nothing is learned: nnU-Net's keep-largest rule is chosen on all cases instead."""
    min_groups_to_accept: int = Field(default=6, ge=3)
    """With fewer patients nothing beats what stands: should all their differences be positive, that alone happens by
    chance in one of 2 ** 5 cases with five of them, which is more often than the 2.5 % that an interval allows."""
    min_components: int = Field(default=20, ge=2)
    """True and false components that a target needs, each, for a classifier to be tried."""


class Logistic(Record):
    """Logistic regression on standardised features; a feature that is not defined counts as its mean."""

    features: tuple[str, ...]
    logarithmic: tuple[bool, ...]
    """Whether log(1 + value) is taken first."""
    means: tuple[float, ...]
    scales: tuple[float, ...]
    coefficients: tuple[float, ...]
    intercept: float


class Tree(Record):
    """A binary tree; node 0 is the root."""

    feature: tuple[int, ...]
    """Of each node: position in `Boosting.features`; -1 for a leaf."""
    threshold: tuple[float, ...]
    """Of each node: values up to this go left."""
    missing_left: tuple[bool, ...]
    """Of each node: whether a feature that is not defined goes left."""
    left: tuple[int, ...]
    right: tuple[int, ...]
    value: tuple[float, ...]
    """Of each leaf: what it adds to the log-odds."""

    @model_validator(mode="after")
    def _points_onwards(self) -> "Tree":
        count = len(self.feature)
        if any(len(c) != count for c in (self.threshold, self.missing_left, self.left, self.right, self.value)):
            raise ValueError("all columns of a tree must have one length")
        for node, feature in enumerate(self.feature):
            # Children come after their parent, so that a walk always ends.
            if feature >= 0 and not all(node < child < count for child in (self.left[node], self.right[node])):
                raise ValueError(f"node {node} of a tree points to {self.left[node]} and {self.right[node]}")
        return self


class Boosting(Record):
    """Gradient-boosted trees whose values add up to log-odds."""

    features: tuple[str, ...]
    baseline: float
    """Log-odds before the first tree."""
    trees: tuple[Tree, ...]


class Isotonic(Record):
    """A rising curve from a classifier's score to a calibrated probability, linear between its knots."""

    scores: tuple[float, ...]
    """Rising."""
    probabilities: tuple[float, ...]
    """Not falling."""


class TargetRule(Record):
    """What happens to the components of one target."""

    target: str
    method: str
    """Key of `postprocessing.candidates.CANDIDATES`."""
    keep_largest: Literal["own", "foreground"] | None = None
    """Only the largest component of the target stays, or only what lies in the largest one of all foreground."""
    feature: str | None = None
    """The score is this feature itself."""
    logistic: Logistic | None = None
    """The score is this model's probability."""
    boosting: Boosting | None = None
    """The score is this model's probability."""
    isotonic: Isotonic | None = None
    """Calibrates the score."""
    minimum: float | None = None
    """Components with a lower score are removed; None: none."""
    restore_from: float | None = None
    """Candidates with at least this score are restored; None: none."""

    @property
    def has_score(self) -> bool:
        """Whether a number is computed for each component."""
        return self.feature is not None or self.logistic is not None or self.boosting is not None


class CandidateScore(Record):
    """What a candidate reaches for one target in nested cross-validation. None: not defined."""

    target: str
    method: str
    score: float | None
    """The objective over all targets, with this method for this target and what stands for the others."""
    difference: float | None = None
    """To what stood before it."""
    low: float | None = None
    """Lower end of the bootstrap 95 % interval of the difference over patients."""
    high: float | None = None
    """Upper end."""
    target_score: float | None
    """Mean over cases of this target alone."""
    false_components_per_case: float
    """Components that find no lesion and lie in none (`LesionRule`)."""
    false_volume_mm3_per_case: float
    """Volume outside the reference (for 2-D images an area in mm2)."""
    lesion_sensitivity: float | None
    """Lesions found of all lesions of all cases."""
    empty_cases_left_empty: float | None
    """Share of the cases without this target in which nothing is predicted."""
    auc: float | None = None
    """Area under the ROC curve of the components' scores, nested."""
    brier: float | None = None
    """Mean squared error of the components' probabilities, nested."""
    removed: int = 0
    """Components."""
    restored: int = 0
    """Candidates of lower thresholds."""
    accepted: bool = False
    reason: str = ""


class ComponentRule(Record):
    """Post-processing by components: one rule a target, and the comparison that chose it."""

    components: ComponentSettings
    learning: LearningSettings
    targets: tuple[TargetRule, ...]
    num_cases: int
    num_groups: int
    """Patients; the parts of the cross-validation never divide one."""
    counts: dict[str, tuple[int, int, int, int]]
    """Target -> true and false components, true and false candidates of lower thresholds."""
    scores: tuple[CandidateScore, ...]
    """All that was tried."""
    importances: dict[str, tuple[tuple[str, float], ...]] = {}
    """Target with a classifier -> the features that matter most: fall of the nested area under the ROC curve when a
    feature's values are exchanged between components."""

    @property
    def needs_probabilities(self) -> bool:
        """Whether any target's score needs more than the segmentation."""
        return any(rule.has_score and rule.feature != "volume_mm3" for rule in self.targets)

    @property
    def changes_nothing(self) -> bool:
        """Whether every target's components stay as they are."""
        return all(
            rule.keep_largest is None and rule.minimum is None and rule.restore_from is None for rule in self.targets
        )


class FeatureShift(Record):
    """How far features differ between what a classifier learned from and what it is applied to."""

    num_cases: int
    num_folds: int
    num_single: int
    """Components of single fold models' own segmentations, of all folds."""
    num_averaged: int
    """Components of the ensemble's segmentations, whose features are averaged over fold models."""
    shifts: dict[str, float | None]
    """Feature -> mean over the ensemble's minus mean over single models' components, in standard deviations of the
    latter. None: not defined, or it does not vary."""
    spreads: dict[str, float | None]
    """Feature -> standard deviation over the ensemble's components over that over single models' ones: below 1 where
    averaging makes components more alike."""


class ComponentChange(Record):
    """A component that was removed or restored."""

    target: str
    action: Literal["removed", "restored"]
    method: str
    probability: float | None
    """Score of a classifier: that the component is true; None for rules without one."""
    centre_mm: tuple[float, float, float]
    """World x, y, z (RAS+)."""
    features: dict[str, float | None]
    """None: not defined."""


class CaseChanges(Record):
    """Everything that post-processing changed in one case."""

    case: str
    changes: tuple[ComponentChange, ...]
