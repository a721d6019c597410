"""Label maps of several raters in, one label map out, fused by SimpleITK.

A majority vote counts raters; STAPLE (Warfield et al. 2004; several labels: Rohlfing et al. 2003) weighs them by how
reliable it estimates each to be for each class, over the whole image. Voxels without a winner are returned as such, for
the caller to decide.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Classes = npt.NDArray[np.integer[Any]]
Mask = npt.NDArray[np.bool_]


def majority(raters: Sequence[Classes]) -> tuple[npt.NDArray[np.int16], Mask]:
    """What most raters say.

    Args:
        raters: class numbers from 0, `Z Y X` each; at least two.

    Returns:
        The class that more raters gave than any other, and where there is none (a tie; the class is 0 there).
    """
    import SimpleITK

    images, undecided = _to_images(raters)
    return _decided(SimpleITK.GetArrayFromImage(SimpleITK.LabelVoting(images, undecided)), undecided)


def staple(raters: Sequence[Classes]) -> tuple[npt.NDArray[np.int16], Mask, npt.NDArray[np.float64]]:
    """What is most probably true, each rater weighed by its estimated reliability.

    Args:
        raters: as for `majority`.

    Returns:
        The most probable class, where two are equally probable (the class is 0 there), and the estimated probability
        that a rater (rows) gives a class (columns) where it is true. Of one class it is STAPLE's at one half.
    """
    import SimpleITK

    images, undecided = _to_images(raters)
    fusion = SimpleITK.MultiLabelSTAPLEImageFilter()
    fusion.SetLabelForUndecidedPixels(undecided)
    fused, ties = _decided(SimpleITK.GetArrayFromImage(fusion.Execute(images)), undecided)
    size = undecided  # classes 0 ... undecided - 1
    # Rows of a confusion matrix: the class given (the last one: none), columns: the true class.
    matrices = [np.reshape(fusion.GetConfusionMatrix(k), (-1, size)) for k in range(len(raters))]
    return fused, ties, np.stack([np.diagonal(matrix[:size]) for matrix in matrices])


def _to_images(raters: Sequence[Classes]) -> tuple[list[Any], int]:
    """SimpleITK images, and the label that stands for no winner: the first one that no rater gave."""
    import SimpleITK

    undecided = max(int(rater.max()) for rater in raters) + 1
    kind = np.uint8 if undecided <= np.iinfo(np.uint8).max else np.uint16
    return [SimpleITK.GetImageFromArray(np.ascontiguousarray(rater, dtype=kind)) for rater in raters], undecided


def _decided(fused: npt.NDArray[Any], undecided: int) -> tuple[npt.NDArray[np.int16], Mask]:
    ties: Mask = fused == undecided
    return np.where(ties, 0, fused).astype(np.int16), ties
