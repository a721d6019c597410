"""Probabilities that are too many to hold at once in, rows of them along z one after another out.

With 100 classes the probabilities of a whole-body CT are tens of GiB, and nothing needs them all at a time: labels,
candidates and features are made from a slab of rows of all heads. So whoever looks at probabilities is given a
`ProbabilityReader`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from autoseg.inference.export import (
    Disagreement,
    Labels,
    Probabilities,
    mean_probabilities,
    mean_to_labels,
    slabs,
    uncrop,
)
from autoseg.records.labels import LabelScheme
from autoseg.records.results import PreprocessedCase
from autoseg.storage.arrays import array_shape, read_array


@dataclass(frozen=True)
class ProbabilityReader:
    """Probabilities `H z y x` on the crop box of the turned grid, of which rows along z are read when asked for."""

    shape: tuple[int, ...]
    """`H z y x`."""
    read: Callable[[slice], Probabilities]
    """Rows along z in, `H n y x` out; it may be called again."""

    def slabs(self) -> Iterator[tuple[slice, Probabilities]]:
        """All rows in order, a bounded number of values at a time."""
        for rows in slabs(self.shape):
            yield rows, self.read(rows)


class FoldPrediction(NamedTuple):
    """What one fold model predicts of a case."""

    probabilities: ProbabilityReader
    disagreement: Disagreement | None
    """Of its mirrorings, `z y x` uint8 on the crop box, 255 for 1; None: it does not mirror."""


def in_file(path: Path) -> ProbabilityReader:
    """Read what `store.probability_writer` wrote to `path`; raises DataError when it is not readable."""
    num_heads, z, y, x = array_shape(path)
    whole = (slice(0, num_heads), slice(0, y), slice(0, x))
    return ProbabilityReader((num_heads, z, y, x), lambda rows: read_array(path, (whole[0], rows, *whole[1:])))


def mean_reader(members: Sequence[ProbabilityReader]) -> ProbabilityReader:
    """The mean of several of one shape, rounded as probabilities are stored (`mean_probabilities`)."""
    if len(members) == 1:
        return members[0]
    return ProbabilityReader(
        members[0].shape, lambda rows: mean_probabilities([member.read(rows) for member in members])
    )


def labels_from_probabilities(
    members: Sequence[ProbabilityReader], meta: PreprocessedCase, labels: LabelScheme
) -> Labels:
    """Labels of the image file's own grid from the mean of one or more probability volumes.

    Args:
        members: one a configuration.
        meta: of any of the configurations (they share the crop and the turn).
        labels: scheme of the heads.

    Returns:
        `Z Y X` int16 internal class numbers on the grid of `meta.geometry`.
    """
    return uncrop(classes_from_probabilities(members, labels), meta)


def classes_from_probabilities(members: Sequence[ProbabilityReader], labels: LabelScheme) -> Labels:
    """Internal class numbers `z y x`, still on the crop box, from the mean of probability volumes."""
    cropped = np.empty(members[0].shape[1:], dtype=np.int16)
    for rows in slabs(members[0].shape):
        read = [torch.from_numpy(member.read(rows)) for member in members]
        cropped[rows] = mean_to_labels(read, labels).numpy()
    return cropped
