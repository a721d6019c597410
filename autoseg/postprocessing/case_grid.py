"""A case's image files and how it was turned and cropped in, what features need of it out."""

from pathlib import Path
from typing import Any

import numpy.typing as npt

from autoseg.datasets.pairs import read_case_image
from autoseg.postprocessing.features import CaseGrid
from autoseg.postprocessing.intensity_features import intensity_scales
from autoseg.records.dataset import Case
from autoseg.records.plan import Plan
from autoseg.records.results import PreprocessedCase
from autoseg.spatial.cropping import crop
from autoseg.spatial.orientation import Turn, turn


def read_case_grid(root: Path, case: Case, meta: PreprocessedCase, plan: Plan, configuration: str) -> CaseGrid:
    """Image, spacing and intensity scales of a case on its crop box.

    Args:
        root: folder that the case's paths are relative to.
        case: whose image is read.
        meta: turn and crop.
        plan: tells channels and the dataset's intensities.
        configuration: whose normalisation decides the scale of each channel.

    Raises:
        DataError: a file is missing or faulty.
    """
    return grid_of_image(read_case_image(root, case, len(plan.channel_names)).array, meta, plan, configuration)


def grid_of_image(values: npt.NDArray[Any], meta: PreprocessedCase, plan: Plan, configuration: str) -> CaseGrid:
    """The same of an image `C Z Y X` that was read already, in the file's voxel order."""
    image = crop(turn(values, Turn(meta.axes, meta.flips)), meta.crop)
    schemes = plan.configurations[configuration].normalization  # type: ignore[index]
    known = [plan.intensities.get(str(channel)) for channel in range(len(schemes))]
    return CaseGrid(
        image=image,
        scales=intensity_scales(image, schemes, known),
        spacing_mm=meta.spacing_before_mm,
        planar=meta.geometry.planar,
    )
