"""Our losses against nnU-Net's: the same logits and targets give the same values and gradients.

Runs where nnunetv2 is importable, or in the interpreter that AUTOSEG_PEER_PYTHON names; otherwise skipped.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.losses.build import build_loss
from autoseg.records.labels import LabelScheme, Target
from autoseg.records.recipe import LossTerm, Recipe
from tests.differential.peer import peer_python

PEER = r"""
import sys
from types import SimpleNamespace
import numpy as np
import torch
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.loss import nnUNetTrainerTopkLoss as top_k

folder, kind, batch_dice, ignore = sys.argv[1], sys.argv[2], sys.argv[3] == "True", sys.argv[4] == "True"
given = np.load(folder + "/given.npz")
count = sum(name.startswith("logits") for name in given)
outputs = [torch.from_numpy(given[f"logits{i}"]).requires_grad_() for i in range(count)]
has_regions = kind == "nnunet_regions"
trainer = SimpleNamespace(
    label_manager=SimpleNamespace(has_regions=has_regions, ignore_label=outputs[0].shape[1] if ignore else None),
    configuration_manager=SimpleNamespace(batch_dice=batch_dice, pool_op_kernel_sizes=given["strides"].tolist()),
    is_ddp=False, enable_deep_supervision=True, _do_i_compile=lambda: False,
)
trainer._get_deep_supervision_scales = lambda: nnUNetTrainer._get_deep_supervision_scales(trainer)
kinds = {"nnunet_top_k": top_k.nnUNetTrainerDiceTopK10Loss}
loss = kinds.get(kind, nnUNetTrainer)._build_loss(trainer)
scales = DownsampleSegForDSTransform(trainer._get_deep_supervision_scales())
samples = [scales(segmentation=torch.from_numpy(one))["segmentation"] for one in given["target"]]
targets = [torch.stack(level) for level in zip(*samples)]
value = loss(outputs, targets)
value.backward()
np.savez(folder + "/answer.npz", value=value.detach().numpy(),
         **{f"gradient{i}": o.grad.numpy() for i, o in enumerate(outputs) if o.grad is not None})
"""

REGIONS = ((1, 2, 3), (2, 3), (3,))


def _ask_peer(folder: Path, arguments: list[str], **given: np.ndarray) -> dict[str, torch.Tensor]:
    python = peer_python()
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
    # The coarsest output is there, as in nnU-Net's network; it must weigh nothing.
    shapes = [(8, 8, 12), (8, 4, 6), (4, 2, 3)]
    outputs, target = _draw(labels, shapes)
    given = {f"logits{i}": output.detach().numpy() for i, output in enumerate(outputs)}
    given["strides"] = np.array([(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 1)])
    given["target"] = _regions_with_mask(target, ignore) if labels.has_regions else target[:, None].numpy()
    answer = _ask_peer(tmp_path, [kind, str(batch_dice), str(ignore)], **given)

    # With regions and an ignore label nnU-Net adds the regions' cross-entropies up instead of averaging them.
    factor = labels.num_heads if labels.has_regions and ignore else 1.0
    pixel = "top_k_cross_entropy" if kind == "nnunet_top_k" else "cross_entropy"
    recipe = Recipe(loss=(LossTerm(name=pixel, weight=factor), LossTerm(name="soft_dice")))
    value = build_loss(recipe, labels, batch_dice)(outputs[:2], target)
    torch.testing.assert_close(value, answer["value"].to(value.dtype), atol=1e-6, rtol=1e-5)
    assert not answer.get("gradient2", torch.zeros(())).any()
    for i, gradient in enumerate(torch.autograd.grad(value, outputs[:2])):
        torch.testing.assert_close(gradient, answer[f"gradient{i}"], atol=1e-8, rtol=1e-4)


def _regions_with_mask(target: torch.Tensor, ignore: bool) -> np.ndarray:
    """Nested regions of the class numbers as channels, and the ignored voxels as the last: nnU-Net's form."""
    channels = [torch.isin(target, torch.tensor(m)) for m in REGIONS] + ([target == 4] if ignore else [])
    return torch.stack(channels, dim=1).numpy()
