"""Our losses against nnU-Net's: the same logits and targets give the same values and gradients.

Runs where nnunetv2 is importable, or in the interpreter that AUTOSEG_PEER_PYTHON names; otherwise skipped.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.losses.build import build_loss
from autoseg.records.labels import LabelScheme, Target
from autoseg.records.recipe import LossTerm, Recipe

PEER = r"""
import sys
import numpy as np
import torch

folder, kind, batch_dice, ignore = sys.argv[1], sys.argv[2], sys.argv[3] == "True", sys.argv[4] == "True"
given = np.load(folder + "/given.npz")
count = sum(name.startswith("logits") for name in given)
outputs = [torch.from_numpy(given[f"logits{i}"]).requires_grad_() for i in range(count)]
targets = [torch.from_numpy(given[f"target{i}"]) for i in range(count)]
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss, DC_and_topk_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
dice = {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": kind == "nnunet_regions", "ddp": False}
if kind == "nnunet_regions":
    loss = DC_and_BCE_loss({}, dice, use_ignore_label=ignore, dice_class=MemoryEfficientSoftDiceLoss)
elif kind == "nnunet_top_k":
    loss = DC_and_topk_loss(dice, {"k": 10}, ignore_label=outputs[0].shape[1] if ignore else None)
else:
    loss = DC_and_CE_loss(dice, {}, ignore_label=outputs[0].shape[1] if ignore else None,
                          dice_class=MemoryEfficientSoftDiceLoss)
weights = np.array([0.5 ** i for i in range(count)])
loss = DeepSupervisionWrapper(loss, weights / weights.sum())
value = loss(outputs, targets)
value.backward()
np.savez(folder + "/answer.npz", value=value.detach().numpy(),
         **{f"gradient{i}": o.grad.numpy() for i, o in enumerate(outputs)})
"""

REGIONS = ((1, 2, 3), (2, 3), (3,))


def _ask_peer(folder: Path, arguments: list[str], **given: np.ndarray) -> dict[str, torch.Tensor]:
    python = sys.executable if importlib.util.find_spec("nnunetv2") else os.environ.get("AUTOSEG_PEER_PYTHON")
    if not python:
        pytest.skip("nnunetv2 is not installed here and AUTOSEG_PEER_PYTHON is not set")
    np.savez(folder / "given.npz", **given)
    done = subprocess.run(
        [python, "-c", PEER, str(folder), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {name: torch.from_numpy(value) for name, value in np.load(folder / "answer.npz").items()}


def _labels(regions: bool, ignore: bool) -> LabelScheme:
    return LabelScheme(
        class_names=("background", "a", "b", "c"),
        class_values=(0, 1, 2, 3),
        regions=tuple(Target(name=str(m), members=m) for m in REGIONS) if regions else (),
        region_order=(1, 2, 3) if regions else (),
        ignore_value=4 if ignore else None,
        num_entries=4 + ignore,
    )


def _draw(labels: LabelScheme, shapes: list[tuple[int, int, int]]) -> tuple[list[torch.Tensor], torch.Tensor]:
    g = torch.Generator().manual_seed(7)
    outputs = [(torch.randn(2, labels.num_heads, *s, generator=g) * 2).requires_grad_() for s in shapes]
    high = labels.num_classes + (labels.ignore_index is not None)
    return outputs, torch.randint(0, high, (2, *shapes[0]), generator=g)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nnunet_classes", "nnunet_regions", "nnunet_top_k"])
@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("batch_dice", [False, True])
def test_equals_nnunet(kind: str, ignore: bool, batch_dice: bool, tmp_path: Path) -> None:
    labels = _labels(kind == "nnunet_regions", ignore)
    shapes = [(4, 8, 12), (4, 4, 6)]
    outputs, target = _draw(labels, shapes)
    given: dict[str, np.ndarray] = {}
    for i, output in enumerate(outputs):
        given[f"logits{i}"] = output.detach().numpy()
        coarse = torch.nn.functional.interpolate(target[None].float(), shapes[i], mode="nearest-exact")[0].long()
        given[f"target{i}"] = _regions_with_mask(coarse, ignore) if labels.has_regions else coarse[:, None].numpy()
    answer = _ask_peer(tmp_path, [kind, str(batch_dice), str(ignore)], **given)

    # With regions and an ignore label nnU-Net adds the regions' cross-entropies up instead of averaging them.
    factor = labels.num_heads if labels.has_regions and ignore else 1.0
    pixel = "top_k_cross_entropy" if kind == "nnunet_top_k" else "cross_entropy"
    recipe = Recipe(loss=(LossTerm(name=pixel, weight=factor), LossTerm(name="soft_dice")))
    value = build_loss(recipe, labels, batch_dice)(outputs, target)
    torch.testing.assert_close(value, answer["value"].to(value.dtype), atol=1e-6, rtol=1e-5)
    for i, gradient in enumerate(torch.autograd.grad(value, outputs)):
        torch.testing.assert_close(gradient, answer[f"gradient{i}"], atol=1e-8, rtol=1e-4)


def _regions_with_mask(target: torch.Tensor, ignore: bool) -> np.ndarray:
    """Nested regions of the class numbers as channels, and the ignored voxels as the last: nnU-Net's form."""
    channels = [torch.isin(target, torch.tensor(m)) for m in REGIONS] + ([target == 4] if ignore else [])
    return torch.stack(channels, dim=1).numpy()
