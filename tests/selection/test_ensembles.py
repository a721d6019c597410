"""Ensembles: all subsets, and one pass over slabs equals averaging whole volumes."""

import numpy as np
import pytest

from autoseg.inference import export
from autoseg.metrics.overlap import confusion_matrix
from autoseg.records.labels import LabelScheme, Target
from autoseg.selection.ensembles import count_ensembles, subsets

TWO = LabelScheme(class_names=("background", "a", "b"), class_values=(0, 1, 2), num_entries=3)
REGIONS = TWO.model_copy(
    update={
        "regions": (Target(name="whole", members=(1, 2)), Target(name="core", members=(2,))),
        "region_order": (1, 2),
    }
)


def test_subsets_are_all_and_single_ones_come_first() -> None:
    assert subsets(["x", "y", "z"]) == [("x",), ("y",), ("z",), ("x", "y"), ("x", "z"), ("y", "z"), ("x", "y", "z")]


@pytest.mark.parametrize("labels", [TWO, REGIONS])
def test_one_pass_over_slabs_equals_whole_volumes(labels: LabelScheme, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    shape = (labels.num_heads, 7, 6, 5)
    volumes = {name: rng.random(shape).astype(np.float16) for name in ("x", "y", "z")}
    reference = rng.integers(0, 3, shape[1:])
    monkeypatch.setattr(export, "_VALUES_PER_SLAB", shape[0] * 6 * 5 * 3)  # slabs of three rows
    readers = {name: (lambda rows, v=v: v[:, rows]) for name, v in volumes.items()}
    found = count_ensembles(readers, shape, reference, labels)
    assert len(found) == 7
    for members, counts in found.items():
        mean = sum(volumes[name].astype(np.float32) for name in members) / len(members)
        if labels.has_regions:
            classes = np.where(mean[1] > 0.5, 2, np.where(mean[0] > 0.5, 1, 0))
        else:
            classes = mean.argmax(0)
        np.testing.assert_array_equal(counts, confusion_matrix(classes, reference, labels))


def test_segmentations_are_filled_only_when_asked_for() -> None:
    rng = np.random.default_rng(1)
    volumes = {name: rng.random((3, 4, 5, 6)).astype(np.float16) for name in ("x", "y")}
    reference = rng.integers(0, 3, (4, 5, 6))
    readers = {name: (lambda rows, v=v: v[:, rows]) for name, v in volumes.items()}
    segmentations: dict = {}
    count_ensembles(readers, (3, 4, 5, 6), reference, TWO, segmentations)
    assert set(segmentations) == {("x",), ("y",), ("x", "y")}
    np.testing.assert_array_equal(segmentations["y",], volumes["y"].argmax(0))
    mean = volumes["x"].astype(np.float32) + volumes["y"]
    np.testing.assert_array_equal(segmentations["x", "y"], mean.argmax(0))
