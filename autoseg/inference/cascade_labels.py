"""A previous stage's labels on the image file's grid in, the same on the grid of the stage after it out.

So nnU-Net feeds its cascades when they predict; our own bring probabilities over instead
(`export.previous_stage_labels`), which keeps thin structures.
"""

import numpy as np
import torch

from autoseg.inference.export import Labels
from autoseg.records.results import PreprocessedCase
from autoseg.spatial.cropping import crop
from autoseg.spatial.labels import resample_labels
from autoseg.spatial.orientation import Turn, turn
from autoseg.spatial.resampling import separate_axis


def native_labels_on_grid(labels: Labels, fine: PreprocessedCase) -> Labels:
    """Turn, crop and resample labels as the case's image was.

    Args:
        labels: `Z Y X` internal class numbers on the grid of the image file.
        fine: how the case came onto the next stage's grid.

    Returns:
        `Z Y X` int16 of shape `fine.shape`.
    """
    cropped = np.ascontiguousarray(crop(turn(labels, Turn(fine.axes, fine.flips)), fine.crop))
    axis = separate_axis(fine.spacing_before_mm, fine.spacing_mm)
    resampled: Labels = resample_labels(torch.from_numpy(cropped), fine.shape, axis).numpy()
    return resampled
