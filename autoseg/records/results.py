"""What later stages leave behind: preprocessed cases, trained folds, choices and scores."""

from pydantic import Field

from autoseg.records.base import Record
from autoseg.records.detection import FrocCurve, LesionCounts
from autoseg.records.fine_tuning import Origin
from autoseg.records.geometry import Geometry, IntTriple, Triple
from autoseg.records.postprocessing import ComponentRule
from autoseg.records.scoring import Scoring
from autoseg.records.selection import Cost, Objective

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


class PreprocessedCase(Record):
    """How a case came onto the network's grid, and so how a prediction gets back."""

    id: str
    geometry: Geometry
    """Grid of the image file as stored."""
    axes: IntTriple
    """Array axis of the file that became axis 0, 1, 2 of the network's grid (orientation and transpose in one)."""
    flips: tuple[bool, bool, bool]
    """Whether axis 0, 1, 2 of the network's grid runs against the file's axis."""
    crop: Box
    """Half-open box (start, stop) around everything nonzero, on the turned grid before resampling."""
    shape_before_crop: IntTriple
    """Turned grid before the crop."""
    spacing_before_mm: Triple
    """Spacing of the turned grid before resampling."""
    shape: IntTriple
    """Voxels on the network's grid, after crop and resampling."""
    spacing_mm: Triple
    """Spacing on the network's grid."""
    foreground_voxels: tuple[int, ...] = ()
    """Voxels of each target (class or region) on the network's grid; empty without a label."""
    intensities: tuple[Triple, ...] = ()
    """5th, 50th and 95th percentile of each channel as the network sees it; empty where they were not measured."""


class Manifest(Record):
    """What lies in a folder of preprocessed cases."""

    decided_by: dict[str, str]
    """Name of each input -> digest; the folder is named by their hash."""
    cases: dict[str, PreprocessedCase]
    files_sha256: dict[str, str]
    """File name -> digest."""


class EpochRecord(Record):
    """One line of `history.jsonl`."""

    epoch: int
    """Counted from 0."""
    steps: int
    """Optimiser steps done at its end."""
    train_loss: float | None
    """Mean over its steps; None: no step's loss was finite."""
    learning_rate: float
    """At its last step."""
    seconds: float
    """Wall time of the epoch, with what was watched in it."""
    watch_dice: float | None = None
    """Mean Dice of the watched cases at its end, on the network's grid; None: they were not looked at."""


class Score(Record):
    """Scores of one target in one case. None: not defined (see `metrics`), or not asked for."""

    dice: float | None
    iou: float | None
    sensitivity: float | None
    precision: float | None
    volume_mm3: float
    """Predicted volume."""
    reference_volume_mm3: float
    true_positives: int
    """Voxels."""
    false_positives: int
    """Voxels."""
    false_negatives: int
    """Voxels."""
    true_negatives: int | None = None
    """Scored voxels outside both masks."""
    specificity: float | None = None
    volume_difference_mm3: float | None = None
    """Predicted minus reference volume."""
    absolute_volume_difference_mm3: float | None = None
    """The same without its sign, so that too large and too small do not cancel in a mean."""
    relative_volume_difference: float | None = None
    """Predicted minus reference volume, over the reference's."""
    hausdorff_mm: float | None = None
    """Largest distance between the surfaces."""
    hd95_mm: float | None = None
    """The larger of the 95th percentiles of both directed distances."""
    assd_mm: float | None = None
    """Average symmetric surface distance."""
    nsd: float | None = None
    """Normalised surface Dice at the tolerance of the evaluation."""
    boundary_dice: float | None = None
    """Dice of the rims, as wide as the tolerance of the evaluation."""
    lesion_sensitivity: float | None = None
    lesion_precision: float | None = None
    lesion_f1: float | None = None
    lesion_counts: LesionCounts | None = None
    """Components of reference and prediction, by the rule of the evaluation."""
    ece: float | None = None
    """Expected calibration error of the target's probability, over the voxels for which probabilities are kept."""
    brier: float | None = None
    """Mean squared error of the target's probability, over the same voxels."""


class Aggregate(Record):
    """One number over cases. None: no case in which it is defined."""

    mean: float | None
    low: float | None
    """Lower end of the bootstrap 95 % interval of the mean over cases."""
    high: float | None
    """Upper end."""
    num_cases: int
    """Cases in which it is defined."""


class Evaluation(Record):
    """Scores of a folder of predictions."""

    title: str
    """What was scored, for people."""
    cases: dict[str, dict[str, Score]]
    """Case id -> target name -> score."""
    targets: dict[str, dict[str, Aggregate]]
    """Target name -> metric name -> aggregate over cases."""
    foreground_mean: dict[str, Aggregate]
    """Metric name -> aggregate over cases of the case's mean over targets."""
    failed: dict[str, str] = {}
    """Case id -> why it could not be scored."""
    pooled: dict[str, dict[str, Aggregate]] = {}
    """Target name -> metric name -> score of the voxels (or lesions) of all cases together, interval over cases."""
    scoring: Scoring | None = None
    """How it was scored: groups of metrics, tolerances, lesion rule; None: before this was kept."""
    froc: dict[str, FrocCurve] = {}
    """Target name -> curve of its components scored by their mean probability, where all cases have probabilities."""


class TrainedFold(Record):
    """A finished training."""

    plan: str
    configuration: str
    fold: str
    """Number as text, or `all`."""
    train_cases: tuple[str, ...]
    validation_cases: tuple[str, ...]
    watched_cases: tuple[str, ...] = ()
    """Of the training cases those that were set aside to watch the training, and not trained on."""
    epochs: int
    iterations_per_epoch: int
    seconds: float
    """Wall time of training, all sessions added, without validation."""
    num_parameters: int
    device: str
    budget_seconds: float | None = None
    """Budget the length was derived from, if any."""
    mean_dice: float | None = None
    """Mean foreground Dice over the whole volumes of the held-out cases; None for `all`."""
    origins: tuple[Origin, ...] = ()
    """Models that its weights come from, the one it started from last; empty: from the seed."""


class PostprocessingRule(Record):
    """What happens to the components of a segmentation: by what was learned about them, or the largest ones stay."""

    keep_largest_foreground: bool = False
    """Whether only the largest component of the union of all foreground is kept, before the targets' own rules."""
    keep_largest: tuple[int, ...] = ()
    """Internal classes of which only the largest component is kept."""
    keep_largest_together: tuple[tuple[int, ...], ...] = ()
    """Then, step after step, internal classes whose union keeps only its largest component; of imported models."""
    reasons: tuple[str, ...] = ()
    """A line for each rule tried: what it changed out of fold, and whether it was accepted."""
    decided_by: str = ""
    """Digest of what it was chosen on."""
    components: ComponentRule | None = None
    """Rules of each target, chosen by nested cross-validation; then the fields above are not used. None: there were too
    few patients, or an older autoseg wrote this."""

    @property
    def changes_nothing(self) -> bool:
        """Whether segmentations stay as they are."""
        if self.components is not None:
            return self.components.changes_nothing
        return not (self.keep_largest_foreground or self.keep_largest or self.keep_largest_together)


class Candidate(Record):
    """A configuration or ensemble and its out-of-fold score."""

    configurations: tuple[str, ...]
    dice: Aggregate
    """Mean over cases of the mean foreground Dice."""
    targets: dict[str, Aggregate]
    """Target name -> Dice."""
    objective: Aggregate | None = None
    """Mean over cases of what was chosen by; None: chosen before there was a choice, by the mean Dice."""
    cost: Cost | None = None
    """None: nothing is known of its networks' speed."""


class Selection(Record):
    """What predicts from now on, and what it was compared with."""

    plan: str
    configurations: tuple[str, ...]
    """The chosen ones; more than one: their probabilities are averaged."""
    folds: dict[str, tuple[str, ...]]
    """Configuration -> folds that are averaged."""
    candidates: tuple[Candidate, ...]
    """All that were compared, best first."""
    decided_by: str = ""
    """Digest of the folds, plan, objective and cases that were compared."""
    objective: Objective = Objective()
    """What was compared."""
    reasons: tuple[str, ...] = ()
    """A line for each step of the choice: what was better by how much, and whether it earned its cost."""


class ReferenceScores(Record):
    """Published per-case values to compare with."""

    source: str
    """Where they were published."""
    cases: dict[str, dict[str, float]] = Field(default={})
    """Case id -> target name -> Dice."""
