"""Logits and a label map in, minus the overlap of centre lines out: clDice, for vessels and other thin structures.

Takes logits `N H Z Y X` (float32 or float64), targets `N Z Y X` of internal class numbers and a `LossContext`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from autoseg.losses.targets import LossContext, compared, foreground, mean_over_foreground


def cl_dice(
    logits: Tensor, target: Tensor, context: LossContext, *, iterations: int = 3, smooth: float = 1.0
) -> Tensor:
    """Minus the mean over foreground heads of the harmonic mean of two shares: of the predicted centre line that lies
    in the truth, and of the true one that lies in the prediction (Shit et al., 2021, arXiv:2003.07311).

    From -1 (perfect) to 0. `iterations` should reach the largest radius, in voxels (3: the authors' code); each costs
    about as much memory as ten copies of the probabilities. `smooth` is added to both parts of both shares (1: the
    paper's), so that a class that is absent and not predicted has 1. `batch_dice` sums over the batch first; ignored
    voxels are like those outside the image.
    """
    probabilities, truth, valid = compared(logits, target, context)
    probabilities = foreground(probabilities, context)
    if valid is not None:
        probabilities = probabilities * valid
    true = foreground(truth, context).to(probabilities.dtype)
    shares = []
    for line, mask in ((probabilities, true), (true, probabilities)):
        skeleton = soft_skeleton(line, valid, iterations)
        sums = [(skeleton * mask).sum((2, 3, 4)), skeleton.sum((2, 3, 4))]
        if context.batch_dice:
            sums = [part.sum(0, keepdim=True) for part in sums]
        shares.append((sums[0] + smooth) / (sums[1] + smooth).clamp_min(1e-8))
    precision, sensitivity = shares
    return -mean_over_foreground(2 * precision * sensitivity / (precision + sensitivity).clamp_min(1e-8), context)


def soft_skeleton(image: Tensor, valid: Tensor | None, iterations: int) -> Tensor:
    """The paper's soft skeleton: what openings of ever more eroded images take away, added up.

    Args:
        image: N H Z Y X, from 0 to 1 and 0 where not valid.
        valid: N 1 Z Y X bool; other voxels are as if outside the image. None: all.
        iterations: erosions.
    """
    skeleton = torch.zeros_like(image)
    for step in range(iterations + 1):
        eroded = _erode(image, valid)
        ridge = (image - _dilate(eroded, valid)).relu()
        # A ridge where the skeleton already is adds only what is missing to 1.
        skeleton = ridge if step == 0 else skeleton + (ridge - skeleton * ridge).relu()
        image = eroded
    return skeleton if valid is None else skeleton * valid


def _erode(image: Tensor, valid: Tensor | None) -> Tensor:
    """Least of the voxel and its face neighbours."""
    negative = -image if valid is None else torch.where(valid, -image, -1)
    sides = [F.max_pool3d(negative, size, 1, [n // 2 for n in size]) for size in ((3, 1, 1), (1, 3, 1), (1, 1, 3))]
    return -torch.maximum(torch.maximum(*sides[:2]), sides[2])


def _dilate(image: Tensor, valid: Tensor | None) -> Tensor:
    """Largest of the 3 x 3 x 3 voxels around, those of other slices included."""
    return F.max_pool3d(image if valid is None else image * valid, 3, 1, 1)
