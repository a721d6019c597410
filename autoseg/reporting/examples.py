"""An image with its reference and its held-out prediction in, one telling picture of the case out.

The picture is shown as radiologists see it wherever the grid allows: the image is turned to canonical axes, the slice
is cut across the coarsest axis, the patient's front is up and the patient's right is on the left.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autoseg.images.volume import Volume
from autoseg.metrics.build import case_mean
from autoseg.records.geometry import IntTriple
from autoseg.records.labels import LabelScheme
from autoseg.records.results import Evaluation, Score
from autoseg.reporting.figures import draw_overlay, tints
from autoseg.spatial.orientation import turn, turn_for, turned

_PLANES = ("axial", "coronal", "sagittal")


@dataclass(frozen=True)
class Example:
    """A held-out case that was drawn."""

    case: str
    rank: str
    """`worst`, `middle` or `best`."""
    scores: dict[str, float | None]
    """Target name -> Dice; None: in neither reference nor prediction."""
    where: str
    """Which slice is shown."""
    uri: str
    """PNG as a data URI."""


def pick_cases(evaluation: Evaluation, num_each: int = 2) -> list[tuple[str, str]]:
    """The worst, middle and best cases by mean Dice as (case, rank), without repeating a case."""
    means = {case: case_mean(scores) for case, scores in evaluation.cases.items()}
    ordered = sorted((mean, case) for case, mean in means.items() if mean is not None)
    middle = max(0, (len(ordered) - num_each) // 2)
    picks = (
        ("worst", ordered[:num_each]),
        ("middle", ordered[middle : middle + num_each]),
        ("best", ordered[: -num_each - 1 : -1]),
    )
    chosen: dict[str, str] = {}
    for rank, group in picks:
        for _, case in group:
            chosen.setdefault(case, rank)
    return list(chosen.items())


def draw_example(
    case: tuple[str, str],
    image: Volume,
    reference: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    labels: LabelScheme,
    scores: Mapping[str, Score],
    colours: Mapping[str, str],
) -> Example:
    """Draw the most telling slice of a case.

    Args:
        case: id and rank, as from `pick_cases`.
        image: the image as read.
        reference: `Z Y X` internal classes on the image's grid.
        prediction: `Z Y X` likewise.
        labels: scheme of the dataset.
        scores: the case's scores, target by target.
        colours: target name -> colour.
    """
    uri, where = draw_slice(image, reference, prediction, labels, colours)
    return Example(case[0], case[1], {name: score.dice for name, score in scores.items()}, where, uri)


def draw_slice(
    image: Volume,
    reference: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    labels: LabelScheme,
    colours: Mapping[str, str],
    voxel: IntTriple | None = None,
    is_reference_tinted: bool = False,
) -> tuple[str, str]:
    """Draw one slice of a case.

    Args:
        image: the image as read.
        reference: `Z Y X` internal classes on the image's grid.
        prediction: `Z Y X` likewise.
        labels: scheme of the dataset.
        colours: target name -> colour.
        voxel: z y x on the image's grid that the slice goes through; None: the most telling slice.
        is_reference_tinted: whether the reference's contours have the targets' colours, mixed with white, instead of
            white: two targets that are exchanged look right otherwise.

    Returns:
        PNG as a data URI, and which slice it shows.
    """
    how = turn_for(image.geometry.matrix, "stored" if image.geometry.planar else "canonical")
    spacing = turned(image.geometry.spacing_mm, how.axes)
    picture, wanted, found = (turn(array, how) for array in (image.array[0], reference, prediction))
    axis = int(np.argmax(np.round(spacing, 3)))  # the first of equals: axial
    if voxel is None:
        position = _telling_slice(wanted, found, axis, labels)
    else:
        position = voxel[how.axes[axis]]
        position = wanted.shape[axis] - 1 - position if how.flips[axis] else position
    planes = [np.take(array, position, axis=axis) for array in (picture, wanted, found)]
    if not image.geometry.planar:
        planes = [plane[::-1, ::-1] if axis < 2 else plane[::-1] for plane in planes]
    grey, *maps = planes
    masks = [[np.isin(plane, target.members) for target in labels.targets] for plane in maps]
    y, x = (size for number, size in enumerate(spacing) if number != axis)
    shades = [colours[target.name] for target in labels.targets]
    uri = draw_overlay(
        _windowed(grey, image.array[0], (reference > 0) & (reference < labels.num_classes)),
        masks[0],
        masks[1],
        (y, x),
        shades,
        tints(shades) if is_reference_tinted else None,
    )
    where = "the image" if wanted.shape[axis] == 1 else f"{_PLANES[axis]} slice {position + 1} of {wanted.shape[axis]}"
    return uri, where


def _telling_slice(wanted: npt.NDArray[Any], found: npt.NDArray[Any], axis: int, labels: LabelScheme) -> int:
    """The slice with the most wrong voxels, counting a quarter of the labelled ones; ignored voxels are not wrong."""
    counted = wanted < labels.num_classes  # the index of voxels to ignore is the number of classes
    wrong = (wanted != found) & counted
    others = tuple(number for number in range(3) if number != axis)
    weight = wrong.sum(axis=others) + 0.25 * ((wanted > 0) & counted).sum(axis=others)
    return int(np.argmax(weight))


def _windowed(
    plane: npt.NDArray[Any], image: npt.NDArray[Any], foreground: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Intensities of the slice `Y X` brought to 0 to 1.

    The window is what the labelled voxels span, widened by three quarters on each side, so that soft tissue is not
    lost between air and bone; without any label it is what the image spans.
    """
    inside = image[foreground] if foreground.any() else image
    low, high = np.percentile(np.nan_to_num(inside.astype(np.float32)), [1, 99])
    if foreground.any():
        low, high = low - 0.75 * (high - low), high + 0.75 * (high - low)
    windowed: npt.NDArray[np.float64] = np.clip((np.nan_to_num(plane) - low) / max(high - low, 1e-9), 0, 1)
    return windowed
