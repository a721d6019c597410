"""A trained network's weights in, a network that also knows a distractor class out; its answer is the ordinary one.

In training mode all heads come out, the distractor's last, so that a loss can teach it. In evaluation mode there are
as many as the dataset has: the distractor's probability falls back to the background. Everything behind the network
(tiles, mirroring, averages of folds, stored probabilities, ensembles) so never meets a distractor.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from autoseg.errors import ModelError

PRIOR = 0.01
"""Probability with which a new region's head starts, as in focal loss (Lin et al., 2017, arXiv:1708.02002)."""


class HidesDistractor(nn.Module):
    """A network whose last head is the distractor's; that head is hidden in evaluation mode."""

    def __init__(self, network: nn.Module, has_regions: bool) -> None:
        super().__init__()
        self.network, self.has_regions = network, has_regions

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images `N C Z Y X` to logits, finest first: `N H+1 Z Y X` in training mode, else `N H Z Y X`."""
        outputs: tuple[Tensor, ...] = self.network(x)
        if self.training:
            return outputs
        return tuple(hide_distractor(logits.float(), self.has_regions) for logits in outputs)


def hide_distractor(logits: Tensor, has_regions: bool) -> Tensor:
    """Logits `N H+1 ...` without the last head, `N H ...`.

    Softmax: the background gets the distractor's probability besides its own, log(exp a + exp b); those of the classes
    stay. Regions: a voxel cannot be in a region and be a distractor, so the probability of a region is at most that of
    no distractor, min(p, 1 - d), which in logits is min(l, -d).
    """
    ordinary, distractor = logits[:, :-1], logits[:, -1:]
    if has_regions:
        return torch.minimum(ordinary, -distractor)
    return torch.cat([torch.logaddexp(ordinary[:, :1], distractor), ordinary[:, 1:]], dim=1)


def widened(weights: Mapping[str, Tensor], network: nn.Module, has_regions: bool) -> dict[str, Tensor]:
    """Weights of a network with one head more that (nearly) answers as the one that the weights were trained in.

    Softmax: the new head is a copy of the background's, and both biases are lowered by log 2, so that together they
    are as probable as the background was. (An architecture that adds up several outputs, as `fcn` does, is lowered by
    as much in each.) Regions: the new head predicts `PRIOR` everywhere.

    Args:
        weights: parameter name -> tensor, of the network with the ordinary heads.
        network: the one with a head more, not wrapped.
        has_regions: whether heads are sigmoids of regions.

    Raises:
        ModelError: the two differ by more than a head.
    """
    wide: dict[str, Tensor] = {}
    for name, wanted in network.state_dict().items():
        known = weights.get(name)
        if known is None:
            raise ModelError(f"the trained weights lack {name}: they are of another network.")
        if known.shape == wanted.shape:
            wide[name] = known
        elif (known.shape[0] + 1, *known.shape[1:]) == tuple(wanted.shape):
            wide[name] = _with_new_head(known, has_regions)
        else:
            raise ModelError(
                f"{name} has the shape {tuple(known.shape)} in the trained weights and {tuple(wanted.shape)} in the "
                "network with a distractor; only heads may differ, by one."
            )
    return wide


def _with_new_head(known: Tensor, has_regions: bool) -> Tensor:
    is_bias = known.ndim == 1
    if has_regions:
        new = torch.full_like(known[:1], math.log(PRIOR / (1 - PRIOR)) if is_bias else 0.0)
        return torch.cat([known, new])
    if not is_bias:
        return torch.cat([known, known[:1]])
    lowered = known[:1] - math.log(2)
    return torch.cat([lowered, known[1:], lowered])
