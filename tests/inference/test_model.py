"""What a cascade's networks are shown: the image, and what the stage before said."""

import numpy as np
import pytest
import torch

from autoseg.inference.model import previous_channels, with_previous
from autoseg.records.labels import LabelScheme
from autoseg.storage import large_arrays


@pytest.mark.parametrize("free", [1 << 40, 1])
def test_the_previous_stage_lies_behind_the_image(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(large_arrays, "available_memory_bytes", lambda: free)
    image, classes = torch.randn((2, 3, 4, 5)), np.arange(60, dtype=np.int16).reshape(3, 4, 5) % 3
    joined = with_previous(image, classes)
    assert torch.equal(joined, torch.cat([image, torch.from_numpy(classes)[None].float()]))
    labels = LabelScheme(class_names=("background", "a", "b"), class_values=(0, 1, 2), num_entries=3)
    assert torch.equal(previous_channels(joined[-1], labels).argmax(0) + 1, torch.from_numpy(classes).clamp(min=1))
