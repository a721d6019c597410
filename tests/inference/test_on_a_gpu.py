"""No tensor of the main memory meets one of a GPU, and nothing is waited for that need not be: seen without a GPU.

PyTorch's fake tensors have a device, a shape and no values: tensors of two devices cannot be combined, and whoever asks
for a value is told that there is none.
"""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from autoseg.inference import fold_predictions, labelling, memory
from autoseg.inference.export import to_probabilities
from autoseg.inference.labelling import logits_to_labels
from autoseg.inference.sliding_window import SlidingWindow, predict_rows
from autoseg.records.labels import LabelScheme
from autoseg.records.recipe import Mirroring
from autoseg.spatial.linear import Scratch, Taps, Window
from tests import fake_gpu
from tests.inference.test_labelling import scheme
from tests.networks.steps import spec_of

GPU = torch.device("meta")  # stands for one: builds of PyTorch without CUDA cannot index a tensor of "cuda"
BEFORE, AFTER = (4, 5, 6), (7, 8, 9)


def window(axes: tuple[int, ...], num_channels: int) -> Window:
    """Of two parts on the GPU, resampled along some axes."""
    z, y, x = (taps(AFTER[axis]) if axis in axes else None for axis in range(3))
    depth, height, _ = (AFTER[axis] if axis in axes else BEFORE[axis] for axis in range(3))
    parts = tuple(torch.empty(num_channels, rows, *BEFORE[1:], device=GPU) for rows in (1, 3))
    return Window(slice(0, depth), slice(0, height), parts, (z, y, x))


def taps(length: int) -> Taps:
    lower, upper = (torch.empty(length, dtype=torch.int64, device=GPU) for _ in range(2))
    return Taps(lower, upper, torch.empty(length, device=GPU), paired=True)


@pytest.mark.parametrize("axes", [(), (0,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("labels", [scheme(3), scheme(3, (3, 1, 2))], ids=["classes", "regions"])
def test_windows_are_decided_where_they_lie(monkeypatch, axes: tuple[int, ...], labels: LabelScheme) -> None:
    """All but the one look at which heads are needed where, which is given here."""
    looks = []

    def spans(needed: Tensor) -> list[tuple[int, slice]]:
        looks.append(needed.device.type)
        return [(0, slice(0, 2)), (1, slice(1, 4)), (2, slice(2, needed.shape[1] - 1))]

    monkeypatch.setattr(labelling, "_spans", spans)
    with FakeTensorMode(allow_non_fake_inputs=True):
        here = window(axes, labels.num_heads + 1)
        (strip,) = here.strips()
        classes = labelling._decided(strip, labels, 0.0, Scratch())
        assert (classes.shape, classes.device.type) == (here.shape, "meta")
        assert looks == ["meta"]
        values = here.values(slice(0, labels.num_heads))
        assert (values.device.type, to_probabilities(values, labels).device.type) == ("meta", "cpu")
        assert logits_to_labels(values, labels, 0.0).device.type == "meta"
        assert here.values(slice(3, 4), slice(1, 3), minus=0).shape == (1, *here.shape[:2], 2)


def test_folds_that_are_blended_in_different_places_are_averaged() -> None:
    """The image and the sums of the last folds may find no room on the GPU any more."""
    with FakeTensorMode():
        values = [torch.empty(3, 4, 5, 6, device=device) for device in ("meta", "meta", "cpu")]
        assert fold_predictions.mean_logits(values).device.type == "cpu"
        assert fold_predictions.mean_logits(values[:2]).device.type == "meta"
    found = fold_predictions.mean_logits([torch.full((2, 1, 1, 1), value) for value in (1.0, 2.0, 6.0)])
    assert found.flatten().tolist() == [3.0, 3.0]


@pytest.mark.parametrize(("has_previous", "precision"), [(False, "float16"), (True, "float32")])
@pytest.mark.parametrize("free", [2**30, 2**10], ids=["on the gpu", "sums in the main memory"])
def test_a_volume_crosses_over_once(monkeypatch, free: int, has_previous: bool, precision: str) -> None:
    """And the host waits once a tile, to see whether all of it is air, and once a block of rows."""
    monkeypatch.setattr(memory, "free_gpu_bytes", lambda device: free)
    labels, patch = scheme(3), (8, 8, 8)
    mirroring = Mirroring(axes=(0, 1, 2), swap_axis=2, swap_pairs=((1, 2),))
    image = torch.zeros((2, 12, 9, 7))
    with fake_gpu.fake_gpu(patient=True) as watch:
        networks = [fake_gpu.on_gpu(spec_of("plain_unet", (2, 4), 3), 1 + (2 if has_previous else 1), 3).eval()]
        rows = list(
            predict_rows(
                networks,
                image,
                SlidingWindow(patch, labels, mirroring, tile_batch=8, precision=precision, has_previous=has_previous),
                fake_gpu.GPU,
            )
        )
    where = "cuda" if free > 2**20 else "cpu"
    assert {part.device.type for part in rows} == {where}
    assert sum(part.shape[1] for part in rows) == 12
    assert {part.shape[0] for part in rows} == {4}, "three heads and how far mirrorings differ"
    tiles = 2 * 2
    if where == "cuda":
        assert watch.waits.count("cpu to cuda") == 2, "the image and the weights of a tile"
        assert watch.waits.count("cuda to cpu") == 0
        assert watch.waits.count("value of cuda") == tiles + len(rows)
    assert watch.copies == []
