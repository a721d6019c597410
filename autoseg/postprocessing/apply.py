"""A segmentation and a learned rule in, the cleaned segmentation out, with a list of everything that was changed."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoseg.postprocessing.decide import decide
from autoseg.postprocessing.effects import decided_classes
from autoseg.postprocessing.features import CaseGrid, Voice, feature_names, measure
from autoseg.postprocessing.find import Classes, Found, find_components
from autoseg.postprocessing.position_features import centres
from autoseg.postprocessing.rows import Bools, Floats, painting
from autoseg.records.labels import LabelScheme
from autoseg.records.postprocessing import ComponentChange, ComponentRule
from autoseg.records.results import PreprocessedCase


@dataclass(frozen=True)
class Judged:
    """Decisions on the `n` components of one case."""

    found: Found
    keep: Bools
    """`n`: component stays, candidate is restored."""
    scores: Floats
    """`n`: NaN where the target's rule has no score."""
    features: Floats
    """`n f`."""
    names: tuple[str, ...]


def judge_components(
    classes: Classes,
    probabilities: npt.NDArray[np.float16],
    voices: Iterable[Voice],
    labels: LabelScheme,
    grid: CaseGrid,
    rule: ComponentRule,
) -> Judged:
    """Find, measure and decide the components of one case.

    Args:
        classes: segmentation `z y x` of the ensemble, on the crop box.
        probabilities: `H z y x` of the ensemble, for candidates of lower thresholds.
        voices: fold models, one after another.
        labels: scheme.
        grid: image and spacing of the crop box.
        rule: as learned.
    """
    found = find_components(classes, probabilities, labels, rule.components, grid.planar)
    names = feature_names(len(grid.image))
    features = measure(found, classes, voices, labels, grid, rule.components.ring_mm)
    keep, scores = found.is_decided.copy(), np.full(len(found.targets), np.nan)
    by_name = {target.target: target for target in rule.targets}
    for number, target in enumerate(labels.targets):
        own = found.targets == number
        if target.name in by_name and own.any():
            keep[own], scores[own] = decide(
                by_name[target.name], found.is_decided[own], found.in_largest[own], features[own], names
            )
    return Judged(found, keep, scores, features, names)


def apply_decisions(classes: Classes, judged: Judged, labels: LabelScheme) -> npt.NDArray[np.int16]:
    """The segmentation `z y x` after all decisions."""
    found, how = judged.found, painting(labels)
    cleaned = np.array(classes, dtype=np.int16, order="C")
    changed = np.flatnonzero(judged.keep != found.is_decided)
    if not changed.size:
        return cleaned
    # Only voxels of changed rows: a voxel is then decided with all rows that it lies in.
    touched = np.unique(np.concatenate([found.voxels_of(int(row)) for row in changed]))
    rows_of = np.full((len(touched), len(how.names)), -1, dtype=np.int64)
    for row in changed:
        rows_of[np.searchsorted(touched, found.voxels_of(int(row))), found.targets[row]] = row
    flat = cleaned.reshape(-1)
    flat[touched] = decided_classes(flat[touched], rows_of, found.is_decided, how, judged.keep)
    return cleaned


def changes_of(
    judged: Judged, labels: LabelScheme, rule: ComponentRule, meta: PreprocessedCase
) -> tuple[ComponentChange, ...]:
    """Every removed component and restored candidate, with what it was judged by."""
    found = judged.found
    methods = {target.target: target for target in rule.targets}
    places = world_mm(centres(found), meta) if len(found.targets) else np.zeros((0, 3))
    changes = []
    for row in np.flatnonzero(judged.keep != found.is_decided):
        target = labels.targets[int(found.targets[row])].name
        by_model = methods[target].logistic is not None or methods[target].boosting is not None
        values = zip(judged.names, judged.features[row], strict=True)
        changes.append(
            ComponentChange(
                target=target,
                action="restored" if judged.keep[row] else "removed",
                method=methods[target].method,
                probability=float(judged.scores[row]) if by_model else None,
                centre_mm=tuple(float(v) for v in places[row]),
                features={name: float(value) if np.isfinite(value) else None for name, value in values},
            )
        )
    return tuple(changes)


def world_mm(centre: Floats, meta: PreprocessedCase) -> Floats:
    """World x, y, z (RAS+, mm) of array indices `n 3` on the crop box of the turned grid."""
    on_turned = centre + np.array([start for start, _ in meta.crop])
    stored = np.empty_like(on_turned)
    for axis, (source, flip) in enumerate(zip(meta.axes, meta.flips, strict=True)):
        last = meta.geometry.shape[source] - 1
        stored[:, source] = last - on_turned[:, axis] if flip else on_turned[:, axis]
    matrix = meta.geometry.matrix
    return stored @ matrix[:3, :3].T + matrix[:3, 3]
