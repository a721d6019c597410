"""Logits or stored probabilities and a temperature in, calibrated ones out (Guo et al. 2017, temperature scaling).

Dividing all logits by one number changes how sure a network is, never what it would answer alone. It matters where
answers are averaged, over folds and over configurations: there an overconfident network outvotes the others.

Stored probabilities are float16. Their logarithm is the logit but for a constant, which softmax ignores. What is
below the smallest positive float16 (2^-24) was stored as 0 and is read as that number, so that its logarithm exists;
near 1 the step is 2^-11, so that a sigmoid stored as 1 was above 1 - 2^-12 and is read as that. So the surest voxels
of a high temperature come out a little less sure than in prediction, by up to 0.1 at 4.
"""

import torch
from torch import Tensor, nn

from autoseg.inference.export import Probabilities
from autoseg.records.labels import LabelScheme

_SMALLEST = 2.0**-24
_NEAREST_ONE = 1 - 2.0**-12


class Tempered(nn.Module):
    """A network whose logits are divided by a temperature."""

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The network's outputs, finest first, each divided."""
        return tuple(logits.float() / self.temperature for logits in self.network(x))


def stored_logits(probabilities: Tensor, labels: LabelScheme) -> Tensor:
    """Logits in float32 from probabilities as stored, `H ...`; softmax ones up to a constant a voxel."""
    if labels.has_regions:
        return torch.logit(probabilities.float().clamp(_SMALLEST, _NEAREST_ONE))
    return probabilities.float().clamp_min(_SMALLEST).log()


def tempered(probabilities: Probabilities, temperature: float, labels: LabelScheme) -> Probabilities:
    """Stored probabilities `H z y x` as the network's would have been with its logits divided by `temperature`."""
    if temperature == 1:
        return probabilities
    logits = stored_logits(torch.from_numpy(probabilities), labels).div_(temperature)
    calibrated = torch.sigmoid(logits) if labels.has_regions else torch.softmax(logits, dim=0)
    return calibrated.half().numpy()
