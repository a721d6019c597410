"""Probabilities of several configurations for a case in, counts or segmentations of every ensemble of them out.

Every subset of the configurations is a candidate: its probabilities are averaged, decided and counted. All of
them are counted in one pass over the slabs of a case, so each configuration's probabilities are read once, and
no averaged volume is ever kept, nor a segmentation unless an objective needs it (nnU-Net writes a folder of files for
every pair).
"""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from autoseg.inference.export import Probabilities, mean_to_labels, slabs
from autoseg.metrics.overlap import Matrix, confusion_matrix
from autoseg.records.labels import LabelScheme

Members = tuple[str, ...]
ReadRows = Callable[[slice], Probabilities]
Classes = npt.NDArray[np.int16]


def subsets(configurations: Sequence[str]) -> list[Members]:
    """All non-empty subsets, single configurations first."""
    sizes = range(1, len(configurations) + 1)
    return [members for size in sizes for members in itertools.combinations(configurations, size)]


def count_ensembles(
    readers: Mapping[str, ReadRows],
    shape: Sequence[int],
    reference: npt.NDArray[np.integer],
    labels: LabelScheme,
    segmentations: dict[Members, Classes] | None = None,
) -> dict[Members, Matrix]:
    """Confusion counts of every subset of the configurations, inside the crop box of one case.

    Args:
        readers: configuration -> function that gives its probabilities `H rows y x` for rows along z.
        shape: of the probabilities, `H z y x`.
        reference: internal class numbers `z y x` in the same box.
        labels: scheme of the heads.
        segmentations: filled with every subset's class numbers `z y x`, where given; that is two bytes a voxel and
            subset for the one case.

    Returns:
        Subset -> `num_classes x num_classes` counts, rows reference, columns prediction.
    """
    candidates = subsets(list(readers))
    size = labels.num_classes
    counts = {members: np.zeros((size, size), dtype=np.int64) for members in candidates}
    if segmentations is not None:
        segmentations.update({members: np.empty(reference.shape, dtype=np.int16) for members in candidates})
    for rows in slabs(shape):
        slab = {name: torch.from_numpy(np.ascontiguousarray(read(rows))) for name, read in readers.items()}
        for members in candidates:
            found = mean_to_labels([slab[name] for name in members], labels).numpy()
            counts[members] += confusion_matrix(found, reference[rows], labels)
            if segmentations is not None:
                segmentations[members][rows] = found
    return counts
