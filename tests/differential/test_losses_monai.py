"""Our losses against MONAI's: the same logits and truths give the same values and gradients.

Runs where MONAI is importable, or where AUTOSEG_PEER_PYTHON names an interpreter that has it.
"""

import numpy as np
import pytest
import torch
from scipy import ndimage

from autoseg.losses.build import build_loss
from autoseg.records.labels import LabelScheme, Target
from autoseg.records.recipe import LossTerm, Recipe
from tests.differential.peer import run_peer

REGIONS = ((1, 2, 3), (2, 3))
PARAMETERS = {"generalised_dice": {"smooth": 0.0}, "cl_dice": {"iterations": 2.0}}
NAMES = ("soft_dice", "jaccard", "generalised_dice", "tversky", "focal", "hausdorff", "boundary", "cl_dice")


def _labels(regions: bool, num_classes: int) -> LabelScheme:
    return LabelScheme(
        class_names=tuple(f"c{i}" for i in range(num_classes)),
        class_values=tuple(range(num_classes)),
        regions=tuple(Target(name=str(m), members=m) for m in REGIONS) if regions else (),
        region_order=(1, 2) if regions else (),
        num_entries=num_classes,
    )


@pytest.fixture(scope="module")
def given() -> dict[str, np.ndarray]:
    """Labels in blobs, so that distances and centre lines are more than a voxel long."""
    rng = np.random.default_rng(5)
    fields = [ndimage.gaussian_filter(rng.normal(size=(2, 8, 14, 12)), (0, 2, 2, 2)) for _ in range(4)]
    labels = np.argmax(fields, axis=0)
    noise = ndimage.gaussian_filter(rng.normal(size=(2, 4, 8, 14, 12)), (0, 0, 1, 1, 1)) * 20
    return {
        "labels": labels,
        "classes_logits": noise.astype(np.float32),
        "classes_truth": np.stack([labels == n for n in range(4)], 1).astype(np.float32),
        "regions_logits": noise[:, :2].astype(np.float32),
        "regions_truth": np.stack([np.isin(labels, m) for m in REGIONS], 1).astype(np.float32),
    }


@pytest.fixture(scope="module")
def peer(given: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return run_peer("losses_monai_peer.py", given, tmp_path_factory.mktemp("monai"), "monai")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "batch"),
    # Its clDice knows no sums over the batch.
    [(name, batch) for name in NAMES for batch in (False, True) if name != "cl_dice" or not batch],
)
@pytest.mark.parametrize("heads", ["classes", "regions"])
def test_equals_monai(
    name: str, heads: str, batch: bool, given: dict[str, np.ndarray], peer: dict[str, np.ndarray]
) -> None:
    logits = torch.from_numpy(given[f"{heads}_logits"]).requires_grad_()
    recipe = Recipe(loss=(LossTerm(name=name, parameters=PARAMETERS.get(name, {})),))
    value = build_loss(recipe, _labels(heads == "regions", 4), batch)([logits], torch.from_numpy(given["labels"]))
    key = f"{heads}_{batch}_{name}"
    torch.testing.assert_close(value.item(), float(peer[key]), atol=1e-6, rtol=1e-5)
    (gradient,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(gradient, torch.from_numpy(peer[f"{key}_gradient"]), atol=1e-7, rtol=1e-3)
