"""Component tables of out-of-fold segmentations in, the keep-largest rule out; and the rule applied to a new one.

nnU-Net's procedure, with one condition more. First: keep only the largest component of all foreground, if the mean
Dice over targets rises and no target's mean Dice falls. Then, class after class on what is left: keep only its
largest component, if the Dice of the targets it belongs to rises and none falls. A rule is accepted on the cases
it was tried on, so what it changed is told in `reasons`, rejected ones too.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autoseg.metrics.build import score_counts
from autoseg.metrics.overlap import dice
from autoseg.postprocessing.table import ComponentTable, counts_of, kept_components
from autoseg.records.labels import LabelScheme
from autoseg.records.results import PostprocessingRule, Score
from autoseg.spatial.components import keep_largest as largest_component
from autoseg.spatial.cropping import crop, mask_box

Means = list[float | None]

# Sums of the same numbers in another order differ by less: no rise and no fall.
_NOISE = 1e-9


def choose_rule(tables: Sequence[ComponentTable], labels: LabelScheme) -> PostprocessingRule:
    """Try the keep-largest rules on out-of-fold segmentations and accept those that help and harm no target."""
    rule = PostprocessingRule()
    before = mean_dice(tables, rule, labels)
    tried = rule.model_copy(update={"keep_largest_foreground": True})
    after = mean_dice(tables, tried, labels)
    accepted = _mean(after) > _mean(before) + _NOISE and not _fallen(before, after)
    reasons = [_reason("all foreground", _mean(before), _mean(after), _fallen(before, after), labels, accepted)]
    if accepted:
        rule, before = tried, after
    for number in range(1, labels.num_classes):
        tried = rule.model_copy(update={"keep_largest": (*rule.keep_largest, number)})
        after = mean_dice(tables, tried, labels)
        own = [i for i, target in enumerate(labels.targets) if number in target.members]
        old, new = _mean([before[i] for i in own]), _mean([after[i] for i in own])
        accepted = new > old + _NOISE and not _fallen(before, after)
        reasons.append(_reason(labels.class_names[number], old, new, _fallen(before, after), labels, accepted))
        if accepted:
            rule, before = tried, after
    return rule.model_copy(update={"reasons": tuple(reasons)})


def apply_rule(classes: npt.NDArray[np.int16], rule: PostprocessingRule) -> npt.NDArray[np.int16]:
    """The segmentation (`Z Y X` internal class numbers) with the components that the rule removes set to background.

    Without such a rule it is `classes` itself.
    """
    if rule.changes_nothing:
        return classes
    cleaned = classes.copy()
    if not cleaned.any():
        return cleaned
    inside = crop(cleaned, mask_box(cleaned > 0))  # labelling costs its volume
    if rule.keep_largest_foreground:
        inside[~largest_component(inside > 0)] = 0
    for number in rule.keep_largest:
        _keep_largest(inside, inside == number)
    for members in rule.keep_largest_together:
        _keep_largest(inside, np.isin(inside, members))
    return cleaned


def _keep_largest(classes: npt.NDArray[np.int16], mask: npt.NDArray[np.bool_]) -> None:
    """Set what of the mask is not in its largest component to background, in place."""
    if mask.any():
        box = mask_box(mask)
        own, found = crop(classes, box), crop(mask, box)
        own[found & ~largest_component(found)] = 0


def mean_dice(tables: Sequence[ComponentTable], rule: PostprocessingRule, labels: LabelScheme) -> Means:
    """Mean Dice over cases of each target with the rule; None for a target that is defined in no case."""
    columns: list[list[float]] = [[] for _ in labels.targets]
    for table in tables:
        kept = kept_components(table, rule.keep_largest_foreground, rule.keep_largest)
        for column, counts in zip(columns, counts_of(table, kept), strict=True):
            if (value := dice(counts)) is not None:
                column.append(value)
    return [sum(column) / len(column) if column else None for column in columns]


def scores_with_rule(table: ComponentTable, rule: PostprocessingRule, labels: LabelScheme) -> dict[str, Score]:
    """Scores of one case's targets with the rule applied."""
    kept = kept_components(table, rule.keep_largest_foreground, rule.keep_largest)
    counted = zip(labels.targets, counts_of(table, kept), strict=True)
    return {target.name: score_counts(counts, table.voxel_volume_mm3) for target, counts in counted}


def _mean(values: Means) -> float:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else 0.0


def _fallen(before: Means, after: Means) -> list[int]:
    """Targets whose mean Dice falls."""
    pairs = enumerate(zip(before, after, strict=True))
    return [i for i, (old, new) in pairs if old is not None and new is not None and new < old - _NOISE]


def _reason(what: str, before: float, after: float, fallen: list[int], labels: LabelScheme, accepted: bool) -> str:
    change = f"keep the largest component of {what}: mean Dice {before:.4f} -> {after:.4f}"
    if accepted:
        return f"{change}; accepted"
    if fallen:
        return f"{change}; rejected, it lowers {', '.join(labels.targets[i].name for i in fallen)}"
    return f"{change}; rejected, it does not help"
