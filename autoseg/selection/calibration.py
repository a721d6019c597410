"""Stored held-out probabilities and references in, the temperature of each fold's network out, with what it mends.

One temperature a fold's network, fitted on the cases this fold held out (Guo et al. 2017): the negative log-likelihood
is convex in the inverse temperature, so its derivative is bisected. Voxels are a sample that is the same every time:
half of it where there is foreground or the network suspects some, half from all the rest, each weighted by how many
voxels it stands for, so that the sample estimates the mean over all voxels of the crop box. Every case weighs
the same.

A figure for "after" would flatter itself on the cases the temperature was fitted on. So the held-out cases of a fold
are divided in two halves; each half is scored, and everywhere else used, with the temperature of the other half.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoseg.inference.export import Probabilities, slabs
from autoseg.inference.temperature import stored_logits
from autoseg.metrics.calibration import CalibrationBins, brier_score, count_bins, expected_calibration_error
from autoseg.metrics.statistics import aggregate
from autoseg.records.calibration import FoldTemperature, Reliability
from autoseg.records.labels import LabelScheme

LOWEST, HIGHEST = 0.25, 4.0
"""Temperatures are sought between these: beyond, the held-out cases hold too few errors, or too few right answers."""
_SUSPECTED = 1e-3
"""Probability of any foreground from which a voxel belongs to the first half of the sample."""
_MOST_VOXELS = 10_000
_MOST_VALUES = 1 << 26
"""Of all samples of a fold together: 256 MiB."""
_LEAST_LOGIT, _MOST_LOGIT = math.log(2.0**-24), math.log(2.0**12 - 1)
"""Of the truth where it was stored as impossible: the smallest positive float16, and for regions what is nearest to 1.
It was below, but one voxel without any likelihood must not outweigh all others."""
_BISECTIONS = 30


class Sample(NamedTuple):
    """Some voxels of one case."""

    logits: Tensor
    """`N H` float32."""
    truth: Tensor
    """Class numbers `N` int64, or for regions `N H` float32, 1 inside."""
    weights: Tensor
    """`N` float32, sum 1."""


def sample_size(num_cases: int, num_heads: int) -> int:
    """Voxels to take of each half of a case's sample."""
    return max(100, min(_MOST_VOXELS, _MOST_VALUES // (2 * num_heads * max(num_cases, 1))))


def sample_case(
    case: str,
    read: Callable[[slice], Probabilities],
    shape: Sequence[int],
    reference: npt.NDArray[np.integer],
    labels: LabelScheme,
    size: int,
) -> Sample | None:
    """Draw voxels of one case: of each half those with the smallest of random numbers that the case's name decides.

    Args:
        case: its id.
        read: gives stored probabilities `H rows y x` for rows along z.
        shape: of the probabilities, `H z y x`.
        reference: internal class numbers `z y x` in the same box.
        labels: scheme of the heads.
        size: voxels of each half.

    Returns:
        The sample; None where every voxel is to be ignored.
    """
    generator = np.random.default_rng(int.from_bytes(hashlib.sha256(case.encode()).digest()[:8], "big"))
    kept: list[_Kept] = [_Kept.empty(shape[0]), _Kept.empty(shape[0])]
    for rows in slabs(shape):
        values, truth = read(rows), reference[rows]
        drawn = generator.random(truth.shape, dtype=np.float32)
        suspicion = values.max(0) if labels.has_regions else 1 - values[0].astype(np.float32)
        first = (truth > 0) | (suspicion > _SUSPECTED)
        counted = truth != labels.ignore_index if labels.ignore_index is not None else np.ones_like(first)
        for half, mask in enumerate((first & counted, ~first & counted)):
            kept[half] = kept[half].with_more(drawn[mask], values[:, mask].T, truth[mask], size)
    return _sample([half for half in kept if half.population], labels)


class _Kept(NamedTuple):
    """The voxels kept so far of one half, and how many there were."""

    drawn: npt.NDArray[np.float32]
    values: npt.NDArray[np.float16]
    truth: npt.NDArray[np.integer]
    population: int

    @staticmethod
    def empty(num_heads: int) -> "_Kept":
        return _Kept(np.empty(0, np.float32), np.empty((0, num_heads), np.float16), np.empty(0, np.int16), 0)

    def with_more(
        self,
        drawn: npt.NDArray[np.float32],
        values: npt.NDArray[np.float16],
        truth: npt.NDArray[np.integer],
        size: int,
    ) -> "_Kept":
        population = self.population + len(drawn)
        if len(drawn) > size:
            chosen = np.argpartition(drawn, size)[:size]
            drawn, values, truth = drawn[chosen], values[chosen], truth[chosen]
        drawn, truth = np.concatenate([self.drawn, drawn]), np.concatenate([self.truth, truth])
        values = np.concatenate([self.values, values])
        order = np.argsort(drawn, kind="stable")[:size]
        return _Kept(drawn[order], values[order], truth[order], population)


def _sample(halves: Sequence[_Kept], labels: LabelScheme) -> Sample | None:
    if not halves:
        return None
    total = sum(half.population for half in halves)
    weights = [np.full(len(half.truth), half.population / total / len(half.truth)) for half in halves]
    values = torch.from_numpy(np.concatenate([half.values for half in halves]))
    classes = np.concatenate([half.truth for half in halves])
    logits = stored_logits(values.T, labels).T.contiguous()
    if labels.has_regions:
        inside = np.stack([np.isin(classes, region.members) for region in labels.regions], axis=1)
        truth = torch.from_numpy(inside).float()
        logits = torch.where(truth > 0, logits.clamp_min(_LEAST_LOGIT), logits.clamp_max(_MOST_LOGIT))
    else:
        truth = torch.from_numpy(classes.astype(np.int64))
        at_truth = logits.gather(1, truth[:, None]).clamp_min(_LEAST_LOGIT)
        logits.scatter_(1, truth[:, None], at_truth)
    return Sample(logits, truth, torch.from_numpy(np.concatenate(weights)).float())


def fit_temperature(samples: Sequence[Sample], labels: LabelScheme) -> float:
    """The temperature from `LOWEST` to `HIGHEST` with the smallest mean negative log-likelihood over cases.

    Args:
        samples: one a case, at least one.
        labels: scheme of the heads.
    """
    low, high = np.log(1 / HIGHEST), np.log(1 / LOWEST)  # of the inverse temperature
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if sum(_slope(sample, float(np.exp(middle)), labels) for sample in samples) > 0:
            high = middle
        else:
            low = middle
    return float(np.exp(-(low + high) / 2))


def fit_fold(samples: Mapping[str, Sample], labels: LabelScheme, weights_sha256: str) -> FoldTemperature:
    """Temperature of a fold from the samples of its held-out cases (case -> sample), and those of its halves.

    Halves are every other case in the order of their ids, so that cases of one patient or site, which are often
    neighbours, do not fill one half.
    """
    cases = sorted(samples)
    halves = [cases[0::2], cases[1::2]]
    held_out = dict.fromkeys(cases, 1.0)
    if len(cases) > 1:
        for own, other in (halves, reversed(halves)):
            fitted = fit_temperature([samples[case] for case in other], labels)
            held_out |= dict.fromkeys(own, fitted)
    temperature = fit_temperature(list(samples.values()), labels) if cases else 1.0
    return FoldTemperature(weights_sha256=weights_sha256, temperature=temperature, held_out=held_out)


def reliability(samples: Sequence[tuple[Sample, float]], labels: LabelScheme) -> Reliability:
    """Calibration figures of cases, each with the temperature that divides its logits."""
    measured = [_reliability(sample, temperature, labels) for sample, temperature in samples]
    ece, brier, nll = ([values[n] for values in measured] for n in range(3))
    return Reliability(ece=aggregate(ece), brier=aggregate(brier), nll=aggregate(nll))


def _slope(sample: Sample, inverse: float, labels: LabelScheme) -> float:
    """Derivative of a case's mean negative log-likelihood by the inverse temperature; it never falls."""
    logits, truth, weights = sample
    if labels.has_regions:
        change = ((torch.sigmoid(logits * inverse) - truth) * logits).sum(1)
    else:
        expected = (torch.softmax(logits * inverse, dim=1) * logits).sum(1)
        change = expected - logits.gather(1, truth[:, None])[:, 0]
    return float(change.double() @ weights.double())


def _reliability(sample: Sample, temperature: float, labels: LabelScheme) -> tuple[float, float, float]:
    """ECE, Brier score and negative log-likelihood of one case."""
    logits, truth, weights = sample.logits / temperature, sample.truth, sample.weights.double()
    if labels.has_regions:
        found = torch.sigmoid(logits)
        losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").sum(1)
        errors, inside = (found - truth).square(), truth > 0.5
        parts = [_bins(found[:, n], inside[:, n], errors[:, n], weights) for n in range(found.shape[1])]
    else:
        found = torch.softmax(logits, dim=1)
        losses = torch.nn.functional.cross_entropy(logits, truth, reduction="none")
        errors = (found - torch.nn.functional.one_hot(truth, found.shape[1])).square().sum(1)
        sure, answer = found.max(1)
        parts = [_bins(sure, answer == truth, errors, weights)]
    ece = [expected_calibration_error(bins) or 0.0 for bins in parts]
    brier = [brier_score(bins) or 0.0 for bins in parts]
    return sum(ece) / len(parts), sum(brier) / len(parts), float(losses.double() @ weights)


def _bins(confidence: Tensor, true: Tensor, errors: Tensor, weights: Tensor) -> CalibrationBins:
    total = float(errors.double() @ weights)
    return count_bins(confidence.double().numpy(), true.numpy(), total, weights.numpy())
