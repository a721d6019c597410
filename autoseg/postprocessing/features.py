"""Components, probabilities and image of a case in, one table of features out; the features and what they mean.

All are in mm and free of the grid. What depends on the probabilities is measured a fold model and averaged: a
classifier learns from single models (no other predicts a case out of fold) and is applied to ensembles, whose averaged
probabilities are less extreme; averages of single models' features stay what it has seen. What then still differs (the
components themselves are the ensemble's) is measured by `feature_shift`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from autoseg.inference.probability_reader import FoldPrediction
from autoseg.postprocessing.component_list import Classes, ComponentList
from autoseg.postprocessing.intensity_features import Scale, intensity_features
from autoseg.postprocessing.position_features import position_features
from autoseg.postprocessing.probability_features import probability_features
from autoseg.postprocessing.shape_features import shape_features
from autoseg.records.geometry import Triple
from autoseg.records.labels import LabelScheme

Matrix = npt.NDArray[np.float64]


class Feature(NamedTuple):
    """What a column of the table is."""

    meaning: str
    sign: int = 0
    """1: a larger value cannot make a component less likely to be true; -1: the reverse; 0: either way."""
    logarithmic: bool = False
    """Whether a linear model takes its logarithm."""


FEATURES: dict[str, Feature] = {
    "is_decided": Feature("1: component of the segmentation; 0: candidate of a lower threshold", 1),
    "volume_mm3": Feature("volume; area in mm2 for 2-D images", 1, True),
    "volume_rank": Feature("1 for the largest of its target in the case", -1, True),
    "volume_share": Feature("of the target's volume in the case", 1),
    "num_components": Feature("of its target in the case", 0, True),
    "surface_mm2": Feature("area of its voxel faces; perimeter in mm for 2-D images", 0, True),
    "sphericity": Feature("1 for a ball, less for anything else"),
    "box_longest_mm": Feature("longest side of its box", 0, True),
    "box_middle_mm": Feature("middle side of its box", 0, True),
    "box_shortest_mm": Feature("shortest side of its box", 0, True),
    "axis_longest_mm": Feature("longest principal axis", 0, True),
    "axis_middle_mm": Feature("middle principal axis", 0, True),
    "axis_shortest_mm": Feature("shortest principal axis", 0, True),
    "elongation": Feature("middle over longest principal axis"),
    "flatness": Feature("shortest over middle principal axis"),
    "probability_mean": Feature("mean probability of its target", 1),
    "probability_max": Feature("largest probability", 1),
    "probability_p10": Feature("10th percentile of the probability", 1),
    "probability_p50": Feature("median probability", 1),
    "probability_p90": Feature("90th percentile of the probability", 1),
    "probability_std": Feature("deviation of the probability"),
    "entropy_mean": Feature("mean entropy, 0 to 1", -1),
    "margin_mean": Feature("mean of probability minus the next best", 1),
    "border_probability": Feature("mean probability of its border voxels", 1),
    "border_entropy": Feature("mean entropy of its border voxels", -1),
    "border_margin": Feature("mean margin of its border voxels", 1),
    "mirror_mean": Feature("mean disagreement of mirrorings, 0 to 1", -1),
    "mirror_max": Feature("largest disagreement of mirrorings", -1),
    "border_mirror": Feature("mean disagreement of mirrorings of its border voxels", -1),
    "intensity_mean": Feature("mean intensity, normalised"),
    "intensity_std": Feature("deviation of the intensity"),
    "intensity_p10": Feature("10th percentile of the intensity"),
    "intensity_p90": Feature("90th percentile of the intensity"),
    "intensity_contrast": Feature("mean intensity minus that of the ring around it"),
    "intensity_edge_per_mm": Feature("fall of the intensity across its surface, per mm"),
    "body_z": Feature("place in the body along z, 0 to 1"),
    "body_y": Feature("place in the body along y, 0 to 1"),
    "body_x": Feature("place in the body along x, 0 to 1"),
    "body_depth_mm": Feature("from its centre to the nearest side of the body's box"),
    "largest_centre_mm": Feature("from its centre to that of the largest component of its target", 0, True),
    "largest_distance_mm": Feature("from its surface to that of the largest component of its target", 0, True),
    "other_centre_mm": Feature("from its centre to that of the nearest other target's largest component", 0, True),
    "other_distance_mm": Feature("from its surface to that of the nearest other target's largest component", 0, True),
    "touches_others": Feature("share of its surface behind which another class begins"),
}
"""Columns of an image's channel c are called `intensity<c>_...`."""


@dataclass(frozen=True)
class CaseGrid:
    """What is known of a case besides its probabilities."""

    image: npt.NDArray[Any]
    """`C z y x` as in the file, on the crop box of the turned grid."""
    scales: tuple[Scale, ...]
    """Mean and deviation of each channel (`intensity_scales`)."""
    spacing_mm: Triple
    """z y x of that grid."""
    planar: bool
    """A 2-D image."""


def feature_of(name: str) -> Feature:
    """What a column is; raises KeyError for an unknown name."""
    return FEATURES["intensity_" + name.split("_", 1)[1] if name.startswith("intensity") else name]


def feature_names(num_channels: int) -> tuple[str, ...]:
    """All columns of a table, in order."""
    names: list[str] = []
    shared = [name for name in FEATURES if name.startswith("intensity_")]
    for name in FEATURES:
        if name == shared[0]:
            names += [f"intensity{c}_{n.split('_', 1)[1]}" for c in range(num_channels) for n in shared]
        elif name not in shared:
            names.append(name)
    return tuple(names)


def measure(
    found: ComponentList,
    classes: Classes,
    folds: Iterable[FoldPrediction],
    labels: LabelScheme,
    grid: CaseGrid,
    ring_mm: float,
) -> Matrix:
    """Features of each component.

    Args:
        found: `n` rows.
        classes: segmentation `z y x` in which they were found.
        folds: predictions of the fold models one after another; only one is in memory at a time.
        labels: scheme.
        grid: image, spacing.
        ring_mm: distance at which a component's surrounding is read.

    Returns:
        `n x len(feature_names)`, NaN where a feature is not defined (a table of numbers knows no None; records and
        files do).
    """
    names = feature_names(len(grid.image))
    if not len(found.targets):
        return np.zeros((0, len(names)))
    columns = shape_features(found, grid.spacing_mm, grid.planar, len(labels.targets))
    columns |= intensity_features(found, grid.image, classes, labels, grid.spacing_mm, grid.scales, ring_mm)
    columns |= position_features(found, grid.image, classes, grid.spacing_mm, grid.planar)
    count = 0
    for probabilities, disagreement in folds:
        of_fold = probability_features(found, probabilities, disagreement, labels)
        columns |= of_fold if count == 0 else {name: columns[name] + values for name, values in of_fold.items()}
        count += 1
    if not count:
        raise ValueError("at least one fold model is needed")
    matrix = np.stack([columns[name] for name in names], axis=1)
    if count > 1:
        matrix[:, [names.index(name) for name in of_fold]] /= count
    return matrix


def feature_shift(
    single: Sequence[Matrix], averaged: Matrix, names: Sequence[str]
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """How far features averaged over fold models lie from those of single ones.

    There are no such cases out of fold, so this is for cases that all folds predict (test cases, new images).

    Args:
        single: a matrix `n f` a fold model: features with its probabilities alone, of the components of its own
            decision. Rows need not correspond.
        averaged: `m f`, as a classifier sees them when it is applied.
        names: of the columns.

    Returns:
        Name -> mean of `averaged` minus mean of `single`, in standard deviations of `single`; and name -> standard
        deviation of `averaged` over that of `single`. Where both have the same components, averaging moves no mean
        and only narrows. None where `single` does not vary or nothing is defined.
    """
    together = np.concatenate(list(single))
    shifts: dict[str, float | None] = {}
    spreads: dict[str, float | None] = {}
    for column, name in enumerate(names):
        before, after = together[:, column], averaged[:, column]
        before, after = before[np.isfinite(before)], after[np.isfinite(after)]
        deviation = float(before.std()) if before.size else 0.0
        known = deviation > 0 and after.size > 0
        shifts[name] = float(after.mean() - before.mean()) / deviation if known else None
        spreads[name] = float(after.std()) / deviation if known else None
    return shifts, spreads
