"""No tensor of the main memory meets one of a GPU, and nothing is waited for that need not be: seen without a GPU.

PyTorch's fake tensors have a device, a shape and no values: tensors of two devices cannot be combined, and whoever asks
for a value is told that there is none.
"""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from autoseg.inference import deciding, voices
from autoseg.inference.deciding import decide
from autoseg.inference.export import to_probabilities
from autoseg.records.labels import LabelScheme
from autoseg.spatial.linear import Scratch, Taps, Window
from tests.inference.test_deciding import scheme

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
    return Taps(lower, upper, torch.empty(length, dtype=torch.float64, device=GPU), paired=True)


@pytest.mark.parametrize("axes", [(), (0,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("labels", [scheme(3), scheme(3, (3, 1, 2))], ids=["classes", "regions"])
def test_windows_are_decided_where_they_lie(monkeypatch, axes: tuple[int, ...], labels: LabelScheme) -> None:
    """All but the one look at which heads are needed where, which is given here."""
    looks = []

    def spans(needed: Tensor) -> list[tuple[int, slice]]:
        looks.append(needed.device.type)
        return [(0, slice(0, 2)), (1, slice(1, 4)), (2, slice(2, needed.shape[1] - 1))]

    monkeypatch.setattr(deciding, "_spans", spans)
    with FakeTensorMode(allow_non_fake_inputs=True):
        here = window(axes, labels.num_heads + 1)
        decided = list(deciding._strips_decided(here, labels, 0.0, Scratch()))
        assert [(strip.shape, classes.device.type) for strip, classes in decided] == [(here.shape, "meta")]
        assert looks == ["meta"]
        values = here.values(slice(0, labels.num_heads))
        assert (values.device.type, to_probabilities(values, labels).device.type) == ("meta", "cpu")
        assert decide(values, labels, 0.0).device.type == "meta"
        assert here.values(slice(3, 4), slice(1, 3), minus=0).shape == (1, *here.shape[:2], 2)


def test_folds_that_are_blended_in_different_places_are_averaged() -> None:
    """The image and the sums of the last folds may find no room on the GPU any more."""
    with FakeTensorMode():
        values = [torch.empty(3, 4, 5, 6, device=device) for device in ("meta", "meta", "cpu")]
        assert voices.mean_logits(values).device.type == "cpu"
        assert voices.mean_logits(values[:2]).device.type == "meta"
    found = voices.mean_logits([torch.full((2, 1, 1, 1), value) for value in (1.0, 2.0, 6.0)])
    assert found.flatten().tolist() == [3.0, 3.0]
