"""A random generator in, the ellipsoids of one small abdomen out: where they lie, how bright they are, their class.

The anatomy is made so that each part of the system has something to do: two kidneys that only position tells
apart (left/right label swap), a liver with a rare and small class inside it (lesions), and distractors that look
like lesions voxel by voxel but lie in the spleen, in a kidney or loose in the fat, so that a classifier of
components has false positives to learn from. Everything is about a third of an adult's size, which keeps a
case at 150 000 voxels while the spacing stays that of a real CT.

World coordinates are RAS+ in mm: the patient's right is positive x, front positive y, head positive z; the origin
is the middle of the body.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoseg.records.geometry import Triple

CLASSES = ("background", "liver", "left kidney", "right kidney", "lesion")
LIVER, LEFT_KIDNEY, RIGHT_KIDNEY, LESION = 1, 2, 3, 4
AIR_HU = -1000.0


@dataclass(frozen=True)
class Ellipsoid:
    """One homogeneous body part. Later ones are painted over earlier ones."""

    centre_mm: Triple
    """World x, y, z."""
    semi_axes_mm: Triple
    """Half extents along the ellipsoid's own axes."""
    rotation: npt.NDArray[np.float64]
    """3 x 3, from its own axes to world axes."""
    hounsfield: float
    label: int
    """Class painted where it lies; 0 erases what was there, since it is a different thing."""
    inside: int | None = None
    """Index of the ellipsoid that it cannot leave (a lesion stays in its liver)."""


def rotation_matrix(angles_degrees: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Rotation by three angles about x, then y, then z (3 x 3, acting on column vectors x y z)."""
    cos, sin = np.cos(np.radians(angles_degrees)), np.sin(np.radians(angles_degrees))
    about_x = np.array([[1, 0, 0], [0, cos[0], -sin[0]], [0, sin[0], cos[0]]])
    about_y = np.array([[cos[1], 0, sin[1]], [0, 1, 0], [-sin[1], 0, cos[1]]])
    about_z = np.array([[cos[2], -sin[2], 0], [sin[2], cos[2], 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x, dtype=np.float64)


def draw_anatomy(rng: np.random.Generator, with_lesions: bool) -> tuple[Ellipsoid, ...]:
    """Draw one subject.

    Args:
        rng: source of all variation.
        with_lesions: whether the liver has 1 to 4 lesions; distractors are drawn in any case.

    Returns:
        Ellipsoids in painting order.
    """
    scale = rng.uniform(0.92, 1.06)
    shapes: list[Ellipsoid] = []

    def add(
        centre: Triple, semi_axes: Triple, hounsfield: float, label: int = 0, inside: int | None = None, tilt: float = 8
    ) -> int:
        """Append one part, its place, size, tilt and brightness varied by a few per cent; return its index."""
        middle = scale * (np.array(centre) + rng.uniform(-1.5, 1.5, 3))
        half = scale * np.array(semi_axes) * rng.uniform(0.92, 1.08, 3)
        turn = rotation_matrix(rng.uniform(-tilt, tilt, 3))
        brightness = hounsfield + rng.normal(0, 6)
        shapes.append(Ellipsoid(_triple(middle), _triple(half), turn, float(brightness), label, inside))
        return len(shapes) - 1

    add((0, 0, 0), (47, 40, 90), 45, tilt=2)  # body wall
    add((0, 2, 0), (41, 33, 90), -95, tilt=2)  # abdominal fat
    add((0, -24, 0), (8, 9, 90), 330, tilt=3)  # spine
    add((0, -34, 0), (3, 6, 90), 400, tilt=3)  # spinous processes
    add((0, -13, 0), (3.5, 3.5, 90), 150, tilt=5)  # aorta
    add((22, 2, 44), (17, 22, 26), -820)  # bases of the lungs
    add((-22, 2, 44), (17, 22, 26), -820)
    liver = add((19, 8, 8), (20, 17, 23), 108, LIVER)
    spleen = add((-25, 2, 10), (11, 14, 18), 112)
    kidneys = [
        add((-18, -15, -6), (7.5, 8, 14), 175, LEFT_KIDNEY),
        add((18, -16, -9), (7.5, 8, 14), 175, RIGHT_KIDNEY),
    ]
    for _ in range(int(rng.integers(1, 5)) if with_lesions else 0):
        place, size = _place_within(shapes[liver], rng), rng.uniform(3.8, 7.5)
        _add_blob(shapes, rng, place, size, LESION, liver)
    for organ, largest in ((spleen, 6.5), (int(rng.choice(kidneys)), 4.5)):
        for _ in range(int(rng.integers(0, 3))):
            place, size = _place_within(shapes[organ], rng), rng.uniform(3.5, largest)
            _add_blob(shapes, rng, place, size, shapes[organ].label, organ)
    for _ in range(int(rng.integers(1, 4))):  # loops of bowel, loose in the fat in front
        place = scale * rng.uniform((-28, 12, -32), (28, 26, -14))
        _add_blob(shapes, rng, place, rng.uniform(4, 8), 0, None)
    return tuple(shapes)


def _place_within(organ: Ellipsoid, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A world point in the inner 70 % (by radius) of an organ, uniform in volume."""
    direction = rng.normal(size=3)
    radius = 0.7 * rng.uniform() ** (1 / 3) / np.linalg.norm(direction)
    local = direction * radius * np.array(organ.semi_axes_mm)
    return np.asarray(organ.centre_mm + organ.rotation @ local, dtype=np.float64)


def _add_blob(
    shapes: list[Ellipsoid],
    rng: np.random.Generator,
    centre: npt.NDArray[np.float64],
    radius_mm: float,
    label: int,
    inside: int | None,
) -> None:
    """Append a lesion or a distractor: one distribution of looks for both, only the place differs."""
    half = radius_mm * rng.uniform(0.8, 1.25, 3)
    turn = rotation_matrix(rng.uniform(-90, 90, 3))
    shapes.append(Ellipsoid(_triple(centre), _triple(half), turn, float(rng.normal(48, 7)), label, inside))


def _triple(values: npt.NDArray[np.float64]) -> Triple:
    a, b, c = (float(v) for v in values)
    return (a, b, c)
