"""Temperature: stored probabilities give the logits back, and dividing them there equals dividing in the network."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoseg.inference.temperature import SURE, Tempered, stored_logits, tempered
from autoseg.records.labels import LabelScheme, Target

TWO = LabelScheme(class_names=("background", "a", "b"), class_values=(0, 1, 2), num_entries=3)
REGIONS = TWO.model_copy(
    update={
        "regions": (Target(name="whole", members=(1, 2)), Target(name="core", members=(2,))),
        "region_order": (1, 2),
    }
)


def logits_of(labels: LabelScheme, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn((labels.num_heads, 5, 6, 7), generator=generator)


def probabilities_of(logits: Tensor, labels: LabelScheme) -> Tensor:
    return torch.sigmoid(logits) if labels.has_regions else torch.softmax(logits, 0)


@pytest.mark.parametrize("labels", [TWO, REGIONS])
@pytest.mark.parametrize(("temperature", "tolerance"), [(0.5, 4e-3), (1.7, 1e-2), (4.0, 0.1)])
def test_stored_probabilities_are_tempered_as_logits_are(
    labels: LabelScheme, temperature: float, tolerance: float
) -> None:
    """Exactly but for what float16 cannot hold: the surest voxels, which a high temperature brings to light."""
    logits = logits_of(labels)
    stored = probabilities_of(logits, labels).half().numpy()
    wanted = probabilities_of(logits / temperature, labels)
    found = tempered(stored, temperature, labels)
    assert found.dtype == np.float16
    difference = np.abs(found.astype(np.float32) - wanted.numpy())
    assert difference.max() < tolerance
    assert difference.mean() < 2e-3


@pytest.mark.parametrize("labels", [TWO, REGIONS])
def test_one_changes_nothing(labels: LabelScheme) -> None:
    stored = probabilities_of(logits_of(labels), labels).half().numpy()
    assert tempered(stored, 1.0, labels) is stored


@pytest.mark.parametrize("labels", [TWO, REGIONS])
def test_no_answer_changes_but_for_ties_of_float16(labels: LabelScheme) -> None:
    stored = probabilities_of(logits_of(labels), labels).half().numpy()
    for temperature in (0.3, 3.0):
        found = tempered(stored, temperature, labels)
        if labels.has_regions:
            changed = (found > 0.5) != (stored > 0.5)
            assert np.abs(stored[changed].astype(np.float32) - 0.5).max(initial=0) < 2**-10
        else:
            np.testing.assert_array_equal(found.argmax(0), stored.argmax(0))


def test_what_was_rounded_to_0_or_1_stays_so_and_nothing_is_nan() -> None:
    stored = torch.tensor([1.0, 0.0, 0.0]).half()
    assert stored_logits(stored, TWO).tolist() == [0.0, -SURE, -SURE]
    assert stored_logits(stored[:2], REGIONS).tolist() == [SURE, -SURE]
    for labels in (TWO, REGIONS):
        values = stored[: labels.num_heads, None, None, None].numpy()
        np.testing.assert_array_equal(tempered(values, 4.0, labels), values)


def test_a_hundred_impossible_classes_take_no_share() -> None:
    many = LabelScheme(class_names=tuple(str(n) for n in range(120)), class_values=tuple(range(120)), num_entries=120)
    logits = torch.full((120, 1, 1, 1), -30.0)
    logits[0], logits[1] = 4.0, 0.0
    stored = torch.softmax(logits, 0).half().numpy()
    wanted = torch.softmax(logits / 3, 0).numpy()
    np.testing.assert_allclose(tempered(stored, 3.0, many)[:2], wanted[:2], atol=5e-3)


def test_a_tempered_network_divides_all_its_outputs() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return x, x[..., ::2]

    image = torch.arange(8.0).reshape(1, 1, 1, 1, 8)
    fine, coarse = Tempered(Two(), 4.0)(image)
    torch.testing.assert_close(fine, image / 4)
    torch.testing.assert_close(coarse, image[..., ::2] / 4)
