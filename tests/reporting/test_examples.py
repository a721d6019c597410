"""Pictures of cases: the right slice, the right way round, whatever the file's axes."""

import base64
import io

import matplotlib.image
import numpy as np
import pytest

from autoseg.datasets.phantoms import make_phantom
from autoseg.images.volume import Volume
from autoseg.metrics.build import score_case, summarize
from autoseg.records.geometry import Geometry
from autoseg.records.labels import LabelScheme, Target
from autoseg.reporting.examples import Example, draw_example, pick_cases
from autoseg.reporting.figures import class_colours
from tests.reporting.workspace import LABELS, flawed


def draw(classes: np.ndarray, predicted: np.ndarray, geometry: Geometry, labels: LabelScheme = LABELS) -> Example:
    image = Volume(np.where(classes > 0, 100, 0)[None].astype(np.int16), geometry)
    scores = score_case(predicted, classes, labels, geometry)
    colours = class_colours([target.name for target in labels.targets])
    return draw_example(("case", "worst"), image, classes, predicted, labels, scores, colours)


def pixels(example: Example) -> np.ndarray:
    content = base64.b64decode(example.uri.removeprefix("data:image/png;base64,"))
    return matplotlib.image.imread(io.BytesIO(content), format="png")[..., :3]


def box(shape: tuple[int, int, int], corner: tuple[int, int, int]) -> np.ndarray:
    classes = np.zeros(shape, dtype=np.int16)
    classes[tuple(slice(c, c + 4) for c in corner)] = 1
    return classes


def ras(shape: tuple[int, int, int], spacing: tuple[float, float, float], planar: bool = False) -> Geometry:
    z, y, x = spacing
    return Geometry(
        shape=shape,
        spacing_mm=spacing,
        affine=((0, 0, x, 0), (0, y, 0, 0), (z, 0, 0, 0)),
        planar=planar,
    )


@pytest.mark.parametrize("orientation", ["LPS", "PIR", "ASL"])
def test_the_picture_does_not_depend_on_the_axes_of_the_file(orientation: str) -> None:
    drawn = []
    for codes in ("RAS", orientation):
        _, classes, geometry = make_phantom(0, 0, orientation=codes)
        drawn.append(draw(classes, np.where(classes == 4, 1, classes), geometry))
    assert drawn[0].where == drawn[1].where
    assert np.abs(pixels(drawn[0]) - pixels(drawn[1])).mean() < 0.01


def test_right_is_left_and_front_is_up() -> None:
    shape = (6, 40, 40)
    classes = box(shape, (1, 30, 30))  # front and right of a RAS grid
    example = draw(classes, classes, ras(shape, (3.0, 1.0, 1.0)))
    bright = np.argwhere(pixels(example).min(axis=2) > 0.5)
    height, width = pixels(example).shape[:2]
    assert bright[:, 0].max() < height / 2
    assert bright[:, 1].max() < width / 2
    assert example.where.startswith("axial slice")


def test_the_slice_with_most_errors_is_shown_across_the_coarsest_axis() -> None:
    shape = (40, 40, 8)
    classes = box(shape, (5, 5, 1))
    predicted = classes.copy()
    predicted[10:30, 10:30, 6] = 2
    example = draw(classes, predicted, ras(shape, (1.0, 1.0, 4.0)))
    assert example.where == "sagittal slice 7 of 8"


def test_ignored_voxels_are_no_errors_and_regions_are_drawn() -> None:
    regions = (Target(name="whole", members=(1, 2)), Target(name="core", members=(2,)))
    labels = LabelScheme(
        class_names=("background", "edge", "core"),
        class_values=(0, 1, 2),
        regions=regions,
        region_order=(1, 2),
        ignore_value=9,
        num_entries=4,
    )
    shape = (8, 20, 20)
    classes = box(shape, (1, 5, 5))
    classes[6] = 3  # ignored
    example = draw(classes, np.where(classes == 3, 0, classes), ras(shape, (3.0, 1.0, 1.0)), labels)
    assert example.where in {f"axial slice {number} of 8" for number in range(2, 6)}
    assert set(example.scores) == {"whole", "core"}


def test_a_planar_image_is_shown_as_it_is() -> None:
    shape = (1, 20, 40)
    classes = box((4, 20, 40), (0, 2, 2))[:1]
    example = draw(classes, classes, ras(shape, (999.0, 1.0, 1.0), planar=True))
    bright = np.argwhere(pixels(example).min(axis=2) > 0.5)
    assert example.where == "the image"
    assert bright[:, 1].max() < pixels(example).shape[1] / 2


def test_cases_are_picked_from_both_ends_without_repeating() -> None:
    _, classes, geometry = make_phantom(0, 0)
    score = score_case(classes, classes, LABELS, geometry)
    worse = score_case(flawed(classes, geometry, 1), classes, LABELS, geometry)
    evaluation = summarize("", {"good": score, "bad": worse})
    assert pick_cases(evaluation) == [("bad", "worst"), ("good", "worst")]
    many = summarize("", {**{f"good{n}": score for n in range(8)}, "bad": worse})
    picked = pick_cases(many)
    assert picked[0] == ("bad", "worst")
    assert len({case for case, _ in picked}) == len(picked) == 6
