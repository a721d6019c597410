"""Back to the file's grid: exact geometry, slab-wise equals whole, labels and probabilities agree."""

from itertools import permutations, product

import numpy as np
import pytest
import torch

from autoseg.inference.export import (
    head_values,
    native_windows,
    previous_stage_labels,
    to_disagreement,
)
from autoseg.inference.probability_reader import labels_from_probabilities
from autoseg.inference.store import (
    probability_writer,
    read_disagreement,
    read_meta,
    read_probabilities,
)
from autoseg.records.geometry import Geometry
from autoseg.records.labels import LabelScheme, Target
from autoseg.records.results import PreprocessedCase
from autoseg.spatial import linear
from autoseg.spatial.linear import linear_windows
from autoseg.spatial.orientation import Turn, turn, turned
from autoseg.spatial.resampling import separate_axis
from autoseg.storage.arrays import read_array
from tests.inference.whole import (
    in_memory,
    native_labels,
    native_probabilities,
    write_disagreement,
    write_probabilities,
)
from tests.spatial.threads import torch_threads
from tests.spatial.whole import resample_linear

CLASSES = LabelScheme(class_names=("background", "a", "b"), class_values=(0, 1, 2), num_entries=3)
REGIONS = CLASSES.model_copy(
    update={
        "regions": (Target(name="whole", members=(1, 2)), Target(name="core", members=(2,))),
        "region_order": (1, 2),
    }
)
FILE_SHAPE, SPACING = (9, 11, 7), (2.0, 1.0, 1.5)


def meta_for(
    axes=(0, 1, 2), flips=(False, False, False), crop=((0, 9), (0, 11), (0, 7)), shape=None, spacing=None
) -> PreprocessedCase:
    crop_shape = tuple(stop - start for start, stop in crop)
    before = turned(SPACING, axes)
    return PreprocessedCase(
        id="case",
        geometry=Geometry(
            shape=FILE_SHAPE, spacing_mm=SPACING, affine=((0, 0, 1.5, 5), (0, 1.0, 0, -3), (2.0, 0, 0, 4))
        ),
        axes=axes,
        flips=flips,
        crop=crop,
        shape_before_crop=turned(FILE_SHAPE, axes),
        spacing_before_mm=before,
        shape=shape or crop_shape,
        spacing_mm=spacing or before,
    )


def logits_for(shape, num_heads: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn((num_heads, *shape), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("axes", list(permutations(range(3))))
@pytest.mark.parametrize("flips", [f for f in product((False, True), repeat=3) if sum(f) != 1])
def test_turned_back_to_the_file(axes, flips) -> None:
    truth = np.random.default_rng(1).integers(0, 3, FILE_SHAPE).astype(np.int16)
    on_grid = np.ascontiguousarray(turn(truth, Turn(axes, flips)))
    logits = torch.nn.functional.one_hot(torch.from_numpy(on_grid).long(), 3).movedim(-1, 0).float()
    meta = meta_for(axes, flips, crop=tuple((0, n) for n in on_grid.shape))
    found = native_labels(logits, meta, CLASSES)
    np.testing.assert_array_equal(found, truth)
    assert found.dtype == np.int16
    assert found.flags.c_contiguous


def test_outside_the_crop_is_background() -> None:
    meta = meta_for(crop=((2, 5), (1, 9), (3, 6)))
    found = native_labels(torch.tensor([0.0, 1.0, 0.5])[:, None, None, None].expand(3, 3, 8, 3), meta, CLASSES)
    assert found[2:5, 1:9, 3:6].min() == 1
    assert found.sum() == 3 * 8 * 3


@pytest.mark.parametrize("labels", [CLASSES, REGIONS])
@pytest.mark.parametrize("spacing", [(3.0, 1.7, 1.5), (0.9, 0.6, 1.0), (9.0, 1.0, 1.5)])
def test_slabs_equal_the_whole(labels: LabelScheme, spacing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written plainly: resample all heads at once, then decide."""
    meta = meta_for(shape=(6, 9, 8), spacing=spacing)
    logits = logits_for((6, 9, 8), labels.num_heads)
    whole = resample_linear(logits, FILE_SHAPE, separate_axis(spacing, SPACING))
    if labels.has_regions:
        wanted = torch.where(whole[1] > 0, 2, torch.where(whole[0] > 0, 1, 0))
    else:
        wanted = whole.argmax(0)
    monkeypatch.setattr(linear, "_STRIP_VOXELS", 3 * 11 * 7)
    np.testing.assert_array_equal(native_labels(logits, meta, labels), wanted.numpy())


@pytest.mark.parametrize("labels", [CLASSES, REGIONS])
def test_probabilities_give_the_same_labels(labels: LabelScheme) -> None:
    """Only where float16 cannot tell two heads (or a region and one half) apart may labels differ."""
    meta = meta_for((2, 0, 1), (True, False, True), crop=((1, 7), (0, 9), (2, 10)), shape=(4, 11, 6))
    logits = logits_for((4, 11, 6), labels.num_heads, seed=3) * 4
    probabilities = native_probabilities(logits, meta, labels)
    assert probabilities.dtype == np.float16
    assert probabilities.shape == (labels.num_heads, 6, 9, 8)
    if not labels.has_regions:
        np.testing.assert_allclose(probabilities.astype(float).sum(0), 1, atol=2e-3)
    direct = native_labels(logits, meta, labels)
    stored = labels_from_probabilities([in_memory(probabilities)], meta, labels)
    ordered = np.sort(probabilities.astype(float), axis=0)
    margin = np.abs(probabilities.astype(float) - 0.5).min(0) if labels.has_regions else ordered[-1] - ordered[-2]
    tied = np.zeros(meta.shape_before_crop, bool)
    tied[1:7, 0:9, 2:10] = margin < 1e-3
    differs = turn(direct != stored, Turn(meta.axes, meta.flips))
    assert not (differs & ~tied).any()
    assert tied.sum() < 20


def test_mean_of_several() -> None:
    meta = meta_for()
    first, second = (native_probabilities(logits_for(FILE_SHAPE, seed=s), meta, CLASSES) for s in (1, 2))
    mean = (first.astype(np.float32) + second.astype(np.float32)) / 2
    one, two = in_memory(first), in_memory(second)
    np.testing.assert_array_equal(labels_from_probabilities([one, two], meta, CLASSES), mean.argmax(0))
    np.testing.assert_array_equal(
        labels_from_probabilities([one, one], meta, CLASSES), labels_from_probabilities([one], meta, CLASSES)
    )


def test_ties_go_to_the_first_head() -> None:
    found = native_labels(torch.zeros((3, *FILE_SHAPE)), meta_for(), CLASSES)
    assert not found.any()
    assert not native_labels(torch.zeros((2, *FILE_SHAPE)), meta_for(), REGIONS).any()


def test_regions_are_painted_in_order() -> None:
    logits = torch.full((2, *FILE_SHAPE), 1.0)
    logits[1, :, :, 3:] = -1.0
    found = native_labels(logits, meta_for(), REGIONS)
    assert set(np.unique(found[..., :3])) == {2}
    assert set(np.unique(found[..., 3:])) == {1}


def test_previous_stage_on_the_next_grid() -> None:
    """On the crop's own grid the answer is the segmentation itself; a finer grid keeps its volume."""
    coarse = meta_for(crop=((1, 7), (0, 10), (1, 7)), shape=(3, 5, 3), spacing=(4.0, 2.0, 3.0))
    probabilities = native_probabilities(logits_for((3, 5, 3)) * 5, coarse, CLASSES)
    same = coarse.model_copy(update={"shape": (6, 10, 6), "spacing_mm": SPACING})
    found = previous_stage_labels([torch.from_numpy(probabilities)], coarse, same, CLASSES)
    native = labels_from_probabilities([in_memory(probabilities)], coarse, CLASSES)
    np.testing.assert_array_equal(found, native[1:7, 0:10, 1:7])
    fine = coarse.model_copy(update={"shape": (12, 20, 12), "spacing_mm": (1.0, 0.5, 0.75)})
    finer = previous_stage_labels([torch.from_numpy(probabilities)], coarse, fine, CLASSES)
    assert finer.shape == (12, 20, 12)
    assert (finer == 1).mean() == pytest.approx((found == 1).mean(), abs=0.03)


def test_stored_probabilities_come_back(tmp_path) -> None:
    meta = meta_for()
    probabilities = native_probabilities(logits_for(FILE_SHAPE), meta, CLASSES)
    write_probabilities(tmp_path, meta, probabilities)
    assert read_disagreement(tmp_path, meta.id) is None
    disagreement = (np.arange(probabilities[0].size) % 256).astype(np.uint8).reshape(probabilities[0].shape)
    write_disagreement(tmp_path, meta, disagreement)
    np.testing.assert_array_equal(read_disagreement(tmp_path, meta.id), disagreement)
    np.testing.assert_array_equal(read_disagreement(tmp_path, meta.id, slice(1, 3)), disagreement[1:3])
    np.testing.assert_array_equal(read_probabilities(tmp_path, "case"), probabilities)
    np.testing.assert_array_equal(read_probabilities(tmp_path, "case", slice(2, 5)), probabilities[:, 2:5])
    assert read_meta(tmp_path, "case") == meta


def test_labels_are_made_from_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 rows to 300: when a window comes, no more rows were asked for than it needs, and none it needs no more."""
    monkeypatch.setattr(linear, "_STRIP_VOXELS", 1)
    asked: list[torch.Tensor] = []

    def parts():
        for number in range(100):
            asked.append(torch.full((2, 1, 3, 3), float(number)))
            yield asked[-1]

    for number, window in enumerate(linear_windows(parts(), (100, 3, 3), (300, 3, 3))):
        assert window.where == slice(number, number + 1)
        assert sum(part.shape[1] for part in window.parts) <= 2
        assert len(asked) <= number // 3 + 2
        expected = min(max((number + 0.5) / 3 - 0.5, 0), 99)
        torch.testing.assert_close(window.values()[0, 0, 0, 0], torch.tensor(float(expected)), rtol=1e-5, atol=1e-5)
    assert len(asked) == 100


def test_parts_that_are_not_the_volume_are_refused() -> None:
    with pytest.raises(AssertionError, match="10 rows came, the volume has 5"):
        list(linear_windows([torch.zeros(1, 5, 2, 2)] * 2, (5, 2, 2), (7, 2, 2)))


@pytest.mark.parametrize("separate", [None, 0])
def test_rows_that_no_window_needs_are_drawn_all_the_same(separate: int | None) -> None:
    """Ten rows to two: a network is asked for all of its rows, and what it finds wrong with the last is not missed."""
    drawn = []
    parts = (drawn.append(row) or torch.full((1, 1, 2, 2), float(row)) for row in range(10))
    windows = list(linear_windows(parts, (10, 2, 2), (2, 2, 2), separate, depth=1))
    assert len(windows) == 2
    assert drawn == list(range(10))


def test_disagreement_is_the_channel_after_the_heads() -> None:
    meta = meta_for()
    logits = torch.cat([logits_for(FILE_SHAPE), torch.linspace(0, 1, 9).view(1, 9, 1, 1).expand(1, *FILE_SHAPE)])
    (window,) = native_windows([logits], meta)
    found = to_disagreement(window, 3)
    np.testing.assert_array_equal(found[:, 0, 0], [0, 32, 64, 96, 128, 159, 191, 223, 255])
    assert to_disagreement(next(native_windows([logits[:3]], meta)), 3) is None
    np.testing.assert_array_equal(native_labels(logits, meta, CLASSES), native_labels(logits[:3], meta, CLASSES))


def test_probabilities_are_written_window_by_window(tmp_path) -> None:
    meta = meta_for()
    probabilities = native_probabilities(logits_for(FILE_SHAPE), meta, CLASSES)
    with probability_writer(tmp_path / "some.b2nd", 3, meta) as put:
        for start, stop in ((0, 2), (2, 7), (7, 9)):
            put(slice(start, stop), probabilities[:, start:stop])
        assert not (tmp_path / "some.b2nd").exists()
    np.testing.assert_array_equal(read_array(tmp_path / "some.b2nd"), probabilities)
    with (
        pytest.raises(AssertionError, match="not the box"),
        probability_writer(tmp_path / "other.b2nd", 3, meta) as put,
    ):
        put(slice(0, 3), probabilities[:, :2])
    assert [path.name for path in tmp_path.iterdir()] == ["some.b2nd"]


def test_heads_of_a_window_are_resampled_alike_in_strips_and_by_any_number_of_threads(monkeypatch) -> None:
    """Without the channel after them, and also in half precision."""
    rows = torch.randn((4, 9, 20, 30), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(linear, "_STRIP_VOXELS", 2**9)
    for source in (rows, rows.half()):
        for shape in ((15, 33, 41), (9, 20, 30), (5, 11, 70)):
            (window,) = linear_windows([source], (9, 20, 30), shape, depth=shape[0])
            assert len(list(window.strips())) > 2
            found = []
            for threads in (1, 2, 3):
                with torch_threads(threads):
                    found.append(head_values(window, 3))
            torch.testing.assert_close(found[0], window.values(slice(0, 3)), atol=2e-6, rtol=0)
            assert all(torch.equal(other, found[0]) for other in found)
