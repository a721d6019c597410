"""Features: by hand on tiny volumes, and the same whatever the slabs."""

import math

import numpy as np
import pytest
import torch

from autoseg.records.labels import LabelScheme, Target
from autoseg.selection import features as f
from autoseg.selection.features import FeatureSums

ONE = LabelScheme(class_names=("background", "a"), class_values=(0, 1), num_entries=2)
TWO = LabelScheme(class_names=("background", "a", "b"), class_values=(0, 1, 2), num_entries=3)
REGIONS = TWO.model_copy(
    update={
        "regions": (Target(name="whole", members=(1, 2)), Target(name="core", members=(2,))),
        "region_order": (1, 2),
    }
)


def of_foreground(values: list[float]) -> torch.Tensor:
    """`2 1 1 n` probabilities with the given foreground ones."""
    foreground = torch.tensor(values)
    return torch.stack([1 - foreground, foreground])[:, None, None]


def measured(labels: LabelScheme, probabilities, disagreement=(), volume_mm3: float = 2.0) -> dict[str, float]:
    sums = FeatureSums(labels, volume_mm3)
    sums.add(probabilities, disagreement)
    return sums.result()


def test_by_hand() -> None:
    """Segmented: 0.9 and 0.6; suspected: 0.2; far from everything: 0.05."""
    apart = np.array([[[51, 102, 153, 255]]], dtype=np.uint8)
    found = measured(ONE, [of_foreground([0.9, 0.6, 0.2, 0.05])], [apart])
    assert found[f.MEAN_PROBABILITY] == pytest.approx((0.9 + 0.6 + 0.8) / 3)
    assert found[f.EXPECTED_DICE] == pytest.approx(2 * 1.5 / (1.75 + 2))
    assert found[f.WORST_EXPECTED_DICE] == found[f.EXPECTED_DICE]
    assert found[f.MIRRORING] == pytest.approx((0.2 + 0.4 + 0.6) / 3)
    assert found[f.LOG_VOLUME] == pytest.approx(math.log10(4.0))
    assert f.CONFIGURATIONS not in found


def test_configurations_that_differ() -> None:
    found = measured(ONE, [of_foreground([0.9, 0.6, 0.0]), of_foreground([0.7, 0.6, 0.0])])
    assert found[f.CONFIGURATIONS] == pytest.approx((0.1 + 0.0) / 2)
    assert found[f.MEAN_PROBABILITY] == pytest.approx((0.8 + 0.6) / 2)
    assert f.MIRRORING not in found


def test_regions_by_hand() -> None:
    heads = torch.tensor([[0.9, 0.8], [0.7, 0.3]])[:, None, None]
    found = measured(REGIONS, [heads])
    assert found[f.MEAN_PROBABILITY] == pytest.approx((0.9 + 0.7 + 0.8 + 0.7) / 4)
    whole, core = 2 * 1.7 / (1.7 + 2), 2 * 0.7 / (1.0 + 1)
    assert found[f.EXPECTED_DICE] == pytest.approx((whole + core) / 2)
    assert found[f.WORST_EXPECTED_DICE] == pytest.approx(core)


def test_a_case_in_which_nothing_is_segmented_has_no_features() -> None:
    assert measured(ONE, [of_foreground([0.4, 0.1])]) == {}


@pytest.mark.parametrize("labels", [TWO, REGIONS])
def test_slabs_add_up(labels: LabelScheme) -> None:
    rng = np.random.default_rng(0)
    volumes = [torch.from_numpy(rng.dirichlet(np.ones(3), (6, 4, 5))).permute(3, 0, 1, 2).half() for _ in range(2)]
    volumes = [volume[: labels.num_heads] for volume in volumes]
    apart = rng.integers(0, 256, (6, 4, 5), dtype=np.uint8)
    sums = FeatureSums(labels, 2.0)
    for start in (0, 2, 4):
        rows = slice(start, start + 2)
        sums.add([volume[:, rows] for volume in volumes], [apart[rows]])
    whole = measured(labels, volumes, [apart])
    assert sums.result() == pytest.approx(whole)
    assert set(whole) >= {f.MIRRORING, f.CONFIGURATIONS}
