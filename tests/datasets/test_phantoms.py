"""Phantoms: deterministic, with every class, in every orientation the same body."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from autoseg.datasets.phantom_shapes import CLASSES, LEFT_KIDNEY, LESION, LIVER, RIGHT_KIDNEY, draw_anatomy
from autoseg.datasets.phantoms import make_phantom, write_phantoms
from autoseg.errors import UsageError
from autoseg.images.reading import read_image, read_label
from autoseg.records.geometry import Geometry

ORIENTATIONS = ("RAS", "LPS", "PIR", "ASL", "SRA")


def world_points(classes: np.ndarray, geometry: Geometry, label: int) -> np.ndarray:
    """World coordinates of the voxels of a class, sorted, in hundredths of a mm."""
    index = np.argwhere(classes == label)
    points = index @ geometry.matrix[:3, :3].T + geometry.matrix[:3, 3]
    rounded = np.round(points * 100).astype(int)
    return rounded[np.lexsort(rounded.T)]


def test_same_seed_same_voxels_and_other_seed_other_voxels() -> None:
    first, again, other = make_phantom(7, 3), make_phantom(7, 3), make_phantom(8, 3)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert first[2] == again[2]
    assert first[0].shape != other[0].shape or not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("number", range(6))
def test_every_organ_is_there_and_lesions_where_promised(number: int) -> None:
    image, classes, geometry = make_phantom(1, number)
    volumes = {label: (classes == label).sum() * geometry.voxel_volume_mm3 for label in range(1, len(CLASSES))}
    assert all(volumes[organ] > 1000 for organ in (LIVER, LEFT_KIDNEY, RIGHT_KIDNEY))
    assert (volumes[LESION] > 0) == (number % 4 != 2)
    assert image.shape == classes.shape == geometry.shape
    assert image.min() < -900
    assert image.max() > 200


def test_sides_are_the_patients_sides() -> None:
    for number in range(8):
        _, classes, geometry = make_phantom(2, number)
        assert world_points(classes, geometry, LEFT_KIDNEY)[:, 0].mean() < 0
        assert world_points(classes, geometry, RIGHT_KIDNEY)[:, 0].mean() > 0


@pytest.mark.parametrize("number", [0, 1])
def test_orientation_of_the_file_does_not_change_the_body(number: int) -> None:
    _, expected, geometry = make_phantom(3, number, orientation=ORIENTATIONS[0])
    for orientation in ORIENTATIONS[1:]:
        _, classes, other = make_phantom(3, number, orientation=orientation)
        assert other.voxel_volume_mm3 == pytest.approx(geometry.voxel_volume_mm3)
        for label in range(1, len(CLASSES)):
            mine, same = world_points(expected, geometry, label), world_points(classes, other, label)
            assert abs(len(mine) - len(same)) <= 2, "rounding may move a voxel that lies exactly on a surface"
            assert np.abs(mine.mean(axis=0) - same.mean(axis=0)).max() < 5


def test_every_fourth_case_is_oblique() -> None:
    for number in range(4):
        _, _, geometry = make_phantom(4, number)
        directions = geometry.matrix[:3, :3] / np.array(geometry.spacing_mm)
        assert np.allclose(directions.T @ directions, np.eye(3), atol=1e-6)
        largest = np.abs(directions).max(axis=0)
        assert (largest.min() < 0.999) == (number == 1)


def test_spacing_is_anisotropic_and_varies() -> None:
    grids = [make_phantom(5, number, orientation="LPS")[2] for number in range(3)]
    assert all(1.7 < grid.spacing_mm[0] / grid.spacing_mm[2] < 2.5 for grid in grids)
    assert len({grid.spacing_mm for grid in grids}) == 3


def test_intensities_tell_tissue_but_not_lesion_from_distractor() -> None:
    image, classes, _ = make_phantom(6, 0)
    assert np.median(image[classes == LIVER]) > np.median(image[classes == LESION]) + 30
    anatomy = [shape for number in range(40) for shape in draw_anatomy(np.random.default_rng(number), True)]
    blobs = [shape for shape in anatomy if max(shape.semi_axes_mm) < 10.5 and 20 < shape.hounsfield < 75]
    lesions = [shape.hounsfield for shape in blobs if shape.label == LESION]
    distractors = [shape.hounsfield for shape in blobs if shape.label != LESION]
    assert abs(np.mean(lesions) - np.mean(distractors)) < 3
    assert len(distractors) > len(lesions) / 2


def test_a_folder_is_written_once_and_completely(tmp_path: Path) -> None:
    out = write_phantoms(tmp_path / "Task90_Phantoms", num_cases=2, seed=11)
    content = json.loads((out / "dataset.json").read_text())
    assert content["numTraining"] == len(content["training"]) == 2
    assert content["numTest"] == len(content["test"]) == 2
    assert len(list((out / "labelsTs").iterdir())) == 2
    image, classes, geometry = make_phantom(11, 1)
    stored = read_image([out / content["training"][1]["image"]])
    assert np.array_equal(stored.array[0], image)
    assert np.allclose(stored.geometry.matrix, geometry.matrix, atol=1e-4)
    assert np.array_equal(read_label(out / content["training"][1]["label"]).array[0], classes)

    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.rglob("*.gz")}
    stamps = {path: path.stat().st_mtime_ns for path in before}
    write_phantoms(out, num_cases=2, seed=11)
    assert stamps == {path: path.stat().st_mtime_ns for path in out.rglob("*.gz")}
    with pytest.raises(UsageError, match="not empty"):
        write_phantoms(out, num_cases=2, seed=12)


def test_stopped_half_way_nothing_is_left_and_the_next_call_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("autoseg.datasets.phantoms.write_label", stop)
        with pytest.raises(KeyboardInterrupt):
            write_phantoms(tmp_path / "data" / "Phantoms", num_cases=1, seed=0, two_d=True)
    assert list((tmp_path / "data").iterdir()) == []
    out = write_phantoms(tmp_path / "data" / "Phantoms", num_cases=1, seed=0, two_d=True)
    assert len(list(out.glob("images*/*.nii.gz"))) == 3


def test_two_d_cases_are_single_slices(tmp_path: Path) -> None:
    out = write_phantoms(tmp_path / "slices", num_cases=4, seed=0, two_d=True)
    present: set[int] = set()
    for path in sorted((out / "labelsTr").iterdir()):
        label = read_label(path)
        assert label.array.shape[:2] == (1, 1)
        present |= set(np.unique(label.array).tolist())
    assert present == set(range(len(CLASSES)))


def test_no_cases_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one"):
        write_phantoms(tmp_path, num_cases=0, seed=0)
