"""A loaded model in, one module of ordinary PyTorch operations out, as exporters can trace it.

On the CPU our networks normalise by a function of their own in channels-last memory; here every such module gives way
to PyTorch's `instance_norm`, with the same weights. All folds are in the module; it answers with their mean logits.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoseg.networks.norm import EPSILON, InstanceNorm


class PlainNorm(nn.Module):
    """Instance normalisation, scale and shift a channel, and leaky ReLU if `slope` is not 1."""

    def __init__(self, known: InstanceNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.slope = known.weight, known.bias, known.slope

    def forward(self, x: Tensor) -> Tensor:
        """Map `N C [Z] Y X` to the same shape."""
        y = F.instance_norm(x, weight=self.weight, bias=self.bias, eps=EPSILON)
        return y if self.slope == 1 else F.leaky_relu(y, self.slope)


class MeanOfFolds(nn.Module):
    """The mean of several networks' finest logits."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.folds = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        """Map patches `N C Z Y X` to logits `N H Z Y X`."""
        return torch.stack([fold(x)[0] for fold in self.folds]).mean(0)


def exportable_module(networks: Sequence[nn.Module]) -> nn.Module:
    """One module of plain operations, in evaluation mode on the CPU, from networks that each give a tuple of logits."""
    return MeanOfFolds([_plain(copy.deepcopy(network).cpu()) for network in networks]).eval()


def _plain(network: nn.Module) -> nn.Module:
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, InstanceNorm):
                setattr(parent, name, PlainNorm(child))
    return network
