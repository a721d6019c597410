"""Logits and a label map in, a scalar that weighs errors by their distance from the true border out.

All take logits `N H Z Y X` (float32 or float64), targets `N Z Y X` of internal class numbers and a
`LossContext`. Distances are Euclidean, in voxels of the output's own grid (spacing does not enter), computed
anew in every step where the tensors live. Ignored voxels take no part: they belong to neither side of a border.
`batch_dice` changes nothing, since nothing is divided by a class's size.
"""

import torch
from torch import Tensor

from autoseg.losses.pixel import voxel_losses, weighted_mean
from autoseg.losses.targets import LossContext, compared, foreground, mean_over_foreground, voxel_mean


def boundary(logits: Tensor, target: Tensor, context: LossContext) -> Tensor:
    """Mean over voxels and foreground heads of probability times signed distance from the true border (Kervadec et
    al., 2018, arXiv:1812.07032).

    The distance is that to the class outside it, and minus the distance to its outside plus 1 inside, so that the
    border's inner voxels have 0 (the authors' code). It is 0 where the class is absent or fills the sample. Falls
    below 0; meant to be added to an overlap loss with a small weight.
    """
    probabilities, truth, valid = compared(logits, target, context)
    probabilities, truth = foreground(probabilities, context), foreground(truth, context)
    inside, outside = _to_other_side(truth, valid)
    distance = torch.where(truth, 1 - inside, outside)
    distance = torch.where(distance.isinf(), 0, distance)
    return mean_over_foreground(voxel_mean(probabilities * distance, valid), context)


def hausdorff(logits: Tensor, target: Tensor, context: LossContext, *, alpha: float = 2.0) -> Tensor:
    """Mean over voxels and foreground heads of squared error times (distance from the true border^alpha + distance
    from the predicted border^alpha) (Karimi and Salcudean, 2019, arXiv:1904.10030, its distance-transform form).

    The predicted border is that of probability > 0.5, and has no gradient. A class that is absent, or fills the
    sample, has no border: its distances are 0. Needs twice the distances of `boundary`.
    """
    probabilities, truth, valid = compared(logits, target, context)
    probabilities, truth = foreground(probabilities, context), foreground(truth, context)
    predicted = probabilities.detach() > 0.5
    if valid is not None:
        predicted = predicted & valid
    weights = torch.zeros_like(probabilities)
    for mask in (truth, predicted):
        inside, outside = _to_other_side(mask, valid)
        distance = torch.where(mask, inside, outside)
        weights += torch.where(distance.isinf(), 0, distance) ** alpha
    return mean_over_foreground(
        voxel_mean((probabilities - truth.to(probabilities)).square() * weights, valid), context
    )


def distance_penalised_cross_entropy(logits: Tensor, target: Tensor, context: LossContext) -> Tensor:
    """Cross-entropy times 1 + closeness to the true border (Caliva et al., 2019, arXiv:1908.03679).

    Closeness falls linearly with the distance to the nearest voxel of another class, from 1 beside the border to 0
    at the voxel of the same class and sample that is deepest inside (the paper's inverted distance map); it is 0 where
    there is no border. With regions each has its own border, and a deepest voxel on either side of it.
    """
    losses, weights = voxel_losses(logits, target, context)
    _, truth, valid = compared(logits.detach(), target, context)
    inside, outside = _to_other_side(truth, valid)
    close = _closeness(inside, truth)
    if context.labels.has_regions:
        close = close + _closeness(outside, ~truth if valid is None else ~truth & valid)
    else:
        close = close.sum(1)
    return weighted_mean(losses * (1 + close.to(losses)), weights)


def distance_to(sites: Tensor) -> Tensor:
    """Exact Euclidean distance in voxels of every voxel to the nearest site.

    Squared distances are separable: along one axis after the other, each voxel takes the least of its line's values
    plus the square of the way there (Felzenszwalb and Huttenlocher, 2012, by trying all ways). That is as many passes
    as a line has voxels, each a plain minimum of shifted tensors, which on one CPU core costs about as much as scipy's
    and on a GPU needs no trip to the host. Along the longest axis, which comes first, ways of 1, 2, 4, ... voxels add
    up to any.

    Args:
        sites: ... Z Y X, bool.

    Returns:
        float32 of the same shape; infinite where its volume has no site.
    """
    *others, longest = sorted((-3, -2, -1), key=lambda axis: sites.shape[axis])
    line = torch.where(sites, 0.0, torch.inf).movedim(longest, 0).contiguous()
    step = 1
    while step < len(line):
        line[step:] = torch.minimum(line[step:], line[:-step] + step)
        line[:-step] = torch.minimum(line[:-step], line[step:] + step)
        step *= 2
    squared = line.square().movedim(0, longest)
    for axis in others:
        squared = _nearest_on_lines(squared, axis)
    return squared.sqrt()


def _nearest_on_lines(squared: Tensor, axis: int) -> Tensor:
    """Least of the values on a voxel's line plus the square of the way to them."""
    line = squared.movedim(axis, 0).contiguous()
    best, candidate = line.clone(), torch.empty_like(line)
    size = len(line)
    for step in range(1, size):
        torch.add(line, float(step**2), out=candidate)
        torch.minimum(best[step:], candidate[: size - step], out=best[step:])
        torch.minimum(best[: size - step], candidate[step:], out=best[: size - step])
    return best.movedim(0, axis)


def _to_other_side(mask: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Distances to the nearest voxel outside the mask, and to the nearest one inside."""
    rest = ~mask if valid is None else ~mask & valid
    return distance_to(rest), distance_to(mask)


def _closeness(distance: Tensor, side: Tensor) -> Tensor:
    """From 1 for a distance of 1 to 0 for the largest on this side of the border; 0 off it or without a border."""
    has_border = side & ~distance.isinf()
    depth = torch.where(has_border, distance - 1, 0)
    deepest = depth.amax((2, 3, 4), keepdim=True)
    return torch.where(has_border, 1 - depth / torch.where(deepest > 0, deepest, 1), 0)
