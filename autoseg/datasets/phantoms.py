"""A number of cases and a seed in, a Decathlon-format folder of small synthetic abdominal CTs out.

What a learner of the demo, and the tests, need from data without any data being shipped: several classes, a rare
one, left/right pairs, distractors, lesion-free cases, anisotropic spacing that varies, oblique grids, files whose
axes run differently. A case is drawn by its own generator, seeded by (seed, case), so that the first cases of a
folder do not depend on how many follow.

Rendering goes from world to grid: the voxel centres' world coordinates are computed from the affine, bent by a
smooth random field, and tested against ellipsoids. Orientation and obliqueness therefore are nothing but the affine.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from autoseg.console import track
from autoseg.datasets.phantom_shapes import AIR_HU, CLASSES, LESION, Ellipsoid, draw_anatomy, rotation_matrix
from autoseg.errors import UsageError
from autoseg.images.writing import write_image, write_label
from autoseg.records.geometry import Geometry, IntTriple, Triple, affine_rows
from autoseg.storage.atomic import filled_folder, write_text

FloatArray = npt.NDArray[np.floating[Any]]

FIELD_OF_VIEW_MM: Triple = (84.0, 104.0, 112.0)
"""Extent of the grid along superior, anterior, right."""
ORIENTATIONS = ("LPS", "RAS", "LPS", "LAS", "RAS", "LPS", "PIR", "RPI")
"""Axis codes of consecutive cases; `PIR` is a sagittal acquisition, whose slices do not lie on the z axis."""
_SUPERIOR_ANTERIOR_RIGHT = {"S": 0, "I": 0, "A": 1, "P": 1, "R": 2, "L": 2}


def write_phantoms(out: Path, num_cases: int, seed: int, two_d: bool = False) -> Path:
    """Write `num_cases` training cases and a quarter as many test cases (at least two).

    Every fourth case has no lesion, every fourth lies oblique. `labelsTs` holds the labels of the test cases, which
    `dataset.json` does not mention. Two-dimensional cases are NIfTI volumes of one slice, since the Decathlon
    format is NIfTI. The same arguments write the same voxels.

    Args:
        out: folder to write; missing or empty, or written by the same call before, in which case nothing is done.
        num_cases: training cases, at least 1.
        seed: seed of everything that varies.
        two_d: one axial slice through the liver a case instead of a volume.

    Returns:
        `out`.

    Raises:
        UsageError: `num_cases` is below 1, or `out` holds something else.
        ResourceError: the folder cannot be written to.
    """
    if num_cases < 1:
        raise UsageError(f"--cases {num_cases}: at least one case is needed.")
    num_test = max(2, num_cases // 4)
    names = [f"phantom_{number:03d}" for number in range(num_cases + num_test)]
    content = json.dumps(_dataset_json(names[:num_cases], names[num_cases:], seed, two_d), indent=1)
    description = out / "dataset.json"
    if description.is_file() and description.read_text("utf-8") == content:
        return out
    if out.is_dir() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty and does not hold these phantoms: name another folder or delete it.")
    with filled_folder(out) as folder:  # stopped half-way it leaves nothing that a second call would stumble over
        for number, name in enumerate(track(names, len(names), "drawing phantoms")):
            image, classes, geometry = make_phantom(seed, number, two_d)
            part = "Tr" if number < num_cases else "Ts"
            path = folder / f"images{part}" / f"{name}.nii.gz"
            write_image(path, image[None], geometry)
            write_label(folder / f"labels{part}" / f"{name}.nii.gz", classes, geometry, like=path)
        write_text(folder / description.name, content)
    return out


def make_phantom(
    seed: int, number: int, two_d: bool = False, orientation: str | None = None
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8], Geometry]:
    """Draw one case.

    Args:
        seed: seed of the dataset.
        number: number of the case; decides lesions, obliqueness and orientation, and seeds the rest.
        two_d: one axial slice instead of a volume.
        orientation: axis codes of the file's x, y, z axes; default: by `number`. A slice is always `LPS`.

    Returns:
        Hounsfield units Z Y X, classes Z Y X (numbers of `CLASSES`), and their grid.
    """
    rng = np.random.default_rng([seed, number])
    anatomy = draw_anatomy(rng, with_lesions=number % 4 != 2)
    bend = rng.uniform(0, 2 * np.pi, (3, 3)), rng.uniform(0.5, 1.6, (3, 3))
    tilt = rotation_matrix(rng.uniform(6, 18, 3) * rng.choice([-1, 1], 3))
    in_plane = rng.uniform(1.4, 1.6)
    spacing = np.array([rng.uniform(2.7, 3.4), in_plane, in_plane])
    shape = np.round(np.array(FIELD_OF_VIEW_MM) / spacing).astype(int)
    if two_d:
        shape[0] = 1
    codes = "LPS" if two_d else orientation or ORIENTATIONS[number % len(ORIENTATIONS)]
    height_mm = _slice_height(anatomy) if two_d else 0.0
    geometry = _grid(shape, spacing, tilt if number % 4 == 1 and not two_d else np.eye(3), codes, height_mm)
    image, classes = _render(anatomy, geometry, bend)
    sigma = rng.uniform(10, 22)
    noise = ndimage.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), (0.3, 0.6, 0.6))
    image += noise * (sigma / noise.std())
    return np.clip(np.round(image), -1024, 3071).astype(np.int16), classes, geometry


def _slice_height(anatomy: tuple[Ellipsoid, ...]) -> float:
    """World z of the axial slice through the first lesion, or as near to it as still cuts both kidneys."""
    heights = [shape.centre_mm[2] for shape in anatomy if shape.label == LESION]
    return float(np.clip(heights[0] if heights else -5.0, -10.0, 2.0))


def _grid(
    shape: npt.NDArray[Any], spacing: npt.NDArray[Any], tilt: npt.NDArray[Any], codes: str, height_mm: float
) -> Geometry:
    """The grid centred `height_mm` above the world's origin whose file axes x, y, z run along `codes`, tilted.

    `shape` and `spacing` are given along superior, anterior, right.
    """
    letters = codes[::-1]  # array axes z, y, x
    sources = [_SUPERIOR_ANTERIOR_RIGHT[letter] for letter in letters]
    matrix = np.eye(4)
    for axis, (letter, source) in enumerate(zip(letters, sources, strict=True)):
        direction = np.eye(3)[2 - source] * (1 if letter in "RAS" else -1)  # world order is right, anterior, superior
        matrix[:3, axis] = tilt @ direction * spacing[source]
    stored_shape = tuple(int(shape[source]) for source in sources)
    matrix[:3, 3] = (0, 0, height_mm) - matrix[:3, :3] @ ((np.array(stored_shape) - 1) / 2)
    stored_spacing = tuple(float(spacing[source]) for source in sources)
    return Geometry(shape=_int_triple(stored_shape), spacing_mm=_triple(stored_spacing), affine=affine_rows(matrix))


def _render(
    anatomy: tuple[Ellipsoid, ...], geometry: Geometry, bend: tuple[FloatArray, FloatArray]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Hounsfield units without noise and classes, both Z Y X.

    A voxel's class is that at its centre; its intensity is the mixture of what it contains (partial volume), from
    the distance of its centre to the surface over the voxel's extent across that surface.
    """
    columns = geometry.matrix.astype(np.float32)
    index = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in geometry.shape), indexing="ij", sparse=True)
    world = np.stack([sum(row[k] * index[k] for k in range(3)) + row[3] for row in columns[:3]])  # x y z, Z Y X
    world = _bent(world, *bend)
    image = np.full(geometry.shape, AIR_HU, dtype=np.float32)
    classes = np.zeros(geometry.shape, dtype=np.uint8)
    coverages: list[npt.NDArray[np.float32]] = []
    for shape in anatomy:
        coverage = _coverage(shape, world, columns[:3, :3])
        if shape.inside is not None:
            coverage = np.minimum(coverage, coverages[shape.inside])
        coverages.append(coverage)
        image += coverage * (np.float32(shape.hounsfield) - image)
        classes[coverage > 0.5] = shape.label
    return image, classes


def _coverage(
    shape: Ellipsoid, world: npt.NDArray[np.float32], columns: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Share of each voxel (Z Y X) that lies in the ellipsoid, 0 to 1; above 0.5 where its centre does.

    First-order distance to the surface: with q = |u / a| over the own axes, (1 - q) / |grad q|.
    """
    own = shape.rotation.T.astype(np.float32)
    centre, semi = np.array(shape.centre_mm, np.float32), np.array(shape.semi_axes_mm, np.float32)
    offset = world - centre[:, None, None, None]
    scaled = np.tensordot(own / semi[:, None], offset, axes=1)  # u / a, own axes first
    radius = np.maximum(np.sqrt(np.einsum("kzyx,kzyx->zyx", scaled, scaled)), np.float32(1e-3))
    # (grad q) . (voxel edge), summed over the three edges: how much q changes across one voxel.
    edges = (own @ columns) / semi[:, None]
    across = np.abs(np.tensordot(edges.T, scaled, axes=1)).sum(axis=0) / radius
    coverage: npt.NDArray[np.float32] = np.clip(0.5 + (1 - radius) / np.maximum(across, 1e-6), 0, 1)
    return coverage


def _bent(world: npt.NDArray[np.float32], phases: FloatArray, amplitudes: FloatArray) -> npt.NDArray[np.float32]:
    """World points moved by a smooth field of a few mm, so that no organ is an exact ellipsoid."""
    moved = world.copy()
    for axis in range(3):
        for other in range(3):
            wave = 2 * np.pi / (45.0 + 12.0 * other)  # wavelengths of 45 to 69 mm, longer than any lesion
            field = np.sin(np.float32(wave) * world[other] + np.float32(phases[axis, other]))
            moved[axis] += np.float32(amplitudes[axis, other]) * field
    return moved


def _dataset_json(training: list[str], test: list[str], seed: int, two_d: bool) -> dict[str, Any]:
    """The Decathlon description of the folder."""
    return {
        "name": "Phantoms",
        "description": f"Synthetic abdominal CT with lesions and distractors (autoseg phantoms, seed {seed})",
        "reference": "autoseg",
        "licence": "CC0",
        "release": "1.0",
        "tensorImageSize": "2D" if two_d else "3D",
        "modality": {"0": "CT"},
        "labels": {str(number): name for number, name in enumerate(CLASSES)},
        "numTraining": len(training),
        "numTest": len(test),
        "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in training],
        "test": [f"./imagesTs/{name}.nii.gz" for name in test],
    }


def _triple(values: tuple[float, ...]) -> Triple:
    a, b, c = values
    return (a, b, c)


def _int_triple(values: tuple[int, ...]) -> IntTriple:
    a, b, c = values
    return (a, b, c)
