"""The networks' logits of one prepared case in, its segmentation after post-processing and its judgement out.

The one way from a predictor to an answer: `predict` takes it from files to files, the Python API from array to array.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from autoseg.inference.export import Labels
from autoseg.inference.fold_predictions import FoldPredictions, fold_windows, predict_folds
from autoseg.inference.predictor import Windows, case_windows, segmentation
from autoseg.postprocessing.apply import ScoreInputs, clean_components
from autoseg.postprocessing.features import CaseGrid
from autoseg.postprocessing.rules import apply_rule
from autoseg.records.labels import LabelScheme
from autoseg.records.postprocessing import ComponentChange
from autoseg.records.results import PostprocessingRule, PreprocessedCase
from autoseg.records.trust import Judgement
from autoseg.selection.case_quality import judge
from autoseg.selection.features import FeatureSums
from autoseg.selection.predictor import Grids, Predictor
from autoseg.storage.atomic import scratch_folder

Changes = tuple[ComponentChange, ...]


@dataclass(frozen=True)
class CaseSegmentation:
    """One segmented case."""

    classes: Labels
    """`Z Y X` int16 internal class numbers on the grid of the image file, after post-processing."""
    changes: Changes | None
    """What rules of components changed; None: the model has none."""
    judgement: Judgement | None
    """Predicted quality and volumes; None: nothing was learned about the model."""


def case_logits(predictor: Predictor, grids: Grids) -> Iterator[Windows]:
    """Run the networks on a prepared case and yield their logits window by window along z.

    Args:
        predictor: the loaded models.
        grids: configuration -> image `C Z Y X` on its grid.

    Yields:
        The windows of the same rows, one of each configuration (the mean of its folds), or one of each fold where a
        rule or the caller needs the probabilities of single folds.
    """
    if predictor.predicts_per_fold:
        return fold_windows(predictor.models, grids, predictor.device)
    return case_windows(predictor.models, grids, predictor.device, whole=predictor.trust is not None)


def segment_case(
    predictor: Predictor,
    meta: PreprocessedCase,
    windows: Iterable[Windows],
    grid: Callable[[], CaseGrid],
    folder: Path,
    keep: Callable[[FoldPredictions], None],
) -> CaseSegmentation:
    """Turn the logits of one case into its segmentation, post-processed and judged, as the windows come.

    Args:
        predictor: that was asked.
        meta: of its first model.
        windows: as `case_logits` yields them.
        grid: makes what features of components need of the image; called only where a rule judges by them.
        folder: the folds' probabilities are kept inside it for a while, where a rule or the caller wants them.
        keep: called with the folds' predictions, where the predictor saves probabilities.

    Raises:
        ModelError: the networks' values are not finite.
        ResourceError: `folder`'s disk is full.
    """
    labels, rule = predictor.models[0].plan.labels, predictor.rule
    sums = FeatureSums(labels, meta.geometry.voxel_volume_mm3)
    watch = None if predictor.trust is None else sums.add
    if not predictor.predicts_per_fold:
        classes, changes = _cleaned(rule, segmentation(windows, meta, labels, watch), meta, labels)
    else:
        with scratch_folder(folder) as scratch:
            counts = [len(one.networks) for one in predictor.models]
            kept = predictor.saves_probabilities
            per_fold = predictor.rule_needs_folds
            predictions = predict_folds(windows, counts, meta, labels, scratch, watch, per_fold=per_fold, kept=kept)
            inputs = ScoreInputs(predictions.probabilities, predictions.folds(), grid()) if per_fold else None
            classes, changes = _cleaned(rule, predictions.labels, meta, labels, inputs)
            if kept:
                keep(predictions)
    trust = predictor.trust
    return CaseSegmentation(
        classes, changes, None if trust is None else judge(trust, meta, classes, labels, sums.result())
    )


def _cleaned(
    rule: PostprocessingRule,
    found: Labels,
    meta: PreprocessedCase,
    labels: LabelScheme,
    inputs: ScoreInputs | None = None,
) -> tuple[Labels, Changes | None]:
    """A segmentation `Z Y X` after post-processing, and what a rule of components changed."""
    if rule.components is None:
        return apply_rule(found, rule), None
    return clean_components(found, meta, labels, rule.components, inputs)
