"""Probabilities of a case slab by slab in, a few numbers that tell how good its segmentation may be out.

Only what exists for held-out cases is measured, since a model can only learn from those: how sure the answer is, how
far mirrorings of the image differ, how far the configurations of an ensemble differ, and how much was segmented.
Folds cannot be compared out of fold, where each case has one. All are means over the region where something is, or
may be: segmented voxels and those with a foreground probability over 0.1. Outside, all cases are alike.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from autoseg.inference.export import Disagreement, mean_to_labels
from autoseg.records.labels import LabelScheme

MEAN_PROBABILITY = "mean_probability"
"""Mean over the region of the probability of the answer: of its class, or of every region being as it was decided."""
EXPECTED_DICE = "expected_dice"
"""Dice of the segmentation and the probabilities themselves, 2 sum(p d) / sum(p + d), mean over targets found."""
WORST_EXPECTED_DICE = "worst_expected_dice"
"""The smallest of these."""
MIRRORING = "mirroring_disagreement"
"""Mean over the region of the disagreement of mirrorings (`inference.sliding_window.Answer`)."""
CONFIGURATIONS = "configuration_disagreement"
"""Mean over the region of the total variation distance between a configuration and the mean of all."""
LOG_VOLUME = "log10_volume"
"""Decimal logarithm of the segmented volume in mm3."""

DIRECTIONS = {MEAN_PROBABILITY: 1, EXPECTED_DICE: 1, WORST_EXPECTED_DICE: 1, MIRRORING: -1, CONFIGURATIONS: -1}
"""1: a higher value cannot mean a lower Dice, -1: a higher one; a feature that is not in here may mean either."""

_SUSPECTED = 0.1


class FeatureSums:
    """Sums over the slabs of one case."""

    def __init__(self, labels: LabelScheme, voxel_volume_mm3: float) -> None:
        self.labels = labels
        self.voxel_volume_mm3 = voxel_volume_mm3
        self.region = self.segmented = 0.0
        self.sums = dict.fromkeys((MEAN_PROBABILITY, MIRRORING, CONFIGURATIONS), 0.0)
        self.has_mirroring = self.has_configurations = True
        num = labels.num_heads if labels.has_regions else labels.num_classes - 1
        self.both, self.either, self.found = (torch.zeros(num, dtype=torch.float64) for _ in range(3))

    def add(self, probabilities: Sequence[Tensor], disagreement: Sequence[Disagreement]) -> None:
        """Take one slab in.

        Args:
            probabilities: `H z y x` of each configuration of the candidate.
            disagreement: `z y x`, 255 for 1, of the mirrorings of each configuration that mirrors.
        """
        members = [one.float() for one in probabilities]
        mean = members[0] if len(members) == 1 else torch.stack(members).mean(0)
        classes = mean_to_labels(probabilities, self.labels)
        heads = mean if self.labels.has_regions else mean[1:]
        foreground = heads.amax(0) if self.labels.has_regions else 1 - mean[0]
        region = (classes > 0) | (foreground > _SUSPECTED)
        decided = heads > 0.5 if self.labels.has_regions else _one_hot(classes, len(heads))
        self.both += (heads * decided).sum((1, 2, 3), dtype=torch.float64)
        self.either += (heads + decided).sum((1, 2, 3), dtype=torch.float64)
        self.found += decided.sum((1, 2, 3), dtype=torch.float64)
        self.segmented += float((classes > 0).sum())
        self.region += float(region.sum())
        sure = torch.maximum(heads, 1 - heads).mean(0) if self.labels.has_regions else mean.amax(0)
        self._add(MEAN_PROBABILITY, sure, region)
        self.has_configurations &= len(members) > 1
        if len(members) > 1:
            distances = [(one - mean).abs() for one in members]
            between = [d.amax(0) if self.labels.has_regions else d.sum(0) / 2 for d in distances]
            self._add(CONFIGURATIONS, torch.stack(between).mean(0), region)
        self.has_mirroring &= len(disagreement) > 0
        if disagreement:
            apart = [torch.from_numpy(np.ascontiguousarray(one)).float() / 255 for one in disagreement]
            self._add(MIRRORING, torch.stack(apart).mean(0), region)

    def result(self) -> dict[str, float]:
        """Feature -> value; empty where nothing was segmented."""
        if self.segmented == 0:
            return {}
        found = self.found > 0
        expected = 2 * self.both[found] / self.either[found]
        values = {
            MEAN_PROBABILITY: self.sums[MEAN_PROBABILITY] / self.region,
            EXPECTED_DICE: float(expected.mean()),
            WORST_EXPECTED_DICE: float(expected.min()),
            LOG_VOLUME: float(torch.log10(torch.tensor(self.segmented * self.voxel_volume_mm3))),
        }
        if self.has_mirroring:
            values[MIRRORING] = self.sums[MIRRORING] / self.region
        if self.has_configurations:
            values[CONFIGURATIONS] = self.sums[CONFIGURATIONS] / self.region
        return values

    def _add(self, name: str, values: Tensor, region: Tensor) -> None:
        self.sums[name] += float((values * region).sum(dtype=torch.float64))


def _one_hot(classes: Tensor, num_foreground: int) -> Tensor:
    numbers = torch.arange(1, num_foreground + 1, device=classes.device, dtype=classes.dtype)
    return classes[None] == numbers[:, None, None, None]
