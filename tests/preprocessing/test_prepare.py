from itertools import permutations, product

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from autoseg.errors import DataError
from autoseg.images.volume import Volume
from autoseg.preprocessing import prepare, statistics
from autoseg.spatial.cropping import box_slices, nonzero_mask
from autoseg.spatial.orientation import Turn, turn, turn_back
from autoseg.spatial.resampling import separate_axis
from autoseg.storage import large_arrays
from tests.preprocessing.cases import REGIONS, canonical_matrix, plan, prepare_case, stored_as, volume
from tests.spatial.whole import resample_image

TURNS = [Turn(axes, flips) for axes in permutations(range(3)) for flips in product((False, True), repeat=3)]


def example(shape=(6, 14, 11), channels=1):
    """Noise in a box inside air, with two labels."""
    rng = np.random.default_rng(0)
    image = np.zeros((channels, *shape), dtype=np.int16)
    image[:, 1:, 2:-1, 1:] = rng.integers(1, 400, (channels, shape[0] - 1, shape[1] - 3, shape[2] - 1))
    labels = np.zeros((1, *shape), dtype=np.int16)
    labels[0, 2:4, 4:9, 3:8] = 3
    labels[0, 4:6, 6:12, 2:5] = 700
    return image, labels


def oblique_case():
    matrix = canonical_matrix()
    matrix[:3, :3] = Rotation.from_rotvec([0.2, -0.15, 0.1]).as_matrix() @ matrix[:3, :3]
    image, labels = example()
    return volume(image, matrix), volume(labels, matrix)


@pytest.mark.parametrize("how", TURNS, ids=str)
def test_all_48_axis_orders_of_a_file_give_the_same_arrays(how):
    image, label = oblique_case()
    chosen = plan(spacing_mm=(2.5, 1.0, 1.0), transpose=(1, 0, 2))
    expected = prepare_case("x", image, label, chosen, "3d_fullres")
    found = prepare_case("x", stored_as(image, how), stored_as(label, how), chosen, "3d_fullres")
    np.testing.assert_array_equal(found.image, expected.image)
    np.testing.assert_array_equal(found.labels, expected.labels)
    for target in (0, 1):
        np.testing.assert_array_equal(found.locations[target], expected.locations[target])
    assert found.meta.crop == expected.meta.crop
    assert found.meta.shape_before_crop == expected.meta.shape_before_crop
    # and back: the turned file's array from the network's axes
    stored = stored_as(image, how).array
    there = Turn(found.meta.axes, found.meta.flips)
    np.testing.assert_array_equal(turn_back(turn(stored, there), there), stored)


def test_stored_orientation_keeps_the_files_axes():
    image, label = oblique_case()
    flipped = Turn((0, 1, 2), (False, True, False))
    chosen = plan(orientation="stored")
    a = prepare_case("x", image, label, chosen, "3d_fullres")
    b = prepare_case("x", stored_as(image, flipped), stored_as(label, flipped), chosen, "3d_fullres")
    assert a.meta.flips == b.meta.flips == (False, False, False)
    np.testing.assert_allclose(b.image, a.image[:, :, ::-1], atol=1e-4)


def test_without_resampling_by_hand():
    image, labels = example()
    chosen = plan(spacing_mm=(3.0, 0.7, 0.9))
    found = prepare_case(
        "x", volume(image, canonical_matrix()), volume(labels, canonical_matrix()), chosen, "3d_fullres"
    )
    box = (slice(1, None), slice(2, -1), slice(1, None))
    inside = image[(slice(None), *box)].astype(np.float64)
    np.testing.assert_allclose(found.image, (inside - inside.mean()) / inside.std(), atol=1e-5)
    np.testing.assert_array_equal(found.labels, np.select([labels == 3, labels == 700], [1, 2])[0][box])
    assert found.meta.crop == ((1, 6), (2, 13), (1, 11))
    assert found.meta.shape == found.image.shape[1:] == (5, 11, 10)
    assert found.meta.foreground_voxels == (2 * 5 * 5, 2 * 6 * 3)
    assert found.image.dtype == np.float32


def test_2d_keeps_the_distance_of_slices():
    image, label = oblique_case()
    found = prepare_case("x", image, label, plan(spacing_mm=(9.0, 1.4, 1.8)), "2d")
    assert found.meta.spacing_mm == (3.0, 1.4, 1.8)
    assert found.image.shape[1] == 5
    assert found.image.shape[2:] == (round(11 * 0.5), 5)


@pytest.mark.parametrize("spacing", [(3.0, 0.7, 0.9), (2.0, 1.0, 1.1), (4.0, 0.5, 0.9), (15.0, 1.0, 1.0)])
@pytest.mark.parametrize(("scheme", "masked"), [("ct", False), ("zscore", False), ("zscore", True), ("rescale", False)])
def test_slabs_and_files_give_what_the_whole_does(monkeypatch, spacing, scheme, masked):
    """Bit for bit: normalised as a whole and then resampled; in slabs of a row; in an array that lies in a file."""
    image, _ = example((23, 34, 29))
    case = stored_as(volume(image, canonical_matrix()), Turn((1, 2, 0), (True, False, True)))
    chosen = plan(spacing_mm=spacing, normalization=(scheme,), masked=masked)
    expected = prepare_case("x", case, None, chosen, "3d_fullres")
    values = turn(case.array, Turn(expected.meta.axes, expected.meta.flips))
    values = np.array(values[(0, *box_slices(expected.meta.crop))], dtype=np.float32, order="C")
    if scheme == "ct":
        values = (values.clip(-20, 180) - np.float32(40)) / np.float32(20)
    elif scheme == "rescale":
        values = (values - values.min()) / (values.max() - values.min())
    else:
        inside = nonzero_mask(values[None]) if masked else np.ones(values.shape, bool)
        values[inside] = (values[inside] - values[inside].mean()) / values[inside].std()
    axis = separate_axis((3.0, 0.7, 0.9), spacing)
    whole = resample_image(torch.from_numpy(values)[None], expected.meta.shape, axis)
    np.testing.assert_array_equal(expected.image, whole)
    monkeypatch.setattr(statistics, "PIECE", 128)
    monkeypatch.setattr(large_arrays, "available_memory_bytes", lambda: 1000)
    found = prepare_case("x", case, None, chosen, "3d_fullres")
    assert isinstance(found.image.base, np.memmap)
    np.testing.assert_array_equal(found.image, expected.image)


def test_mask_rule_leaves_zeros_outside():
    image, _ = example(channels=2)
    image[:, 3, 5, 5] = 0  # a hole belongs to the inside
    image[:, 1, 2, 1] = 0  # a corner of the box does not
    chosen = plan(spacing_mm=(3.0, 0.7, 0.9), normalization=("zscore", "zscore"), masked=True)
    found = prepare_case("x", volume(image, canonical_matrix()), None, chosen, "3d_fullres").image
    assert found[0, 0, 0, 0] == 0
    assert found[0, 2, 3, 4] < -1
    inside = np.ones(found.shape[1:], dtype=bool)
    inside[0, 0, 0] = False
    for channel in found:
        assert channel[inside].mean() == pytest.approx(0, abs=1e-5)
        assert channel[inside].std() == pytest.approx(1, abs=1e-5)


def test_background_outside_the_mask_is_marked_and_labels_there_stay():
    image, labels = example(channels=2)
    image[:, 1, 2, 1:3] = 0  # a corner of the box
    labels[0, 1, 2, 1:3] = 0, 3
    label = volume(labels, canonical_matrix())
    for masked in (True, False):
        chosen = plan(spacing_mm=(3.0, 0.7, 0.9), normalization=("zscore", "rescale"), masked=masked)
        found = prepare_case("x", volume(image, canonical_matrix()), label, chosen, "3d_fullres").labels
        assert found[0, 0, 0] == (-1 if masked else 0)
        assert found[0, 0, 1] == 1
        assert (found == -1).sum() == masked
    other = plan(spacing_mm=(3.0, 0.7, 0.9), normalization=("rescale", "none"), masked=True)
    assert prepare_case("x", volume(image, canonical_matrix()), label, other, "3d_fullres").labels.min() == 0


def test_case_without_label_and_regions_with_ignore():
    image, labels = example()
    chosen = plan(labels=REGIONS)
    alone = prepare_case("x", volume(image, canonical_matrix()), None, chosen, "3d_fullres")
    assert alone.labels is None
    assert alone.locations == {}
    labels = np.select([labels == 3, labels == 700], [1, 9]).astype(np.int16)
    found = prepare_case(
        "x", volume(image, canonical_matrix()), volume(labels, canonical_matrix()), chosen, "3d_fullres"
    )
    assert set(np.unique(found.labels)) == {0, 1, 3}
    assert found.meta.foreground_voxels[1] == 0


def test_one_slice_and_empty_image():
    flat = volume(np.arange(30, dtype=np.uint8).reshape(1, 1, 5, 6), canonical_matrix((999.0, 1.0, 1.0)))
    assert prepare_case("x", flat, None, plan(), "2d").image.shape == (1, 1, 5, 6)
    empty = volume(np.zeros((1, 4, 5, 6), dtype=np.int16), canonical_matrix((2.0, 1.0, 1.0)))
    for masked in (False, True):
        assert not prepare_case("x", empty, None, plan(masked=masked), "3d_fullres").image.any()


def test_a_coronal_planar_image_is_one_whole_slice():
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[0, 0, 1], [999, 0, 0], [0, 1, 0]])  # z, y, x as stored run along A, S, R
    flat = volume(np.arange(30, dtype=np.uint8).reshape(1, 1, 5, 6), matrix)
    flat = Volume(flat.array, flat.geometry.model_copy(update={"planar": True}))
    assert prepare_case("x", flat, None, plan(), "2d").image.shape == (1, 1, 5, 6)


def test_a_spacing_that_asks_for_more_than_the_memory_is_refused(monkeypatch):
    image, _ = example()
    thick = canonical_matrix() @ np.diag([10, 10, 1, 1])
    monkeypatch.setattr(prepare, "available_memory_bytes", lambda: 1000)
    with pytest.raises(DataError, match=r"case x: .* voxels \(z y x\) at the plan's spacing .* would need about"):
        prepare_case("x", volume(image, thick), None, plan(), "3d_fullres")
    prepare_case("x", volume(image, canonical_matrix()), None, plan(), "3d_fullres")  # large, but as it was drawn
    monkeypatch.setattr(prepare, "available_memory_bytes", lambda: 1 << 60)
    prepare_case("x", volume(image, thick), None, plan(), "3d_fullres")
    long = canonical_matrix() @ np.diag([1, 1, 1e5, 1])
    with pytest.raises(DataError, match="if that is wrong, correct the file"):
        prepare_case("x", volume(image, long), None, plan(), "3d_fullres")


def test_a_plan_with_schemes_for_other_channels_is_refused():
    image, _ = example()
    chosen = plan()
    two = {"normalization": ("none", "none"), "use_mask_for_norm": (False, False)}
    edited = {"3d_fullres": chosen.configurations["3d_fullres"].model_copy(update=two)}
    with pytest.raises(DataError, match="case x: the image has 1 channels, the plan normalises 2"):
        prepare_case(
            "x",
            volume(image, canonical_matrix()),
            None,
            plan().model_copy(update={"configurations": edited}),
            "3d_fullres",
        )


def test_errors_name_the_case():
    image, labels = example()
    matrix = canonical_matrix()
    with pytest.raises(DataError, match=r"case x: 2 channels.*expects 1"):
        prepare_case("x", volume(np.concatenate([image, image]), matrix), None, plan(), "3d_fullres")
    with pytest.raises(DataError, match=r"case x: values \[5\]"):
        prepare_case("x", volume(image, matrix), volume(np.where(labels == 3, 5, 0), matrix), plan(), "3d_fullres")
    broken = image.astype(np.float32)
    broken[0, 3, 5, 5] = np.nan
    with pytest.raises(DataError, match="case x: channel 0 has NaN"):
        prepare_case("x", volume(broken, matrix), None, plan(), "3d_fullres")
    with pytest.raises(DataError, match=r"case x: channel 0: .*RGB"):
        prepare_case("x", volume(image, matrix), None, plan(normalization=("rgb",)), "3d_fullres")
