"""Logits or stored probabilities and a temperature in, calibrated ones out (Guo et al. 2017, temperature scaling).

Dividing all logits by one number changes how sure a network is, never what it would answer alone. It matters where
answers are averaged, over folds and over configurations: there an overconfident network outvotes the others.

Stored probabilities are float16. Their logarithm is the logit but for a constant, which softmax ignores. What was
rounded to 0 (below 2^-25), or for regions to 1 (above 1 - 2^-12), stays so: raising every such class to the smallest
number there is would take, over a hundred classes, a visible share from the others at temperatures over 2. So the
surest voxels of a high temperature come out a little surer than in prediction, by up to 0.1 for regions at 4.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from autoseg.inference.export import Probabilities, slabs
from autoseg.inference.probability_reader import ProbabilityReader, in_file
from autoseg.records.labels import LabelScheme

SURE = 1e4
"""Logit that stands for infinity: no temperature makes it doubtful, and products with 0 stay 0."""


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
    """Logits in float32, `-SURE` to `SURE`, from probabilities as stored, `H ...`; softmax ones up to a constant."""
    values = probabilities.float()
    logits = torch.logit(values) if labels.has_regions else values.log()
    return logits.clamp_(-SURE, SURE)


def tempered(probabilities: Probabilities, temperature: float, labels: LabelScheme) -> Probabilities:
    """Stored probabilities `H z y x` as the network's would have been with its logits divided by `temperature`."""
    if temperature == 1:
        return probabilities
    calibrated = np.empty_like(probabilities)
    for rows in slabs(probabilities.shape):  # all at once in float32 would need twice the memory
        logits = stored_logits(torch.from_numpy(probabilities[:, rows]), labels).div_(temperature)
        values = torch.sigmoid(logits) if labels.has_regions else torch.softmax(logits, dim=0)
        calibrated[:, rows] = values.half().numpy()
    return calibrated


def tempered_pieces(path: Path, temperature: float, labels: LabelScheme) -> ProbabilityReader:
    """The same of a file, each time that rows of it are read; raises DataError when it is not readable."""
    stored = in_file(path)
    return ProbabilityReader(stored.shape, lambda rows: tempered(stored.read(rows), temperature, labels))
