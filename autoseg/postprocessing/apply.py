"""A segmentation and a learned rule in, the cleaned segmentation out, with a list of everything that was changed."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autoseg.inference.export import uncrop
from autoseg.inference.probability_reader import FoldPrediction, ProbabilityReader
from autoseg.postprocessing.component_list import Classes, ComponentList
from autoseg.postprocessing.effects import decided_classes
from autoseg.postprocessing.features import CaseGrid, feature_names, measure
from autoseg.postprocessing.find import find_components
from autoseg.postprocessing.position_features import centres_mm
from autoseg.postprocessing.rows import Bools, Floats, painting
from autoseg.postprocessing.shape_features import shape_features
from autoseg.postprocessing.target_rules import apply_target_rule
from autoseg.records.labels import LabelScheme
from autoseg.records.postprocessing import ComponentChange, ComponentRule
from autoseg.records.results import PreprocessedCase
from autoseg.spatial.cropping import crop
from autoseg.spatial.orientation import Turn, turn

_ROWS_AT_A_TIME = 1 << 20
"""Of a table with one column a target: it must not have a line for every voxel of a case."""


@dataclass(frozen=True)
class ScoreInputs:
    """What rules with a score (minimum confidence, classifiers) need besides the segmentation."""

    probabilities: ProbabilityReader
    """Of the ensemble, `H z y x` on the crop box: where candidates of lower thresholds are looked for."""
    folds: Iterable[FoldPrediction]
    """Of each fold of the ensemble; features are averaged over them."""
    grid: CaseGrid


@dataclass(frozen=True)
class ComponentDecisions:
    """Which of the `n` components of one case a rule keeps, removes or restores."""

    found: ComponentList
    keep: Bools
    """`n`: component stays, candidate is restored."""
    scores: Floats
    """`n`: NaN where the target's rule has no score."""
    features: Floats
    """`n f`."""
    names: tuple[str, ...]


def clean_components(
    native: Classes, meta: PreprocessedCase, labels: LabelScheme, rule: ComponentRule, inputs: ScoreInputs | None
) -> tuple[npt.NDArray[np.int16], tuple[ComponentChange, ...]]:
    """Remove and restore components of a segmentation as a learned rule decides.

    Args:
        native: internal class numbers `Z Y X` on the image file's own grid.
        meta: how it was turned and cropped; outside the crop nothing is segmented.
        labels: scheme.
        rule: as learned.
        inputs: for the scores; None is allowed where `rule.needs_probabilities` is False.

    Returns:
        Internal class numbers `Z Y X` on the same grid, and one entry for each removed component or restored candidate.
    """
    if rule.changes_nothing:
        return np.array(native, dtype=np.int16), ()
    classes = np.ascontiguousarray(crop(turn(native, Turn(meta.axes, meta.flips)), meta.crop))
    decisions = decide_components(classes, meta, labels, rule, inputs)
    return uncrop(apply_decisions(classes, decisions, labels), meta), changes_of(decisions, labels, rule, meta)


def decide_components(
    classes: Classes, meta: PreprocessedCase, labels: LabelScheme, rule: ComponentRule, inputs: ScoreInputs | None
) -> ComponentDecisions:
    """Find, measure and decide the components of one case; `classes` `z y x` on the crop box, the rest as above."""
    planar = meta.geometry.planar
    found = find_components(classes, None if inputs is None else inputs.probabilities, labels, rule.components, planar)
    if inputs is None:
        columns = shape_features(found, meta.spacing_before_mm, planar, len(labels.targets))
        names, features = tuple(columns), np.stack(list(columns.values()), axis=1)
    else:
        names = feature_names(len(inputs.grid.image))
        features = measure(found, classes, inputs.folds, labels, inputs.grid, rule.components.ring_mm)
    keep, scores = found.is_decided.copy(), np.full(len(found.targets), np.nan)
    by_name = {target.target: target for target in rule.targets}
    for number, target in enumerate(labels.targets):
        own = found.targets == number
        if target.name in by_name and own.any():
            keep[own], scores[own] = apply_target_rule(
                by_name[target.name], found.is_decided[own], found.in_largest[own], features[own], names
            )
    return ComponentDecisions(found, keep, scores, features, names)


def component_features(classes: Classes, labels: LabelScheme, rule: ComponentRule, inputs: ScoreInputs) -> Floats:
    """Features `n f` of the components and candidates of a segmentation `z y x`, as a rule would see them."""
    found = find_components(classes, inputs.probabilities, labels, rule.components, inputs.grid.planar)
    return measure(found, classes, inputs.folds, labels, inputs.grid, rule.components.ring_mm)


def apply_decisions(classes: Classes, decisions: ComponentDecisions, labels: LabelScheme) -> npt.NDArray[np.int16]:
    """The segmentation `z y x` after all decisions."""
    found, how = decisions.found, painting(labels)
    cleaned = np.array(classes, dtype=np.int16, order="C")
    changed = np.flatnonzero(decisions.keep != found.is_decided)
    if not changed.size:
        return cleaned
    # Only voxels of changed rows: a voxel is then decided with all rows that it lies in.
    touched = np.unique(np.concatenate([found.voxels_of(int(row)) for row in changed]))
    flat, step = cleaned.reshape(-1), max(1, _ROWS_AT_A_TIME // len(how.names))
    for part in (touched[start : start + step] for start in range(0, len(touched), step)):
        rows_of = np.full((len(part), len(how.names)), -1, dtype=np.int64)
        for row in changed:
            voxels = found.voxels_of(int(row))
            first, last = np.searchsorted(voxels, (part[0], part[-1] + 1))
            rows_of[np.searchsorted(part, voxels[first:last]), found.targets[row]] = row
        flat[part] = decided_classes(flat[part], rows_of, found.is_decided, how, decisions.keep)
    return cleaned


def changes_of(
    decisions: ComponentDecisions, labels: LabelScheme, rule: ComponentRule, meta: PreprocessedCase
) -> tuple[ComponentChange, ...]:
    """Every removed component and restored candidate, with what it was judged by."""
    found = decisions.found
    methods = {target.target: target for target in rule.targets}
    places = centres_mm(found, meta)
    changes = []
    for row in np.flatnonzero(decisions.keep != found.is_decided):
        target = labels.targets[int(found.targets[row])].name
        by_model = methods[target].logistic is not None or methods[target].boosting is not None
        values = zip(decisions.names, decisions.features[row], strict=True)
        changes.append(
            ComponentChange(
                target=target,
                action="restored" if decisions.keep[row] else "removed",
                method=methods[target].method,
                probability=float(decisions.scores[row]) if by_model else None,
                centre_mm=tuple(float(v) for v in places[row]),
                features={name: float(value) if np.isfinite(value) else None for name, value in values},
            )
        )
    return tuple(changes)


def changes_path(folder: Path, case: str) -> Path:
    """Where the list of what was changed in a case lies, beside its segmentation: record `CaseChanges`."""
    return folder / f"{case}.components.json"
