"""Measurements by hand, against nnU-Net's sampling rule, and independent of the order of cases."""

import numpy as np
import pytest
from scipy import ndimage

from autoseg import fingerprinting
from autoseg.datasets.pairs import read_pair
from autoseg.fingerprinting import combine, measure_case
from autoseg.images.pictures import flat_geometry
from autoseg.images.volume import Volume
from autoseg.records.labels import LabelScheme
from tests.datasets.folders_on_disk import open_dataset

LABELS = LabelScheme(class_names=("background", "a", "b"), class_values=(0, 2, 7), num_entries=3)


def volumes(image, label, spacing=(4.0, 2.0, 1.0), planar=False):
    geometry = flat_geometry(label.shape, planar, spacing)
    image = image if image.ndim == 4 else image[None]
    return Volume(image, geometry, ("i",)), Volume(label[None], geometry, ("l",))


def random_case(seed, shape=(6, 7, 8), scale=1.0):
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 2, 7], shape, p=[0.6, 0.3, 0.1]).astype(np.int16)
    return volumes(rng.normal(50, 20 * scale, (2, *shape)).astype(np.float32), label)


def test_one_case_by_hand():
    image = np.zeros((4, 5, 6), np.float32)
    image[1:3, 1:4, 2:6] = 1.0
    label = np.zeros((4, 5, 6), np.uint8)
    label[1, 1, 2:4] = 2  # two voxels in a row
    label[2, 2, 4] = 2  # touches the row at a corner: the same component
    label[2, 3, 2] = 7
    label[1, 1, 5] = 7
    image[label == 2] = (3.0, 5.0, 7.0)
    measured = measure_case(*volumes(image, label), LABELS)
    case = measured.fingerprint
    assert case.shape == (4, 5, 6)
    assert case.shape_after_crop == (2, 3, 4)
    assert case.relative_size_after_crop == 24 / 120
    assert case.voxels_per_class == (115, 3, 2)
    assert case.components_per_class == (0, 1, 2)
    assert case.orientation == "RAS"
    assert (case.image_sha256, case.label_sha256) == (("i",), "l")
    statistics = combine({"x": measured}, LABELS, 1).foreground_intensity_properties_per_channel["0"]
    assert statistics.mean == pytest.approx((3 + 5 + 7 + 1 + 1) / 5)
    assert statistics.std == pytest.approx(np.std([3, 5, 7, 1, 1]))
    assert (statistics.min, statistics.median, statistics.max) == (1.0, 3.0, 7.0)
    imbalance = combine({"x": measured}, LABELS, 1).class_imbalance
    assert [(c.name, c.fraction_of_foreground, c.presence) for c in imbalance] == [("a", 0.6, 1.0), ("b", 0.4, 1.0)]
    assert imbalance[0].median_volume_mm3 == 3 * 8.0


def test_touching_classes_are_separate_components_and_ignored_voxels_are_in_none():
    scheme = LabelScheme(class_names=("background", "a", "b"), class_values=(0, 2, 7), ignore_value=9, num_entries=4)
    label = np.array([[[2, 7, 2, 9, 0]]], np.uint8)
    image = np.array([[[1, 2, 3, 1000, 5]]], np.float32)
    measured = measure_case(*volumes(image, label), scheme)
    assert measured.fingerprint.voxels_per_class == (1, 2, 1)
    assert measured.fingerprint.components_per_class == (0, 2, 1)
    assert combine({"x": measured}, scheme, 1).foreground_intensity_properties_per_channel["0"].max == 3.0


def test_components_agree_with_scipy():
    _, label = random_case(5, (10, 11, 12))
    measured = measure_case(*random_case(5, (10, 11, 12)), LABELS)
    for number, value in ((1, 2), (2, 7)):
        expected = ndimage.label(label.array[0] == value, np.ones((3, 3, 3)))[1]
        assert measured.fingerprint.components_per_class[number] == expected


def test_statistics_are_those_of_nnunets_sample():
    """nnU-Net draws equally many foreground voxels of each case with replacement and takes statistics of all."""
    cases = {f"c{i}": random_case(i, (12, 13 + i, 14), scale=1 + i) for i in range(4)}
    found = combine({k: measure_case(*v, LABELS) for k, v in cases.items()}, LABELS, 2)
    rng = np.random.default_rng(1234)
    for channel in range(2):
        drawn = np.concatenate(
            [rng.choice(image.array[channel][label.array[0] > 0], 400_000) for image, label in cases.values()]
        )
        statistics = found.foreground_intensity_properties_per_channel[str(channel)]
        width = float(drawn.std())
        assert statistics.mean == pytest.approx(float(drawn.mean()), abs=0.005 * width)
        assert statistics.std == pytest.approx(width, rel=0.005)
        assert statistics.median == pytest.approx(np.median(drawn), abs=0.02 * width)
        for value, percent in ((statistics.percentile_00_5, 0.5), (statistics.percentile_99_5, 99.5)):
            assert value == pytest.approx(np.percentile(drawn, percent), abs=0.05 * width)


def test_many_values_are_summarised_within_bounds(monkeypatch):
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(3, 1, 200_000)).astype(np.float32)
    summary = fingerprinting._intensities(values)
    assert len(summary.values) == 8192
    statistics = fingerprinting._statistics([summary])
    assert statistics.mean == pytest.approx(values.mean(dtype=np.float64))
    assert statistics.std == pytest.approx(values.std(dtype=np.float64), rel=1e-6)
    assert (statistics.min, statistics.max) == (values.min(), values.max())
    for value, percent in (
        (statistics.percentile_00_5, 0.5),
        (statistics.median, 50),
        (statistics.percentile_99_5, 99.5),
    ):
        assert value == pytest.approx(np.percentile(values, percent), rel=1e-3)
    monkeypatch.setattr(fingerprinting, "_MOST_SORTED", 50_000)
    thinned = fingerprinting._statistics([fingerprinting._intensities(values)])
    assert (thinned.mean, thinned.max) == (statistics.mean, statistics.max)
    assert thinned.median == pytest.approx(statistics.median, rel=0.02)


def test_the_order_of_cases_does_not_matter():
    measured = {f"c{i}": measure_case(*random_case(i), LABELS) for i in range(5)}
    assert combine(measured, LABELS, 2) == combine(dict(reversed(measured.items())), LABELS, 2)
    assert list(combine(dict(reversed(measured.items())), LABELS, 2).cases) == sorted(measured)


def test_no_foreground_at_all_and_planar_volume():
    image, label = np.ones((1, 4, 5), np.float32), np.zeros((1, 4, 5), np.uint8)
    empty = measure_case(*volumes(image, label), LABELS)
    assert empty.intensities == ()
    assert combine({"x": empty}, LABELS, 1).foreground_intensity_properties_per_channel["0"].std == 0.0
    assert [c.presence for c in combine({"x": empty}, LABELS, 1).class_imbalance] == [0.0, 0.0]
    label[0, 0, :2] = 2
    planar = measure_case(*volumes(image, label, (1.0, 0.5, 0.5), planar=True), LABELS)
    assert combine({"x": planar, "y": empty}, LABELS, 1).class_imbalance[0].median_volume_mm3 == 2 * 0.25


def test_real_case_against_plain_numpy(shared_data):
    dataset = open_dataset(shared_data / "Task04_Hippocampus")
    image, label = read_pair(dataset, dataset.training[0])
    found = combine({"x": measure_case(image, label, dataset.labels)}, dataset.labels, 1)
    values = image.array[0][label.array[0] > 0].astype(np.float64)
    statistics = found.foreground_intensity_properties_per_channel["0"]
    assert statistics.mean == pytest.approx(values.mean())
    assert statistics.std == pytest.approx(values.std())
    low, high = np.percentile(values, (0.5, 99.5), method="inverted_cdf")
    assert (statistics.percentile_00_5, statistics.percentile_99_5) == (low, high)
