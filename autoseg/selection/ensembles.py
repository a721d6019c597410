"""Probabilities of several configurations for a case in, confusion counts of every ensemble of them out.

Every subset of the configurations is a candidate: its probabilities are averaged, decided and counted. All of
them are counted in one pass over the slabs of a case, so each configuration's probabilities are read once, and
no averaged volume or segmentation is ever written (nnU-Net writes a folder of files for every pair).

The best candidate has the highest mean over cases of the mean foreground Dice. Among those within 1e-4 of it,
which is far below what cases scatter, the one with the fewest configurations is taken: it predicts faster.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from autoseg.inference.export import Probabilities, decide_mean, slabs
from autoseg.metrics.build import case_mean, scores_from_matrix
from autoseg.metrics.overlap import Matrix, confusion_matrix
from autoseg.metrics.statistics import aggregate
from autoseg.records.labels import LabelScheme
from autoseg.records.results import Candidate, Score

Members = tuple[str, ...]
ReadRows = Callable[[slice], Probabilities]

TIE = 1e-4


def subsets(configurations: Sequence[str]) -> list[Members]:
    """All non-empty subsets, single configurations first."""
    sizes = range(1, len(configurations) + 1)
    return [members for size in sizes for members in itertools.combinations(configurations, size)]


def count_ensembles(
    readers: Mapping[str, ReadRows],
    shape: Sequence[int],
    reference: npt.NDArray[np.integer],
    labels: LabelScheme,
) -> dict[Members, Matrix]:
    """Confusion counts of every subset of the configurations, inside the crop box of one case.

    Args:
        readers: configuration -> function that gives its probabilities `H rows y x` for rows along z.
        shape: of the probabilities, `H z y x`.
        reference: internal class numbers `z y x` in the same box.
        labels: scheme of the heads.

    Returns:
        Subset -> `num_classes x num_classes` counts, rows reference, columns prediction.
    """
    candidates = subsets(list(readers))
    size = labels.num_classes
    counts = {members: np.zeros((size, size), dtype=np.int64) for members in candidates}
    for rows in slabs(shape):
        slab = {name: torch.from_numpy(np.ascontiguousarray(read(rows))) for name, read in readers.items()}
        for members in candidates:
            found = decide_mean([slab[name] for name in members], labels).numpy()
            counts[members] += confusion_matrix(found, reference[rows], labels)
    return counts


def rank(
    counts: Mapping[str, Mapping[Members, Matrix]], labels: LabelScheme, voxel_volumes_mm3: Mapping[str, float]
) -> tuple[Candidate, ...]:
    """All candidates with their scores over the cases, the one to use first.

    Args:
        counts: case id -> subset -> counts over the whole image.
        labels: scheme with the targets.
        voxel_volumes_mm3: case id -> volume of a voxel.
    """
    cases = sorted(counts)
    candidates = []
    for members in counts[cases[0]]:
        scores = [scores_from_matrix(counts[case][members], labels, voxel_volumes_mm3[case]) for case in cases]
        candidates.append(_candidate(members, scores, labels))
    candidates.sort(key=lambda c: -_mean(c))
    best = min(
        (c for c in candidates if _mean(c) >= _mean(candidates[0]) - TIE),
        key=lambda c: (len(c.configurations), -_mean(c)),
    )
    return (best, *(c for c in candidates if c is not best))


def _candidate(members: Members, scores: Sequence[Mapping[str, Score]], labels: LabelScheme) -> Candidate:
    return Candidate(
        configurations=members,
        dice=aggregate([case_mean(case) for case in scores]),
        targets={t.name: aggregate([case[t.name].dice for case in scores]) for t in labels.targets},
    )


def _mean(candidate: Candidate) -> float:
    """Mean Dice; a candidate that is defined in no case comes last."""
    return -1.0 if candidate.dice.mean is None else candidate.dice.mean
